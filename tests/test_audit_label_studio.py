"""Label Studio in and out: the format of its tasks and exports, votes, and malformed files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from support_audit import LOCAL_RECOLOR, TAXONOMY, annotate_corpus, picture_corpus
from tagmoe.annotate.audit.commands import register
from tagmoe.annotate.audit.gold import Gold
from tagmoe.annotate.audit.label_studio import MISSES, labelling_interface
from tagmoe.schema import ConfigError, DataError, make_uid
from typer.testing import CliRunner

FAST = ("--set", "second_readings=0", "--set", "bootstrap=100")


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    program = typer.Typer(pretty_exceptions_enable=False)
    register(program)
    return program


def run_cli(app: typer.Typer, *arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(app: typer.Typer, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("studio")
    annotate_corpus(picture_corpus(root / "corpus", 4), root / "run")
    run_cli(app, "audit", root / "run", "--out", root / "report", *FAST)
    return root


def answer(tags, *, misses: bool = False, why: str = "", **known) -> dict:
    result = []
    for tier in ("scope", "type", "preservation"):
        chosen = [name for name in tags if TAXONOMY.by_name[name].tier == tier]
        result.append({"from_name": tier, "to_name": "instruction", "type": "choices", "value": {"choices": chosen}})
    if misses:
        result.append(
            {"from_name": "mismatch", "to_name": "instruction", "type": "choices", "value": {"choices": [MISSES]}}
        )
    if why:
        result.append({"from_name": "why", "to_name": "instruction", "type": "textarea", "value": {"text": [why]}})
    return {"id": 1, "completed_by": 7, "was_cancelled": False, "result": result, **known}


def test_tasks_carry_the_runs_tags_as_predictions(app: typer.Typer, folder: Path, tmp_path: Path):
    output = run_cli(
        app, "gold", "export", folder / "run", "--out", tmp_path, "--report", folder / "report", "--limit", "3"
    )
    assert "3 tasks" in output
    tasks = json.loads((tmp_path / "tasks.json").read_text("utf-8"))
    assert len(tasks) == 3
    interface = ElementTree.fromstring((tmp_path / "interface.xml").read_text("utf-8"))
    controls = {node.get("name"): node for node in interface.iter() if node.get("toName")}
    shown = {node.get("value", "")[1:] for node in interface.iter() if node.get("value", "").startswith("$")}
    for task in tasks:
        assert shown <= set(task["data"]), "every value the interface shows is in the data"
        assert task["data"]["source"].startswith("data:image/jpeg;base64,")
        given = [name for r in task["predictions"][0]["result"] for name in r["value"]["choices"]]
        assert sorted(given) == sorted(LOCAL_RECOLOR)
        for region in task["predictions"][0]["result"]:
            control = controls[region["from_name"]]
            assert region["to_name"] == control.get("toName")
            assert set(region["value"]["choices"]) <= {choice.get("value") for choice in control.iter("Choice")}


def test_pictures_by_address_or_not_at_all(app: typer.Typer, folder: Path, tmp_path: Path):
    prefix = "/data/local-files/?d=corpus/"
    run_cli(app, "gold", "export", folder / "run", "--out", tmp_path / "a", "--images", prefix)
    assert json.loads((tmp_path / "a/tasks.json").read_text())[0]["data"]["target"] == f"{prefix}images/0_target.png"
    run_cli(app, "gold", "export", folder / "run", "--out", tmp_path / "b", "--images", "none")
    assert json.loads((tmp_path / "b/tasks.json").read_text())[0]["data"]["target"] == ""


def test_a_queue_is_handed_out_in_its_order(app: typer.Typer, folder: Path, tmp_path: Path):
    report = json.loads((folder / "report/report.json").read_text("utf-8"))
    wanted = [e["uid"] for q in report["queues"] if q["name"] == "foreign_target" for e in q["entries"]]
    run_cli(
        app,
        "gold",
        "export",
        folder / "run",
        "--out",
        tmp_path,
        "--report",
        folder / "report",
        "--queue",
        "foreign_target",
        "--images",
        "none",
    )
    tasks = json.loads((tmp_path / "tasks.json").read_text("utf-8"))
    assert [task["data"]["uid"] for task in tasks] == wanted
    assert len(wanted) == 4


def test_a_round_trip_gives_back_the_tags_and_feeds_the_audit(app: typer.Typer, folder: Path, tmp_path: Path):
    run_cli(app, "gold", "export", folder / "run", "--out", tmp_path, "--images", "none")
    tasks = json.loads((tmp_path / "tasks.json").read_text("utf-8"))
    for task in tasks:
        task["annotations"] = [{"was_cancelled": False, "result": task.pop("predictions")[0]["result"]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks), "utf-8")
    output = run_cli(app, "gold", "import", tmp_path / "export.json", "--out", tmp_path / "gold.jsonl")
    assert "4 gold records" in output
    summary = run_cli(
        app, "audit", folder / "run", "--out", tmp_path / "r", "--gold", tmp_path / "gold.jsonl", "--json", *FAST
    )
    assert json.loads(summary)["macro_f1"] == 1


def test_annotators_who_differ_make_a_tag_disputed(app: typer.Typer, tmp_path: Path):
    less = [tag for tag in LOCAL_RECOLOR if tag != "style preservation"]
    data = {"corpus": "c", "id": "a", "uid": make_uid("c", "a"), "instruction": "x"}
    tasks = [
        {
            "data": data,
            "annotations": [
                answer(LOCAL_RECOLOR, misses=True, why="no red box"),
                answer(less),
                answer([], was_cancelled=True),
            ],
        },
        {"data": data | {"id": "b", "uid": ""}, "annotations": [answer(less, misses=True)]},
        {"data": data | {"id": "c", "uid": ""}, "annotations": []},
    ]
    (tmp_path / "e.json").write_text(json.dumps(tasks), "utf-8")
    run_cli(app, "gold", "import", tmp_path / "e.json", "--out", tmp_path / "g.jsonl")
    first, second = Gold.load(tmp_path / "g.jsonl").records
    assert set(first.tags) == set(less)
    assert first.disputed == ("style preservation",)
    assert (first.mismatch, first.mismatch_disputed) == ("no red box", True)
    assert (second.id, second.mismatch, second.mismatch_disputed) == ("b", "marked in Label Studio", False)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "holds no finished annotation"),
        ([{"data": {"id": "a"}, "annotations": [], "predictions": []}], "holds no finished annotation"),
        ({"a": 1}, "expected a list of tasks"),
        ([{"id": 1}], "task 0 is no Label Studio task"),
        (
            [{"data": {}, "annotations": [{"result": [{"from_name": "scope", "value": {}}]}]}],
            "task 0 is no Label Studio task",
        ),
        (
            [
                {
                    "data": {"id": "a"},
                    "annotations": [{"result": [{"from_name": "type", "value": {"choices": ["sparkle"]}}]}],
                }
            ],
            "sparkle",
        ),
    ],
)
def test_malformed_exports_are_named(app: typer.Typer, tmp_path: Path, value, said: str):
    (tmp_path / "e.json").write_text(json.dumps(value), "utf-8")
    with pytest.raises(DataError, match=said):
        run_cli(app, "gold", "import", tmp_path / "e.json", "--out", tmp_path / "g.jsonl")
    assert not (tmp_path / "g.jsonl").exists()


def test_requests_that_cannot_work_are_named(app: typer.Typer, folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="--queue needs --report"):
        run_cli(app, "gold", "export", folder / "run", "--out", tmp_path, "--queue", "noop")
    with pytest.raises(ConfigError, match="no queue 'nope'"):
        run_cli(
            app, "gold", "export", folder / "run", "--out", tmp_path, "--report", folder / "report", "--queue", "nope"
        )
    other = annotate_corpus(picture_corpus(tmp_path / "corpus", 2), tmp_path / "run")
    with pytest.raises(DataError, match="is about run"):
        run_cli(app, "gold", "export", other, "--out", tmp_path, "--report", folder / "report")


def test_the_interface_survives_any_definition():
    hostile = TAXONOMY.model_copy(
        update={"tags": tuple(t.model_copy(update={"definition": "<&\">' ]]>"}) for t in TAXONOMY.tags)}
    )
    root = ElementTree.fromstring(labelling_interface(hostile))
    assert {c.get("hint") for c in root.iter("Choice") if c.get("hint")} == {"<&\">' ]]>"}
