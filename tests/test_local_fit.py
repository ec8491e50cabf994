"""Fitting: deterministic bytes, what is held out, what is learned from a list, and the composed data itself."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.annotate.local.annotator import shipped_weights
from tagmoe.annotate.local.compose import several, singles
from tagmoe.annotate.local.corpora import read_gold, read_lists
from tagmoe.annotate.local.decide import choose
from tagmoe.annotate.local.fit import Recipe, fit, fit_command, quantise
from tagmoe.annotate.local.grammar import parse, phrasebook
from tagmoe.annotate.local.intents import KEEPS, SCOPES, TYPES, combined_scope, intents
from tagmoe.annotate.local.known import Known, examples, read_verdicts
from tagmoe.annotate.local.model import load
from tagmoe.annotate.runner import annotate
from tagmoe.cli import app
from tagmoe.schema import ConfigError, CorpusSpec, DataError, Run
from tagmoe.schema.configs.annotate import AnnotateConfig
from typer.testing import CliRunner

SMALL = Recipe(english=6, chinese=2, english_several=40, chinese_several=12, steps=8)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled lists, one set with gold, and a few photos."""
    root = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(0)
    rows = {
        "colors": [
            (f"zorble the {noun} into {color}", "Color")
            for noun in ("car", "door", "hat", "vase")
            for color in ("red", "blue", "green")
        ],
        "mixed": [("get rid of the lamp", "Removal"), ("make it winter", "Other"), ("nothing is known here", None)],
        "held": [("remove the cat", None)],
    }
    labels = {
        "Color": {"scope_any": ["local editing"], "type_any": ["attribute editing"], "confidence": "high"},
        "Removal": {
            "scope_any": ["local editing", "multi region editing"],
            "type_any": ["object editing"],
            "confidence": "high",
        },
        "Other": {
            "scope_any": ["global editing"],
            "type_any": ["illumination editing", "style transfer"],
            "confidence": "medium",
        },
    }
    for name, records in rows.items():
        folder = root / name
        (folder / "images").mkdir(parents=True)
        lines = []
        for i, (text, label) in enumerate(records):
            record = {
                "id": f"{name}-{i}",
                "task": "edit",
                "instruction": text,
                "label": label,
                "source": None,
                "target": None,
                "references": [],
            }
            if i < 5:
                small = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(folder / "images" / f"{i}.jpg")
                record["source"] = record["target"] = f"images/{i}.jpg"
            lines.append(json.dumps(record))
        (folder / "manifest.jsonl").write_text("\n".join(lines), "utf-8")
        (folder / "label_map.json").write_text(json.dumps(labels), "utf-8")
    (root / "gold-pairs").mkdir()
    gold = {
        "set": "held",
        "id": "held-0",
        "tags": ["local editing", "object editing", "background preservation"],
        "disputed": [],
    }
    (root / "gold-pairs" / "gold.jsonl").write_text(json.dumps(gold), "utf-8")
    return root


def test_equal_input_gives_equal_bytes_and_other_input_does_not(corpora: Path, tmp_path: Path) -> None:
    first = fit(corpora, out=tmp_path / "a.npz", recipe=SMALL)
    second = fit(corpora, out=tmp_path / "b.npz", recipe=SMALL)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert first.sha256 == second.sha256
    assert first.examples["colors"] == 12
    assert first.resolved["colors"].keys() <= {
        "recolor",
        "material",
        "pattern",
        "appearance",
        "shape",
        "body",
        "hair",
        "age",
        "makeup",
    }
    model = load(tmp_path / "a.npz")
    assert model.about["calibrated_on"] == 1
    assert model.about["made_pairs"] > 0
    assert model.pixel_FO.any()
    annotator = LocalAnnotator(weights=tmp_path / "a.npz")
    attribute = annotator.taxonomy.by_name["attribute editing"].id
    assert annotator.opinion("zorble the chair into purple", task="edit").raw[attribute] > 0.5


