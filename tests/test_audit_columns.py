"""Columns say the same as the records they were read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_audit import LOCAL_RECOLOR, TAXONOMY, make_evidence, make_image, make_record, write_run
from tagmoe.annotate.audit import frequencies
from tagmoe.annotate.audit.columns import SOURCE, TARGET, rowwise
from tagmoe.annotate.audit.details import TEXT_CHARS, read_details
from tagmoe.annotate.audit.reading import load_columns, text_key
from tagmoe.schema import DataError, Reject, Run

GENERATION = ("image generation",)


def test_columns_agree_with_records(tmp_path: Path):
    records = [
        make_record(
            0, probs={"local editing": 0.55}, warnings=("low_confidence_0.55", "empty_text"), extra={"split": "test"}
        ),
        make_record(3, GENERATION, task="generation", images=(), evidence=None),
        make_record(
            7, images=(make_image("source", phash=5), make_image("ref1"), make_image("target", phash=(1 << 64) - 1))
        ),
    ]
    run = Run.open(write_run(tmp_path / "run", records))
    columns = load_columns(run)
    assert len(columns) == 3
    assert columns.row.tolist() == [0, 3, 7]
    assert columns.id.to_pylist() == [r.id for r in records]
    assert columns.task.tolist() == ["edit", "generation", "edit"]
    for index, record in enumerate(run.annotations()):
        assert tuple(np.flatnonzero(columns.tags[index])) == record.tag_ids
        assert columns.names(index) == list(TAXONOMY.names(record.tag_ids))
        stated = [p for p in record.tag_probs if p is not None]
        assert np.count_nonzero(~np.isnan(columns.probs[index])) == len(stated)
    assert columns.confidence()[0] == pytest.approx(0.55)
    assert np.isnan(columns.confidence()[1])
    assert columns.measured.tolist() == [True, False, True]
    assert columns.measure("changed_fraction")[0] == pytest.approx(0.1)
    assert columns.warned("low_confidence").tolist() == [True, False, False]
    assert columns.warning_value[0] == pytest.approx(0.55)
    assert columns.split.tolist() == ["test", "", ""]
    assert [columns.pictures.phash[i] for i in columns.picture_of(SOURCE)[[2]]] == [5]
    assert columns.pictures.phash[columns.picture_of(TARGET)[2]] == (1 << 64) - 1
    assert columns.picture_of(TARGET)[1] == -1
    assert columns.masks()[1] == 1 << 17


def test_a_run_of_several_parts_keeps_positions(tmp_path: Path):
    records = [make_record(row, warnings=("empty_text",) if row > 16383 else ()) for row in (1, 16383, 16384, 40000)]
    columns = load_columns(Run.open(write_run(tmp_path / "run", records)))
    assert columns.row.tolist() == [1, 16383, 16384, 40000]
    assert columns.warned("empty_text").tolist() == [False, False, True, True]
    assert columns.pictures.record.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_empty_run_has_empty_columns(tmp_path: Path):
    run = Run.open(
        write_run(tmp_path / "run", [], [Reject(row=0, id="x", stage="read", reason="bad_record", detail="")])
    )
    columns = load_columns(run)
    assert len(columns) == 0
    assert columns.tags.shape == (0, 18)
    assert frequencies.coverage(run, columns).rejected == 1


def test_a_tag_id_outside_the_taxonomy_is_named(tmp_path: Path):
    run = Run.open(write_run(tmp_path / "run", [make_record(4).model_copy(update={"tag_ids": (0, 25)})]))
    with pytest.raises(DataError, match="row 4 carries tag id 25"):
        load_columns(run)


def test_text_key_sets_case_and_spaces_aside():
    assert text_key("Make  it\tRED ") == text_key("make it red")
    assert text_key("make it red") != text_key("make it blue")
    assert text_key("\ud800 lone") == text_key("\ud800 lone")


def test_frequencies_rules_and_combinations(tmp_path: Path):
    broken = ("local editing", "background editing", "background preservation")
    records = [make_record(0), make_record(1), make_record(2, broken), make_record(3, GENERATION)]
    columns = load_columns(Run.open(write_run(tmp_path / "run", records)))
    counts = {tag.name: tag.count for tag in frequencies.count_tags(columns)}
    assert counts["local editing"] == 3
    assert counts["background preservation"] == 3
    assert sum(tag.share for tag in frequencies.count_tags(columns) if tag.tier == "scope") == 1
    top, distinct = frequencies.count_combinations(columns)
    assert (top[0].count, tuple(top[0].tag_ids), distinct) == (2, TAXONOMY.ids(LOCAL_RECOLOR), 3)
    pairs = np.array(frequencies.count_pairs(columns))
    assert (pairs == pairs.T).all()
    assert pairs[0, 13] == 3
    rules = {rule.rule: rule for rule in frequencies.count_rules(columns, frequencies.broken_rules(columns))}
    assert rules["background_editing_excludes_background_preservation"].count == 1
    assert rules["background_editing_excludes_background_preservation"].examples[0].row == 2
    assert rules["generation_only_without_input"].count == 1
    assert rules["face_implies_identity"].count == 0


def test_broken_rules_agree_with_the_taxonomy_record_by_record(tmp_path: Path):
    rng = np.random.default_rng(0)
    names = list(TAXONOMY.by_name)
    records = [
        make_record(row, [n for n in names if rng.random() < 0.3], task=str(rng.choice(["edit", "generation"])))
        for row in range(150)
    ]
    columns = load_columns(Run.open(write_run(tmp_path / "run", records)))
    wanted: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        for violation in TAXONOMY.check(record.tag_ids, task=record.task):
            wanted.setdefault(violation.rule, []).append(index)
    got = {rule: found.tolist() for rule, found in frequencies.broken_rules(columns).items()}
    assert got == wanted


def test_details_are_cut_to_a_bounded_length(tmp_path: Path):
    long = make_record(0, instruction="\u00e4" * (1 << 20), evidence=make_evidence())
    run = Run.open(write_run(tmp_path / "run", [long, make_record(1)]))
    details = read_details(run, [1, 0, 0])
    assert sorted(details) == [0, 1]
    assert details[0].text == "\u00e4" * TEXT_CHARS
    assert details[0].length == 1 << 20
    assert details[1].text == "make thing 1 red"


@pytest.mark.parametrize("rows", [0, 1, 4096, 4097, 9000])
def test_rowwise_is_the_function_of_all_rows_at_once(rows: int):
    rng = np.random.default_rng(rows)
    a, b = rng.random((rows, 3)), rng.random(rows)
    largest: list[int] = []

    def reckon(some: np.ndarray, weight: np.ndarray) -> np.ndarray:
        largest.append(len(some))
        return some.sum(axis=1) * weight

    assert np.array_equal(rowwise(reckon, a, b), a.sum(axis=1) * b)
    assert max(largest) <= 4096
