"""Thresholds held against figures, and runs held against each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support_audit import LOCAL_RECOLOR, TAXONOMY, make_record, write_run
from tagmoe.annotate.audit.build import Inputs, audit
from tagmoe.annotate.audit.drift import disagreement
from tagmoe.annotate.audit.gate import apply_gate, load_gate
from tagmoe.annotate.audit.gold import GoldRecord, write_gold
from tagmoe.annotate.audit.matching import match_runs
from tagmoe.annotate.audit.queues import QUEUES
from tagmoe.annotate.audit.reading import load_columns
from tagmoe.schema import ConfigError, DataError, Reject, Run
from tagmoe.schema.configs.audit import AuditConfig, Gate
from tagmoe.schema.report import Report, load_report

GLOBAL = ("global editing", "style transfer", "structure preservation", "identity preservation")
BROKEN = ("local editing", "background editing", "background preservation")
CONFIG = AuditConfig(second_readings=0, bootstrap=200)


def report_of(folder: Path, records, **known) -> Report:
    run = write_run(folder / "run", records, known.pop("rejects", ()))
    return audit(Inputs(run=run, **known), folder / "out", config=CONFIG, quiet=True)


def held(report: Report, **gate) -> list[str]:
    return apply_gate(Gate.model_validate(gate), report, source="g.toml").failures


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("gate")
    records = [make_record(i, GLOBAL if i % 4 == 0 else LOCAL_RECOLOR, probs={}) for i in range(20)]
    gold = [
        GoldRecord(corpus="made", id=f"r{i}", tags=LOCAL_RECOLOR if i != 1 else GLOBAL) for i in range(1, 16) if i % 4
    ]
    write_gold(folder / "gold.jsonl", gold)
    reject = Reject(row=20, id="bad", stage="decode", reason="truncated_image", detail="cut")
    return report_of(folder, records, rejects=[reject], gold=folder / "gold.jsonl")


def test_without_a_file_only_broken_rules_fail(report: Report, tmp_path: Path):
    assert report.gate.passed
    assert report.gate.source == "default"
    broken = report_of(tmp_path, [make_record(0), make_record(1, BROKEN)])
    assert not broken.gate.passed
    assert broken.gate.failures == ["broken rules is 1 (2 records), wanted at most 0"]


def test_each_failure_names_figure_threshold_and_records(report: Report):
    failures = held(
        report,
        overall={
            "max_reject_share": 0.01,
            "min_macro_f1": 0.99,
            "min_gold_records": 100,
            "max_flagged_share": {"noop": 0.0},
        },
        tags={"local editing": {"min_precision": 0.95, "min_records": 200, "max_share": 0.5, "min_share": 0.9}},
    )
    assert failures[0] == "reject share is 0.04762 (21 records), wanted at most 0.01"
    assert failures[1] == "gold records is 12 (12 records), wanted at least 100"
    assert any(f.startswith("macro F1 is 0.") and f.endswith("wanted at least 0.99") for f in failures)
    assert "local editing: precision is 0.9167 (12 records), wanted at least 0.95" in failures
    assert "local editing: gold records is 11 (11 records), wanted at least 200" in failures
    assert "local editing: share is 0.75 (20 records), wanted at most 0.5" in failures
    assert "local editing: share is 0.75 (20 records), wanted at least 0.9" in failures
    assert not any("flagged noop" in f for f in failures)


def test_thresholds_that_are_met_pass(report: Report):
    assert held(report, overall={"max_reject_share": 0.05, "min_scope_accuracy": 0.9, "max_leaks": 0}) == []
    assert held(report, tags={"local editing": {"min_precision": 0.9, "min_recall": 1.0}}) == []


def test_bound_holds_the_pessimistic_end(report: Report):
    wanted = {"tags": {"local editing": {"min_precision": 0.9}}}
    assert held(report, **wanted) == []
    assert held(report, compare="bound", **wanted) == [
        "local editing: precision is 0.6461 (12 records), wanted at least 0.9"
    ]


def test_a_figure_that_is_not_known_fails(report: Report):
    failures = held(report, overall={"min_alpha": 0.5, "max_flagged_share": {"disagreement": 0.1}})
    assert failures[0].startswith(
        "flagged disagreement is not known (0 records), wanted at most 0.1; give --gold or --against"
    )
    assert failures[1].startswith("mean alpha is not known")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tags."sparkle"]\nmin_f1 = 0.5', "unknown tag 'sparkle'"),
        ("[overall.max_flagged_share]\nnope = 0.1", r"unknown queues \['nope'\]"),
        ("[overall]\nmin_macro_f1 = 1.5", "overall.min_macro_f1"),
        ("[overall]\nmin_f1 = 0.5", "overall.min_f1 is not a setting"),
        ("overall = ", "is not TOML"),
    ],
)
def test_a_malformed_gate_is_named(tmp_path: Path, text: str, said: str):
    (tmp_path / "gate.toml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=said):
        load_gate(tmp_path / "gate.toml", taxonomy=TAXONOMY, queues=list(QUEUES))


def test_the_report_is_read_back_and_bound_to_its_run(report: Report, tmp_path: Path):
    (tmp_path / "report.json").write_text(report.model_dump_json(), "utf-8")
    assert load_report(tmp_path) == report
    assert load_report(tmp_path / "report.json").run_hash == report.run_hash != ""
    (tmp_path / "report.json").write_text(report.model_dump_json().replace('"1.1"', '"2.0"', 1), "utf-8")
    with pytest.raises(DataError, match=r"format version 2\.0"):
        load_report(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_report(tmp_path / "none")


def test_the_documented_schema_is_the_one_in_force(report: Report):
    """Written by: python -c "import json; from tagmoe.schema.report import Report;
    print(json.dumps(Report.model_json_schema(), indent=1))" > docs/report.schema.json"""
    documented = json.loads((Path(__file__).parents[1] / "docs/report.schema.json").read_text("utf-8"))
    assert documented == Report.model_json_schema()
    assert set(json.loads(report.model_dump_json())) == set(documented["properties"])


