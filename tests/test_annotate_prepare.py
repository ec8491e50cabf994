"""Preparing many pairs together gives, pair by pair and in order, what preparing each alone gives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support_corpus import encode, picture
from tagmoe.annotate import evidence
from tagmoe.annotate import prepare as module
from tagmoe.annotate.base import Prepared
from tagmoe.annotate.prepare import prepare, prepare_all
from tagmoe.schema import CorpusSpec, Pair, Reject
from tagmoe.shards.corpus import Corpus, open_corpus, open_image, phash


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Ten rows: JPEG and PNG pairs of several sizes, a torn source, a missing target, a generation, bare text."""
    sizes = [(400, 400), (512, 341), (120, 90), (640, 480), (64, 64), (300, 512)]
    rows: list[dict[str, object]] = []
    for i, (width, height) in enumerate(sizes):
        kind = "PNG" if i == 3 else "JPEG"
        for role, seed in (("source", i), ("target", i + 50)):
            (tmp_path / f"{i}.{role}").write_bytes(encode(picture(width, height, seed=seed), kind))
        rows.append({"task": "edit", "source": f"{i}.source", "target": f"{i}.target"})
    (tmp_path / "torn").write_bytes((tmp_path / "0.source").read_bytes()[:900])
    rows.insert(1, {"task": "edit", "source": "torn", "target": "0.target"})
    rows.insert(4, {"task": "edit", "source": "0.source", "target": "nowhere"})
    rows.append({"task": "generation", "target": "2.target"})
    rows.append({"task": "edit"})
    lines = [json.dumps({"id": f"r{row}", "instruction": "make it red", **fields}) for row, fields in enumerate(rows)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return open_corpus(CorpusSpec(uri=str(tmp_path)))


def pairs_of(corpus: Corpus) -> list[Pair]:
    return [item for item in corpus.records() if isinstance(item, Pair)]


@pytest.mark.parametrize("pixels", [1 << 20, 30_000, 1])
def test_together_as_each_alone(corpus: Corpus, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = pairs_of(corpus)
    assert len(pairs) == 10
    alone = [prepare(pair, corpus, max_pixels=None) for pair in pairs]
    monkeypatch.setattr(module, "_GROUP_PIXELS", pixels)
    assert prepare_all(pairs, corpus, max_pixels=None) == alone
    rejects = {item.id: (item.stage, item.reason) for item in alone if isinstance(item, Reject)}
    assert rejects == {"r1": ("decode", "truncated_image"), "r4": ("read", "missing_image")}
    assert prepare_all([], corpus, max_pixels=None) == []


def test_what_is_recorded_of_a_picture(corpus: Corpus, tmp_path: Path) -> None:
    pair = pairs_of(corpus)[0]
    made = prepare(pair, corpus, max_pixels=None)
    assert isinstance(made, Prepared)
    data = [(tmp_path / f"0.{role}").read_bytes() for role in ("source", "target")]
    small = [open_image(item, draft=64, draft_long=96).image for item in data]
    assert [image.sha256 for image in made.images] == [hashlib.sha256(item).hexdigest() for item in data]
    assert [image.phash for image in made.images] == [phash(image) for image in small]
    assert [(image.role, image.width, image.format) for image in made.images] == [
        ("source", 400, "jpeg"),
        ("target", 400, "jpeg"),
    ]
    assert made.evidence == evidence.measure(*small)
    assert made.pixels == ()


def test_an_annotator_that_looks_gets_bounded_pictures(corpus: Corpus) -> None:
    ready = prepare_all(pairs_of(corpus), corpus, max_pixels=40_000)
    sizes = {item.pair.id: [image.size for image in item.pixels] for item in ready if isinstance(item, Prepared)}
    assert sizes["r0"] == [(200, 200)] * 2
    assert sizes["r3"] == [(120, 90)] * 2
    assert sizes["r9"] == []
