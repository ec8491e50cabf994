"""Records, parts and run.json: round trips, deterministic bytes, and refusals that say what is wrong."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tagmoe.schema import Annotation, CorpusSpec, DataError, ImageInfo, ImageRef, Pair, Reject, Run, RunInfo, make_uid
from tagmoe.schema.arrow import ANNOTATIONS, REJECTS, clean_text, read_annotations, read_rejects, write_part
from tagmoe.schema.reasons import REASONS
from tagmoe.schema.runs import PartInfo, hash_part, part_name, save_run_info

text = st.text(max_size=40).map(clean_text)
probability = st.none() | st.floats(0, 1, width=32)
scalar = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text
annotations = st.builds(
    Annotation,
    corpus=text,
    row=st.integers(0, 2**40),
    uid=st.just("0" * 32),
    id=text.filter(bool),
    task=st.sampled_from(["edit", "generation", "customization"]),
    instruction=text,
    scope=st.just("local editing"),
    types=st.just(("object editing",)),
    preservation=st.just(()),
    tag_ids=st.just((0, 6)),
    tag_probs=st.lists(probability, min_size=18, max_size=18).map(tuple),
    tag_probs_raw=st.lists(probability, min_size=18, max_size=18).map(tuple),
    calibration=text,
    annotator=text,
    model=text,
    model_revision=text,
    prompt_version=text,
    taxonomy=st.just("tagmoe-18@1"),
    evidence=st.none(),
    images=st.lists(
        st.builds(
            ImageInfo,
            role=st.just("source"),
            uri=text,
            member=st.none() | text,
            row=st.none() | st.integers(0, 2**40),
            column=st.none() | text,
            sha256=st.just("a" * 64),
            phash=st.integers(0, 2**64 - 1),
            width=st.integers(1, 2**31 - 1),
            height=st.integers(1, 2**31 - 1),
            format=st.just("jpeg"),
        ),
        max_size=2,
    ).map(tuple),
    warnings=st.lists(text, max_size=3).map(tuple),
    extra=st.dictionaries(text, scalar | st.lists(scalar, max_size=3), max_size=4),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(annotations, max_size=5))
def test_annotations_survive_a_part_and_bytes_repeat(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("part")
    write_part(folder / "a.parquet", records, schema=ANNOTATIONS)
    write_part(folder / "b.parquet", records, schema=ANNOTATIONS)
    assert list(read_annotations(folder / "a.parquet")) == records
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Reject,
            row=st.integers(0, 2**40),
            id=text,
            stage=st.just("read"),
            reason=st.sampled_from(REASONS),
            detail=text,
        )
    )
)
def test_rejects_survive_a_part(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("part") / "r.parquet"
    write_part(path, records, schema=REJECTS)
    assert list(read_rejects(path)) == records


def test_uid_is_length_prefixed_sha256():
    expected = hashlib.sha256((2).to_bytes(8, "big") + b"ab" + (1).to_bytes(8, "big") + b"c").hexdigest()[:32]
    assert make_uid("ab", "c") == expected
    assert make_uid("a", "bc") != expected
    assert len(make_uid("\ud800", "x")) == 32


def test_pair_refuses_repeated_roles_and_unknown_fields():
    image = ImageRef(role="source", uri="a.jpg")
    with pytest.raises(ValidationError, match="roles repeat"):
        Pair(corpus="c", row=0, id="1", task="edit", instruction="x", images=(image, image))
    with pytest.raises(ValidationError):
        Pair(corpus="c", row=0, id="1", task="edit", instruction="x", colour="red")  # pyright: ignore
    with pytest.raises(ValidationError):
        ImageRef(role="sauce", uri="a.jpg")


def test_readers_ignore_unknown_columns_and_refuse_other_major_versions(tmp_path: Path):
    write_part(
        tmp_path / "r.parquet", [Reject(row=1, id="a", stage="read", reason="bad_record", detail="d")], schema=REJECTS
    )
    table = pq.read_table(tmp_path / "r.parquet").append_column("later", pa.array([1]))
    pq.write_table(table, tmp_path / "later.parquet")
    assert len(list(read_rejects(tmp_path / "later.parquet"))) == 1
    pq.write_table(table.replace_schema_metadata({"tagmoe.format_version": "2.0"}), tmp_path / "v2.parquet")
    with pytest.raises(DataError, match=r"format version 2\.0"):
        list(read_rejects(tmp_path / "v2.parquet"))
    pq.write_table(table.drop_columns(["reason"]), tmp_path / "short.parquet")
    with pytest.raises(DataError, match="reason"):
        list(read_rejects(tmp_path / "short.parquet"))
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "r.parquet").read_bytes()[:-7])
    with pytest.raises(DataError, match="not a readable Parquet"):
        list(read_rejects(tmp_path / "torn.parquet"))


def make_run(root: Path, *, complete: bool) -> RunInfo:
    reject = Reject(row=0, id="a", stage="read", reason="bad_record", detail="d")
    write_part(root / "annotations" / part_name(0), [], schema=ANNOTATIONS)
    write_part(root / "rejects" / part_name(0), [reject], schema=REJECTS)
    info = RunInfo(
        complete=complete,
        taxonomy="tagmoe-18@1",
        annotator="local@1",
        corpus=CorpusSpec(uri="x"),
        corpus_name="x",
        fingerprint="f",
        rows=1,
        parts=[PartInfo(part=0, annotations=0, rejects=1, sha256=hash_part(root, 0))],
    )
    save_run_info(root, info)
    return info


def test_run_opens_only_when_complete(tmp_path: Path):
    make_run(tmp_path / "done", complete=True)
    run = Run.open(tmp_path / "done")
    assert (run.info.accepted, run.info.rejected) == (0, 1)
    assert [reject.reason for reject in run.rejects()] == ["bad_record"]
    assert list(run.annotations()) == []
    make_run(tmp_path / "half", complete=False)
    with pytest.raises(DataError, match="not finished"):
        Run.open(tmp_path / "half")
    assert Run.open(tmp_path / "half", allow_incomplete=True).info.rows == 1
    with pytest.raises(DataError, match="tagmoe annotate"):
        Run.open(tmp_path)
    (tmp_path / "half" / "run.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Run.open(tmp_path / "half")