def test_sets_with_gold_are_never_learned_from(corpora: Path) -> None:
    assert {example.group for example in read_lists(corpora)} == {"colors", "mixed"}
    (gold,) = read_gold(corpora)
    assert gold.text == "remove the cat"
    assert gold.evidence is not None


def test_labels_that_allow_several_tags_keep_them_open(corpora: Path) -> None:
    other = next(example for example in read_lists(corpora) if example.text == "make it winter")
    assert set(other.candidates) >= {"season", "style"}
    assert "add" not in other.candidates
    assert all("nothing is known" not in example.text for example in read_lists(corpora))


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no labelled list"):
        fit(tmp_path, out=tmp_path / "w.npz", recipe=SMALL)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_phrase_can_be_said_and_every_intent_has_phrases(language: str) -> None:
    book = phrasebook(language)
    assert set(book.intents) == set(intents()) - {"caption"}
    rng = random.Random(0)
    for name, lines in book.intents.items():
        for line in range(len(lines)):
            for _ in range(4):
                text = book.sample(name, rng, line=line)
                assert text
                assert not set("{}[]|") & set(text), (name, text)


def test_composed_examples_are_consistent_with_the_taxonomy() -> None:
    for example in [
        *singles("en", per_intent=4, seed=1),
        *several("en", count=300, seed=1),
        *several("zh", count=100, seed=1),
    ]:
        if example.scope is None:
            continue
        types = dict(zip(TYPES, example.types, strict=True))
        keeps = dict(zip(KEEPS, example.keeps, strict=True))
        assert example.scope in SCOPES
        assert not (types["style transfer"] == 1 and keeps["style preservation"])
        assert not (types["background editing"] == 1 and keeps["background preservation"])
        assert not (example.scope == "viewpoint editing" and keeps["structure preservation"])
        assert (keeps["face preservation"] or 0) <= (keeps["identity preservation"] or 0)


def test_scopes_of_several_steps() -> None:
    table = intents()
    assert combined_scope([table["add"], table["remove"]], same_thing=False) == "multi region editing"
    assert combined_scope([table["add"], table["recolor"]], same_thing=True) == "local editing"
    assert combined_scope([table["add"], table["style"]], same_thing=False) == "global editing"
    assert combined_scope([table["style"], table["viewpoint"]], same_thing=False) == "viewpoint editing"
    assert combined_scope([table["subject"]], same_thing=False) == "content customization"


def test_a_phrase_with_an_open_bracket_is_named() -> None:
    with pytest.raises(ValueError, match="add \\(a"):
        parse("add (a|b")
    with pytest.raises(ValueError, match="unexpected"):
        parse("add a)")


def test_quantised_weights_are_close() -> None:
    weights = np.random.default_rng(0).normal(0, 1, (500, 7)).astype(np.float32) ** 3
    codes, scale = quantise(weights)
    back = codes.astype(np.float32) * np.abs(codes.astype(np.float32)) * scale / 127**2
    assert codes.dtype == np.int8
    assert np.abs(back - weights).max() <= scale.max() * 0.01


def verdict(text: str, tags: list[str], number: int, **more: object) -> str:
    record = {"set": "mine", "id": f"v{number}", "task": "edit", "instruction": text, "tags": tags, **more}
    return json.dumps(record) + "\n"


STYLE = ["global editing", "style transfer", "structure preservation", "identity preservation"]


def write_verdicts(path: Path, **more: object) -> Path:
    things = (
        "car",
        "door",
        "vase",
        "lamp",
        "church",
        "dog",
        "kitchen",
        "bridge",
        "cup",
        "tree",
        "boat",
        "hat",
        "bear",
        "cat",
        "book",
    )
    path.write_text("".join(verdict(f"glimmerize the {thing}", STYLE, i, **more) for i, thing in enumerate(things)))
    return path


def answer(weights: Path, text: str) -> set[str]:
    annotator = LocalAnnotator(weights=weights)
    chances = annotator.opinion(text, task="edit").calibrated
    return set(annotator.taxonomy.names(choose(chances, taxonomy=annotator.taxonomy, task="edit")[0]))


