"""Fitting: deterministic bytes, what is held out, what is learned from a list, and the composed data itself."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.annotate.local.compose import several, singles
from tagmoe.annotate.local.corpora import read_gold, read_lists
from tagmoe.annotate.local.fit import Recipe, fit, quantise
from tagmoe.annotate.local.grammar import parse, phrasebook
from tagmoe.annotate.local.intents import KEEPS, SCOPES, TYPES, combined_scope, intents
from tagmoe.annotate.local.model import load
from tagmoe.schema import ConfigError

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
    assert gold.record["instruction"] == "remove the cat"
    assert gold.evidence() is not None


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
