"""Records as they are read for writing: columns against `to_pylist`, KEY.json against the model that defines it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.schema import Annotation, DataError, ImageInfo
from tagmoe.schema.arrow import ANNOTATIONS, dump_json, write_part
from tagmoe.schema.evidence import Evidence
from tagmoe.schema.shards import ShardRecord
from tagmoe.shards import columns
from tagmoe.shards.pack import key_json
from tagmoe.shards.rows import RunRows

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.text("abc -_.é", max_size=8)
chances = st.none() | st.sampled_from([0.0, 0.5, 1.0, 0.03125, 0.00005, 0.99995]) | st.floats(0, 1, width=32)
measures = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.floats(-2, 2, width=32)
pictures = st.builds(
    ImageInfo,
    role=st.sampled_from(["source", "target", "ref0", "ref10"]),
    uri=texts,
    member=st.none() | texts,
    row=st.none() | st.integers(0, 2**62),
    column=st.none() | texts,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    phash=st.integers(0, 2**64 - 1),
    width=st.integers(1, 2**31 - 1),
    height=st.integers(1, 2**31 - 1),
    format=texts,
)
annotations = st.builds(
    Annotation,
    corpus=texts,
    row=st.integers(0, 2**62),
    uid=st.text("0123456789abcdef", min_size=32, max_size=32),
    id=texts,
    task=st.sampled_from(["edit", "generation", "customization"]),
    instruction=texts,
    scope=words,
    types=st.lists(words, max_size=3).map(tuple),
    preservation=st.lists(words, max_size=3).map(tuple),
    tag_ids=st.lists(st.integers(0, 63), min_size=1, max_size=4).map(tuple),
    tag_probs=st.lists(chances, max_size=6).map(tuple),
    tag_probs_raw=st.just(()),
    calibration=texts,
    annotator=texts,
    model=texts,
    model_revision=texts,
    prompt_version=texts,
    taxonomy=texts,
    evidence=st.none() | st.builds(Evidence, **dict.fromkeys(Evidence.model_fields, measures)),
    images=st.lists(pictures, max_size=3).map(tuple),
    warnings=st.lists(words, max_size=3).map(tuple),
    reasons=st.lists(texts, max_size=3).map(tuple),
    extra=st.dictionaries(texts, texts, max_size=2),
)


def reference(record: Annotation) -> ShardRecord:
    """KEY.json by its definition, one value after the other."""
    certainty = [p if p > 0.5 else 1 - p for p in record.tag_probs if p is not None]
    measured = record.evidence.model_dump() if record.evidence else {}
    return ShardRecord(
        **{name: getattr(record, name) for name in ShardRecord.model_fields if name in _SAME},
        split="val",
        group="g" * 32,
        signature="tgt-jpg",
        bucket="64x64",
        width=70,
        height=80,
        types=",".join(record.types),
        preservation=",".join(record.preservation),
        tags=",".join([name for name in (record.scope, ",".join(record.types), ",".join(record.preservation)) if name]),
        tag_ids=list(record.tag_ids),
        tag_probs=",".join("" if p is None else f"{p:.4f}" for p in record.tag_probs),
        confidence=round(min(certainty), 4) if certainty else -1.0,
        warnings=",".join(record.warnings),
        reasons=dump_json(list(record.reasons)),
        images=dump_json([image.model_dump() for image in record.images]),
        evidence=dump_json({name: None if v is None else round(v, 6) for name, v in measured.items()}),
        extra=dump_json(record.extra),
    )


_SAME = {"uid", "id", "corpus", "row", "task", "instruction", "scope", "calibration", "annotator", "model"}
_SAME |= {"model_revision", "prompt_version", "taxonomy"}


@given(st.lists(annotations, min_size=1, max_size=5), st.data())
@settings(max_examples=150, deadline=None)
def test_key_json_is_what_the_model_says(tmp_path_factory, records, data):
    path = tmp_path_factory.mktemp("run") / "part.parquet"
    write_part(path, records, schema=ANNOTATIONS)
    chosen = sorted(data.draw(st.sets(st.integers(0, len(records) - 1), min_size=1)))
    read = RunRows([path]).read(part=np.zeros(len(chosen), np.int32), offset=np.array(chosen, np.int32))
    found = [row for _, batch in read for row in batch]
    place = {"split": "val", "group": "g" * 32, "signature": "tgt-jpg", "bucket": "64x64", "size": (70, 80)}
    for row, number in zip(found, chosen, strict=True):
        assert key_json(row, **place) == reference(records[number]).model_dump_json().encode()


def record(number: int, **changes: object) -> Annotation:
    fields = dict.fromkeys(("corpus", "instruction", "calibration", *_SAME, "scope"), "")
    fields |= {"row": number, "uid": f"{number:032x}", "id": f"r{number}", "task": "edit", "tag_ids": (1,)}
    lists = dict.fromkeys(("types", "preservation", "tag_probs", "tag_probs_raw", "images", "warnings"), ())
    return Annotation.model_validate(fields | lists | {"evidence": None, "extra": {}} | changes)


def test_rows_of_several_row_groups_and_parts(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    write_part(paths[0], [record(n) for n in range(4500)], schema=ANNOTATIONS)
    write_part(paths[1], [record(9000 + n) for n in range(9)], schema=ANNOTATIONS)
    run = RunRows(paths)
    for first in ([0, 1, 2], [3, 4095, 4096, 4499], list(range(4000, 4200)), list(range(0, 4500, 7)), [4095]):
        part = np.array([0] * len(first) + [1, 1], np.int32)
        offset = np.array([*first, 0, 8], np.int32)
        found = [row.row for _, rows in run.read(part=part, offset=offset) for row in rows]
        assert found == [*first, 9000, 9008]
    assert run.one(part=1, offset=3).id == "r9003"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"uid": "../../../etc/passwd-------------"}, "uid '../../../etc/passwd"),
        ({"uid": "ABCDEF" * 5 + "00"}, "uid 'ABC"),
        ({"uid": "0" * 31}, "expected 32 hex digits"),
        ({"tag_ids": ()}, "has no tags"),
    ],
)
def test_values_that_no_run_holds_are_named(tmp_path, changes, named):
    write_part(tmp_path / "a", [record(0), record(1, **changes)], schema=ANNOTATIONS)
    with pytest.raises(DataError, match=named):
        RunRows([tmp_path / "a"]).one(part=0, offset=1)


@given(st.lists(st.none() | texts, max_size=9), st.integers(0, 9), st.integers(0, 9))
def test_texts_of_slices(values, a, b):
    column = pa.array(values, pa.string())[min(a, b) : max(a, b)]
    assert columns.optional_texts(column) == column.to_pylist()
    assert columns.texts(column) == [value or "" for value in column.to_pylist()]


@given(st.lists(st.none() | st.integers(-(2**62), 2**62), max_size=9), st.integers(0, 9), st.integers(0, 9))
def test_integers_of_slices(values, a, b):
    column = pa.array(values, pa.int64())[min(a, b) : max(a, b)]
    assert columns.optional_integers(column) == column.to_pylist()
    known = [value for value in column.to_pylist() if value is not None]
    assert columns.numbers(pa.array(known, pa.int64()), np.int64).tolist() == known


@given(st.lists(st.lists(texts, max_size=3), max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_lists_of_slices_and_back(values, a, b):
    column = pa.array(values, pa.list_(pa.string()))[min(a, b) : max(a, b)]
    bounds, items = columns.lists(column)
    found = columns.texts(items)
    assert [found[i:j] for i, j in pairwise(bounds)] == column.to_pylist()
    made = columns.list_column(np.diff(bounds), columns.text_column(found), pa.list_(pa.string()))
    made.validate(full=True)
    assert made.to_pylist() == column.to_pylist()


def test_a_null_list_is_refused():
    with pytest.raises(ValueError, match="1 of 2 lists are null"):
        columns.lists(pa.array([[1], None], pa.list_(pa.int32())))
