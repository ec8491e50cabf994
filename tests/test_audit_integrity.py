"""Pictures that are no longer the annotated ones: every one named, counted, and held against the gate."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support_audit import annotate_corpus, picture_corpus
from tagmoe.annotate.audit.build import Inputs, audit
from tagmoe.annotate.audit.exchange import Selection, export_tasks
from tagmoe.annotate.audit.integrity import check_pictures
from tagmoe.annotate.audit.reading import load_columns
from tagmoe.schema import CorpusSpec, Run
from tagmoe.schema.configs.audit import AuditConfig
from tagmoe.schema.report import PictureCheck, load_report
from tagmoe.shards.corpus import open_corpus

PAIRS = 40
FAST = {"second_readings": 0, "bootstrap": 100}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """A corpus of 40 pairs, annotated; then pictures 3, 17, 31 are re-encoded and picture 8 is deleted."""
    folder = tmp_path_factory.mktemp("changed")
    corpus = picture_corpus(folder / "corpus", PAIRS)
    run = annotate_corpus(corpus, folder / "run")
    for index in (3, 17, 31):
        path = corpus / f"images/{index}_target.png"
        Image.open(path).save(path, compress_level=1)
    (corpus / "images/8_source.png").unlink()
    return corpus, run


def check(made: tuple[Path, Path], out: Path, asked: str | int, *, seen: dict | None = None) -> PictureCheck:
    run = Run.open(made[1])
    config = AuditConfig.model_validate({**FAST, "check_pictures": asked})
    corpus = open_corpus(CorpusSpec(uri=str(made[0])))
    return check_pictures(run, load_columns(run), corpus, seen=seen or {}, config=config, out=out, quiet=True)


def listed(out: Path, found: PictureCheck) -> list[tuple[int, str, str]]:
    with (out / found.list_file).open(newline="") as stream:
        return [(int(line["row"]), line["role"], line["reason"]) for line in csv.DictReader(stream)]


ALL_FOUR = [
    (3, "target", "image_changed"),
    (8, "source", "missing_image"),
    (17, "target", "image_changed"),
    (31, "target", "image_changed"),
]


def test_all_names_every_picture_that_differs(made: tuple[Path, Path], tmp_path: Path):
    found = check(made, tmp_path, "all")
    assert (found.recorded, found.checked, found.changed, found.unreadable) == (80, 80, 3, 1)
    assert found.reasons == {"image_changed": 3, "missing_image": 1}
    assert listed(tmp_path, found) == [(f.row, f.role, f.reason) for f in found.faults] == ALL_FOUR
    assert (found.share.value, found.share.low, found.share.high, found.share.n) == (0.05, 0.05, 0.05, 80)


def test_a_draw_covers_all_with_wilsons_interval(made: tuple[Path, Path], tmp_path: Path):
    found = check(made, tmp_path, 30)
    assert found.checked == 30
    assert found.share.n == 30
    assert found.share.low is not None
    assert found.share.high is not None
    assert found.share.low <= 0.05 <= found.share.high
    assert found.share.value == (found.changed + found.unreadable) / 30
    assert {f.row for f in found.faults} <= {3, 8, 17, 31}
    assert check(made, tmp_path, 30) == found, "the draw is the same tomorrow"
    assert check(made, tmp_path, 10_000).share == check(made, tmp_path, "all").share


def test_shown_pictures_count_but_say_nothing_about_the_rest(made: tuple[Path, Path], tmp_path: Path):
    seen = {(3, "source"): "", (3, "target"): "image_changed: the file is not the one that was annotated"}
    found = check(made, tmp_path, "shown", seen=seen)
    assert (found.checked, found.changed) == (2, 1)
    assert found.share.value is None
    assert check(made, tmp_path, "shown") == PictureCheck(asked="shown", recorded=80)


def test_memory_keeps_a_few_names_and_the_list_all(made: tuple[Path, Path], tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tagmoe.annotate.audit.integrity._KEPT", 2)
    found = check(made, tmp_path, "all")
    assert len(found.faults) == 2
    assert len(listed(tmp_path, found)) == 4


def test_nothing_wrong_leaves_no_list(tmp_path: Path):
    corpus = picture_corpus(tmp_path / "corpus", 3)
    run = annotate_corpus(corpus, tmp_path / "run")
    found = check((corpus, run), tmp_path, "all")
    assert (found.checked, found.changed, found.unreadable, found.list_file) == (6, 0, 0, "")
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize(
    ("asked", "gate", "failures"),
    [
        ("all", "max_changed_pictures = 0", ["changed pictures is 4 (80 pictures), wanted at most 0"]),
        ("all", "max_changed_pictures = 4\nmax_changed_share = 0.05", []),
        ("all", "max_changed_share = 0.04", ["changed pictures, share is 0.05 (80 pictures), wanted at most 0.04"]),
        ("shown", "max_changed_share = 0.9", ["changed pictures, share is not known (0 pictures), wanted at most 0.9"]),
    ],
)
def test_the_gate_holds_changed_pictures(
    made: tuple[Path, Path], tmp_path: Path, asked: str, gate: str, failures: list[str]
):
    (tmp_path / "gate.toml").write_text(f"[overall]\n{gate}\n", "utf-8")
    config = AuditConfig.model_validate({**FAST, "check_pictures": asked, "max_pictured": 0})
    report = audit(Inputs(run=made[1], gate=tmp_path / "gate.toml"), tmp_path / "r", config=config, quiet=True)
    assert [failure.split(";")[0] for failure in report.gate.failures] == failures
    assert report.gate.passed == (not failures)
    assert load_report(tmp_path / "r") == report
    page = (tmp_path / "r/report.html").read_text("utf-8")
    assert (
        json.dumps(report.pictures.model_dump(mode="json"), separators=(",", ":")) in page if report.pictures else False
    )


def test_a_bound_is_held_against_the_worst_that_a_draw_allows(made: tuple[Path, Path], tmp_path: Path):
    (tmp_path / "gate.toml").write_text('compare = "bound"\n[overall]\nmax_changed_share = 0.06\n', "utf-8")
    for asked, passed in (("all", True), (30, False)):
        config = AuditConfig.model_validate({**FAST, "check_pictures": asked, "max_pictured": 0})
        report = audit(Inputs(run=made[1], gate=tmp_path / "gate.toml"), tmp_path / "r", config=config, quiet=True)
        assert report.gate.passed is passed


def test_without_its_corpus_nothing_was_checked_and_the_gate_fails(made: tuple[Path, Path], tmp_path: Path):
    run = annotate_corpus(picture_corpus(tmp_path / "corpus", 2), tmp_path / "run")
    (tmp_path / "corpus").rename(tmp_path / "gone")
    (tmp_path / "gate.toml").write_text("[overall]\nmax_changed_pictures = 0\n", "utf-8")
    report = audit(Inputs(run=run, gate=tmp_path / "gate.toml"), tmp_path / "r", config=AuditConfig(**FAST), quiet=True)
    assert report.pictures == PictureCheck(asked="1000", recorded=4)
    assert "changed pictures is not known (0 pictures)" in report.gate.failures[0]
    assert "--corpus" in report.gate.failures[0]


def test_a_changed_picture_is_not_handed_to_a_labeller(made: tuple[Path, Path], tmp_path: Path, capsys):
    export_tasks(made[1], tmp_path, selection=Selection(limit=5))
    tasks = json.loads((tmp_path / "tasks.json").read_text("utf-8"))
    shown = [{k for k in ("source", "target") if task["data"][k].startswith("data:")} for task in tasks]
    assert shown[3] == {"source"}
    assert all(kinds == {"source", "target"} for place, kinds in enumerate(shown) if place != 3)
    assert "row 3 target is left out: image_changed" in capsys.readouterr().err


def test_the_draw_is_even():
    from tagmoe.annotate.audit.integrity import _draw

    counts = np.zeros(200)
    for seed in range(300):
        counts += _draw(200, AuditConfig(seed=seed, check_pictures=50))
    assert counts.sum() == 300 * 50
    assert abs(counts[:100].sum() / counts.sum() - 0.5) < 0.02