def test_verdicts_change_the_answer_to_their_phrase_and_to_no_other(corpora: Path, tmp_path: Path) -> None:
    plain, taught = tmp_path / "plain.npz", tmp_path / "taught.npz"
    fit(corpora, out=plain, recipe=SMALL)
    report = fit(corpora, out=taught, recipe=SMALL, verdicts=read_verdicts([write_verdicts(tmp_path / "gold.jsonl")]))
    assert not {"global editing", "style transfer"} <= answer(plain, "glimmerize the chair")
    assert set(STYLE) <= answer(taught, "glimmerize the chair")
    for text, right in (
        ("remove the dog", "object editing"),
        ("replace the background with a beach", "background editing"),
        ("change the car to red", "attribute editing"),
    ):
        for weights in (plain, taught):
            found = answer(weights, text)
            assert right in found
            assert "style transfer" not in found
    assert report.verdicts is not None
    assert report.verdicts.records == 15
    before, after = report.verdicts.without, report.verdicts.with_others
    assert (after.type_micro_f1 or 0) > (before.type_micro_f1 or 0)
    assert (after.preservation_micro_f1 or 0) > (before.preservation_micro_f1 or 0)
    again = fit(corpora, out=tmp_path / "b.npz", recipe=SMALL, verdicts=read_verdicts([tmp_path / "gold.jsonl"]))
    assert again.sha256 == report.sha256
    assert LocalAnnotator(weights=taught).provenance != LocalAnnotator(weights=plain).provenance


def test_disputed_tags_teach_neither_way() -> None:
    known = Known("k", "spin the wheel", "edit", 0, frozenset({"local editing", "pose editing"}), frozenset(TYPES[:1]))
    (example,) = examples([known], group="verdicts", weight=2.0)
    assert example.types[0] is None
    assert example.types[TYPES.index("pose editing")] == 1.0
    assert example.weight == 2.0
    unsure = Known("k", "spin the wheel", "edit", 0, frozenset(), frozenset({"local editing"}))
    assert examples([unsure], group="verdicts", weight=1.0)[0].scope is None


def test_a_run_supplies_what_gold_leaves_out(corpora: Path, tmp_path: Path) -> None:
    spec = CorpusSpec(uri=str(corpora / "held"))
    annotate(AnnotateConfig(corpus=spec, workers=1), out=tmp_path / "run", quiet=True)
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"set": "held", "id": "held-0", "tags": ["local editing", "object editing"]}))
    with pytest.raises(DataError, match="give their run with --run"):
        read_verdicts([gold])
    (record,) = read_verdicts([gold], runs=[tmp_path / "run"]).records
    assert (record.text, record.task, record.references) == ("remove the cat", "edit", 0)
    assert record.evidence is not None
    assert record.evidence.residual == 0


def test_gold_with_foreign_tags_is_refused(tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text(verdict("remove the cat", ["local editing", "sparkle editing"], 0))
    with pytest.raises(ConfigError, match="sparkle editing"):
        read_verdicts([gold])


def test_the_command_learns_from_gold_alone_and_annotate_uses_it(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, gold = tmp_path / "mine.npz", write_verdicts(tmp_path / "gold.jsonl")
    with pytest.raises(ConfigError, match="--gold needs --out"):
        fit_command(None, gold=[gold])
    with pytest.raises(ConfigError, match="nothing to learn from"):
        fit_command(None)
    fit_command(None, out=out, gold=[gold], weight=6, recipe=SMALL)
    assert "15 verdicts, each with the weight of 6 composed examples" in capsys.readouterr().out
    assert load(out).pixel_FO.tolist() == load(shipped_weights()).pixel_FO.tolist()
    command = ["annotate", str(corpora / "held"), "--out", str(tmp_path / "run"), "--weights", str(out), "--json"]
    assert CliRunner().invoke(app, [*command, "--workers", "1"], catch_exceptions=False).exit_code == 0
    (row,) = Run.open(tmp_path / "run").annotations()
    assert row.model_revision == sha256(out.read_bytes()).hexdigest()[:16]