def test_drift_counts_flips_and_agreement(tmp_path: Path):
    old = [make_record(i) for i in range(10)]
    new = [make_record(i, GLOBAL if i < 2 else LOCAL_RECOLOR) for i in range(1, 12)]
    other = write_run(tmp_path / "old", old)
    drift = report_of(tmp_path, new, against=other).drift
    assert drift is not None
    assert (drift.matched, drift.only_here, drift.only_there, drift.changed) == (9, 2, 1, 1)
    assert [(f.before, f.after, f.count, f.examples[0].row) for f in drift.scope_flips] == [
        ("local editing", "global editing", 1, 1)
    ]
    tags = {tag.name: tag for tag in drift.tags}
    assert (tags["style transfer"].gained, tags["style transfer"].lost) == (1, 0)
    assert (tags["attribute editing"].gained, tags["attribute editing"].lost) == (0, 1)
    assert tags["identity preservation"].alpha.value is None, "every record has it in both runs: no variation"
    assert tags["style transfer"].alpha.value == pytest.approx(0.0, abs=1e-9)
    assert drift.mean_alpha is not None
    assert drift.mean_alpha < 1


def test_runs_without_a_common_record_are_refused(tmp_path: Path):
    other = write_run(tmp_path / "old", [make_record(0, corpus="elsewhere", id="other")])
    with pytest.raises(DataError, match=r"\(corpus elsewhere\) shares no record with this run \(corpus made\)"):
        report_of(tmp_path, [make_record(0)], against=other)


def test_a_renamed_corpus_is_compared_by_id_and_the_report_says_so(tmp_path: Path):
    old = [make_record(i, corpus="old-name", id=f"a{i}") for i in range(3)] + [make_record(9, corpus="x", id="a0")]
    report = report_of(tmp_path, [make_record(i, id=f"a{i}") for i in range(5)], against=write_run(tmp_path / "o", old))
    assert report.drift is not None
    assert (report.drift.matched, report.drift.only_here, report.drift.only_there) == (3, 2, 1)
    assert report.notes[0] == "The runs were matched by id alone: one names corpus made, the other old-name, x."


def test_two_sure_annotators_who_differ_come_first(tmp_path: Path):
    one = [make_record(0, probs={"local editing": 0.9}), make_record(1, probs={"local editing": 0.55}), make_record(2)]
    two = [make_record(i, GLOBAL, probs={}) for i in range(2)] + [make_record(2), make_record(9)]
    now = load_columns(Run.open(write_run(tmp_path / "a", one)))
    before = load_columns(Run.open(write_run(tmp_path / "b", two)))
    scores, words = disagreement(now, before, match_runs(now, before))
    assert scores[0] > scores[1] > scores[2] == 0
    assert "+local editing" in words[0]
    assert "-style transfer" in words[0]
    assert not np.isnan(scores).any()
