from __future__ import annotations

from collections.abc import Sequence

import pytest
from support_vlm import TAXONOMY, record
from tagmoe.annotate.base import Failure, Labels, Prepared, Provenance
from tagmoe.annotate.vlm import EscalatingAnnotator
from tagmoe.annotate.vlm.escalate import confidence


def labels(*, p: float | None, ids: tuple[int, ...] = (0,)) -> Labels:
    probs = (1.0, p, *(None,) * (TAXONOMY.size - 2))
    return Labels(ids, probs, probs, warnings=("low_confidence_0.50",) if p == 0.5 else ())


class Fixed:
    """Answers by row; remembers what it was shown."""

    embedded = True
    parallel_batches = 2

    def __init__(self, name: str, answers: dict[int, Labels | Failure], *, max_pixels: int, sees: bool = True) -> None:
        self.provenance = Provenance(f"{name}@1", model=name, prompt_version=f"p-{name}", settings=f"s-{name}")
        self.answers = answers
        self.max_pixels = max_pixels
        self.sees_pixels = sees
        self.batch_size = 4 if sees else 100
        self.shown: list[Prepared] = []
        self.closed = False

    def annotate(self, batch: Sequence[Prepared]) -> Sequence[Labels | Failure]:
        self.shown += batch
        return [self.answers[item.pair.row] for item in batch]

    def close(self) -> None:
        self.closed = True


def test_only_unsure_and_failed_records_reach_the_second_annotator():
    first = Fixed(
        "cheap",
        {0: labels(p=0.95), 1: labels(p=0.3), 2: Failure("annotator_failed", "x"), 3: labels(p=0.1), 4: labels(p=0.8)},
        max_pixels=100,
        sees=False,
    )
    dear = labels(p=None, ids=(1,))
    second = Fixed("dear", {1: dear, 2: Failure("rule_violation", "y")}, max_pixels=10**6)
    both = EscalatingAnnotator(first, second, below=0.8)
    results = both.annotate([record(row) for row in range(5)])
    assert [item.pair.row for item in second.shown] == [1, 2]
    assert [getattr(result, "tag_ids", None) for result in results] == [(0,), (1,), None, (0,), (0,)]
    assert results[1].warnings == ("escalated_0.70",)  # type: ignore[union-attr]
    assert results[2] == Failure("rule_violation", "y")
    both.close()
    assert first.closed
    assert second.closed


def test_each_annotator_gets_pictures_within_its_own_bound():
    first = Fixed("cheap", {0: labels(p=0.5)}, max_pixels=400)
    second = Fixed("dear", {0: labels(p=0.9)}, max_pixels=10**6)
    both = EscalatingAnnotator(first, second, below=0.8)
    both.annotate([record(0, size=(40, 32))])
    assert all(picture.width * picture.height <= 400 for picture in first.shown[0].pixels)
    assert [picture.size for picture in second.shown[0].pixels] == [(40, 32), (40, 32)]


def test_it_presents_itself_as_both():
    blind = Fixed("cheap", {}, max_pixels=10**9, sees=False)
    both = EscalatingAnnotator(blind, Fixed("dear", {}, max_pixels=5000), below=0.8)
    assert (both.sees_pixels, both.max_pixels, both.embedded, both.parallel_batches) == (True, 5000, False, 2)
    assert both.provenance.annotator == "cheap@1>dear@1"
    assert both.provenance.settings == '{"below":0.8,"first":"s-cheap","second":"s-dear"}'
    assert both.provenance != EscalatingAnnotator(blind, blind, below=0.7).provenance


@pytest.mark.parametrize(("p", "expected"), [(0.3, 0.7), (0.95, 0.95), (None, 1.0)])
def test_confidence_is_that_of_the_least_certain_decision(p: float | None, expected: float):
    assert confidence(labels(p=p)) == pytest.approx(expected)


def test_no_probabilities_at_all_count_as_unsure():
    nothing = Labels((0,), (None,) * 18, (None,) * 18)
    assert confidence(nothing) == 0.0
    assert confidence(Failure("annotator_failed", "")) == 0.0
