"""A run against verified records: worked figures, matching, malformed gold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support_audit import LOCAL_RECOLOR, make_record, write_run
from tagmoe.annotate.audit.gold import Gold, GoldRecord, write_gold
from tagmoe.annotate.audit.queues import Ranking
from tagmoe.annotate.audit.reading import load_columns
from tagmoe.annotate.audit.scoring import score_gold
from tagmoe.annotate.audit.statistics import wilson
from tagmoe.annotate.audit.verified import match_gold
from tagmoe.schema import ConfigError, DataError, Run, make_uid
from tagmoe.schema.configs.audit import AuditConfig

GLOBAL = ("global editing", "attribute editing", "identity preservation")


def gold_file(path: Path, lines: list[dict]) -> Gold:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return Gold.load(path)


def line(row: int, tags=LOCAL_RECOLOR, **known) -> dict:
    return {"corpus": "made", "id": f"r{row}", "tags": list(tags), **known}


def test_figures_of_a_small_run(tmp_path: Path):
    """Ten records, all tagged local; gold says two of them are global."""
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(i, probs={}) for i in range(10)])))
    gold = gold_file(tmp_path / "g.jsonl", [line(i, GLOBAL if i < 2 else LOCAL_RECOLOR) for i in range(10)])
    report = score_gold(columns, match_gold(columns, gold), [], config=AuditConfig())
    assert (report.records, report.unmatched) == (10, 0)
    tags = {tag.name: tag for tag in report.tags}
    local, globally = tags["local editing"], tags["global editing"]
    assert (local.true_positive, local.false_positive, local.false_negative, local.true_negative) == (8, 2, 0, 0)
    assert local.precision == wilson(8, 10)
    assert local.f1.value == pytest.approx(16 / 18)
    assert (globally.recall.value, globally.precision.value) == (0, None)
    assert report.scope_accuracy == wilson(8, 10)
    assert report.exact_match == wilson(8, 10)
    tp, fp, fn = 8 * 5 + 2 * 2, 2 * 3, 2 * 1
    assert report.micro_f1.value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    used = [t.f1.value for t in report.tags if t.f1.value is not None]
    assert report.macro_f1.value == pytest.approx(np.mean(used))
    assert report.macro_f1.low < report.macro_f1.value <= report.macro_f1.high
    # every answer states 0.9 or 0.1; per record 18 answers
    gap = abs((tp) / (tp + fp) - 0.9) * (tp + fp) + abs(fn / (180 - tp - fp) - 0.1) * (180 - tp - fp)
    assert report.ece.value == pytest.approx(gap / 180, abs=1e-6)


def test_disputed_tags_are_left_out(tmp_path: Path):
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(0), make_record(1)])))
    without = [tag for tag in LOCAL_RECOLOR if tag != "style preservation"]
    gold = gold_file(tmp_path / "g.jsonl", [line(0, without, disputed=["style preservation"]), line(1, without)])
    report = score_gold(columns, match_gold(columns, gold), [], config=AuditConfig())
    style = next(tag for tag in report.tags if tag.name == "style preservation")
    assert (style.false_positive, style.precision.n) == (1, 1)
    assert report.exact_match.value == 0.5


def test_differences_from_gold_are_named(tmp_path: Path):
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(i) for i in range(3)])))
    gold = gold_file(tmp_path / "g.jsonl", [line(0), line(2, GLOBAL, disputed=["style preservation"])])
    scores, words = match_gold(columns, gold).differences(columns)
    assert scores[0] == 0
    assert np.isnan(scores[1])
    assert (scores[2], words[2]) == (3, "+local editing, -global editing, +background preservation")


def test_matching_by_uid_or_by_set_and_id(tmp_path: Path):
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(i) for i in range(4)])))
    lines = [
        {"uid": make_uid("made", "r0"), "tags": list(LOCAL_RECOLOR)},
        {"set": "made", "id": "r1", "tags": list(LOCAL_RECOLOR)},
        {"uid": make_uid("old", "r2"), "corpus": "made", "id": "r2", "tags": list(LOCAL_RECOLOR)},
        {"corpus": "elsewhere", "id": "r3", "tags": list(LOCAL_RECOLOR)},
    ]
    matched = match_gold(columns, gold_file(tmp_path / "g.jsonl", lines))
    assert matched.index.tolist() == [0, 1, 2]
    assert matched.unmatched == 1
    verified = matched.verified(columns)
    assert verified.seen.tolist() == [True, True, True, False]


def test_gold_that_matches_nothing_is_an_error(tmp_path: Path):
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(0)])))
    with pytest.raises(DataError, match=r"none of the 1 records of gold file g\.jsonl is in this run: .*\(made\)"):
        match_gold(columns, gold_file(tmp_path / "g.jsonl", [{"corpus": "x", "id": "y", "tags": []}]))
    with pytest.raises(DataError, match="none of the 0 records"):
        match_gold(columns, gold_file(tmp_path / "g.jsonl", []))


def test_a_renamed_corpus_is_matched_by_ids_that_are_unique(tmp_path: Path):
    records = [make_record(0), make_record(1), make_record(2, id="r1", corpus="other")]
    columns = load_columns(Run.open(write_run(tmp_path / "run", records)))
    lines = [
        {"corpus": "old", "id": f"r{i}", "uid": make_uid("old", f"r{i}"), "tags": list(LOCAL_RECOLOR)} for i in range(2)
    ]
    matched = match_gold(columns, gold_file(tmp_path / "g.jsonl", lines))
    assert matched.index.tolist() == [0]
    assert matched.unmatched == 1
    assert matched.notes == ("Gold was matched by id alone: it names corpus old, the run made, other.",)


def test_the_last_word_about_a_record_counts(tmp_path: Path):
    gold = gold_file(tmp_path / "g.jsonl", [line(0), line(0, GLOBAL)])
    assert [record.tags for record in gold.records] == [GLOBAL]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1 is no gold record"),
        ("[1]", "line 1 is no gold record"),
        ('{"id": "a"}', "tags"),
        ('{"tags": []}', "names no record"),
        ('{"id": 3, "tags": []}', "id"),
    ],
)
def test_malformed_gold_is_named(tmp_path: Path, text: str, said: str):
    (tmp_path / "g.jsonl").write_text(text, "utf-8")
    with pytest.raises(DataError, match=said):
        Gold.load(tmp_path / "g.jsonl")


def test_missing_gold_and_unknown_tags_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        Gold.load(tmp_path / "none.jsonl")
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(0)])))
    with pytest.raises(ConfigError, match="unknown tag 'sparkle'"):
        match_gold(columns, gold_file(tmp_path / "g.jsonl", [line(0, ["sparkle"])]))


def test_written_gold_is_read_back(tmp_path: Path):
    records = (
        GoldRecord(
            corpus="c\u202e", id="<b>", tags=("local editing",), disputed=("object editing",), mismatch="no dog"
        ),
        GoldRecord(uid="0" * 32, tags=()),
    )
    write_gold(tmp_path / "g.jsonl", records)
    assert Gold.load(tmp_path / "g.jsonl").records == records


def test_queues_are_scored_against_real_mismatches(tmp_path: Path):
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(i) for i in range(6)])))
    lines = [line(i, mismatch="no" if i < 2 else None, mismatch_disputed=i == 5) for i in range(6)]
    matched = match_gold(columns, gold_file(tmp_path / "g.jsonl", lines))
    scores = np.array([9, 1, 2, 3, np.nan, 99], np.float32)
    ranking = Ranking("noop", "", "", 0.5, scores, str)
    found = score_gold(columns, matched, [ranking], config=AuditConfig()).queues["noop"]
    assert found.value == 0.5, "9 beats 2 and 3, 1 beats neither; the undefined and the doubtful one are left out"


def test_a_queue_that_ranks_nothing_gets_no_figure(tmp_path: Path):
    columns = load_columns(Run.open(write_run(tmp_path / "run", [make_record(i) for i in range(6)])))
    lines = [line(i) | ({"mismatch": "no dog"} if i < 2 else {}) for i in range(5)]
    matched = match_gold(columns, gold_file(tmp_path / "g.jsonl", lines))
    flat = np.array([0, 0, 0, 0, 0, 7], np.float32)
    ranking = Ranking("noop", "", "", 0.5, flat, str)
    assert score_gold(columns, matched, [ranking], config=AuditConfig()).queues == {}, (
        "all verified ones score the same"
    )
