"""Shared by the tests of annotate: pairs, labels, corpora on disk, and worker functions that die on purpose."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from tagmoe.annotate.base import Labels, Prepared, Provenance
from tagmoe.annotate.outcome import to_outcome
from tagmoe.annotate.work import Worked
from tagmoe.schema import Pair, load_taxonomy

PROVENANCE = Provenance(annotator="scripted@1")


def make_pair(row: int, text: str = "make it red") -> Pair:
    return Pair(corpus="c", row=row, id=f"r{row}", task="edit", instruction=text)


def make_labels(*ids: int) -> Labels:
    ids = ids or (0, 7, 14)
    probs = tuple(0.9 if i in ids else 0.1 for i in range(18))
    return Labels(tag_ids=tuple(sorted(ids)), tag_probs=probs, tag_probs_raw=probs)


def outcome_of(pair: Pair) -> Worked:
    return to_outcome(Prepared(pair=pair), make_labels(), provenance=PROVENANCE, taxonomy=load_taxonomy())


def label_all(pairs: Sequence[Pair]) -> list[Worked]:
    return [outcome_of(pair) for pair in pairs]


def die_on_marked(pairs: Sequence[Pair]) -> list[Worked]:
    """A worker that a record whose instruction says `kill` kills, as a decoder bug would."""
    if any(pair.instruction == "kill" for pair in pairs):
        os.kill(os.getpid(), signal.SIGKILL)
    return label_all(pairs)


def make_labelling() -> object:
    return label_all


def make_dying() -> object:
    return die_on_marked


def make_broken() -> object:
    raise ValueError("the weights are from another planet")


def write_corpus(folder: Path, rows: int, *, size: int = 48, bad: Sequence[int] = ()) -> Path:
    """A manifest corpus of real JPEG pairs: a photo-like gradient and the same with one box recoloured."""
    (folder / "images").mkdir(parents=True)
    words = ["Change the box to red", "Remove the box", "Make it night", "Turn it into an oil painting"]
    lines = []
    for row in range(rows):
        source = Image.linear_gradient("L").resize((size, size)).rotate(7 * row).convert("RGB")
        target = source.copy()
        ImageDraw.Draw(target).rectangle((8, 8, 20 + row % 9, 24), fill=(220, 30, 30))
        for name, image in (("source", source), ("target", target)):
            image.save(folder / "images" / f"{row}_{name}.jpg", quality=90)
        if row in bad:
            (folder / "images" / f"{row}_target.jpg").write_bytes(b"not a picture")
        lines.append(
            json.dumps(
                {
                    "id": f"pair-{row:05d}",
                    "task": "edit",
                    "instruction": f"{words[row % 4]}, number {row}",
                    "source": f"images/{row}_source.jpg",
                    "target": f"images/{row}_target.jpg",
                    "licence": "CC0",
                }
            )
        )
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder
