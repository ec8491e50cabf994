"""Repeated ids against a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tagmoe.shards.corpus.duplicates import repeated_rows


@given(st.lists(st.none() | st.sampled_from(["a", "b", "c", "", "row", "\ud800"]) | st.text(max_size=3)))
def test_agrees_with_a_set(ids: list[str | None]) -> None:
    seen: set[str] = set()
    expected = []
    for row, text in enumerate(ids):
        if text is not None and text in seen:
            expected.append(row)
        elif text is not None:
            seen.add(text)
    assert repeated_rows(ids).tolist() == expected


def test_many_rows() -> None:
    ids = [f"id-{i % 9_000}" for i in range(10_000)]
    assert repeated_rows(ids).tolist() == list(range(9_000, 10_000))
