"""Runs made by hand for the audit's tests: real parts on disk, with or without a real corpus of pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tagmoe.schema import (
    DEFAULT_TAXONOMY,
    PART_ROWS,
    Annotation,
    CorpusSpec,
    Evidence,
    ImageInfo,
    Reject,
    RunInfo,
    load_taxonomy,
    make_uid,
)
from tagmoe.schema.arrow import ANNOTATIONS, REJECTS, hash_parts, write_part
from tagmoe.schema.runs import PartInfo, part_name, save_run_info

TAXONOMY = load_taxonomy(DEFAULT_TAXONOMY)
LOCAL_RECOLOR = (
    "local editing",
    "attribute editing",
    "background preservation",
    "identity preservation",
    "style preservation",
)


def make_evidence(**known: float) -> Evidence:
    """Evidence of an ordinary local edit, with the fields that a test is about."""
    usual = dict.fromkeys(Evidence.model_fields, 0.0) | {
        "scale": 1.0, "overlap": 1.0, "changed_fraction": 0.1, "changed_strength": 0.3, "residual": 0.04, "regions": 1.0,
        "largest_region": 0.1, "edge_similarity": 0.9, "edge_similarity_changed": 0.5, "palette_distance": 0.1,
        "change_x": 0.5, "change_y": 0.5, "tone_fit": 0.9,
    }  # fmt: skip
    return Evidence(**(usual | known))


def make_image(
    role: str, *, key: str = "", phash: int | None = None, uri: str | None = None, **known: Any
) -> ImageInfo:
    """A picture's description; distinct keys give distant hashes."""
    digest = hashlib.sha256(f"{role}{key}".encode()).hexdigest()
    value = int(digest[:16], 16) if phash is None else phash
    fields = {"width": 64, "height": 64, "format": "png", "sha256": digest} | known
    return ImageInfo(role=role, uri=uri or f"images/{key}_{role}.png", phash=value, **fields)


def make_record(row: int, tags: Sequence[str] = LOCAL_RECOLOR, **known: Any) -> Annotation:
    """One annotated edit; `probs` maps tag names to probabilities, `id` defaults to `r{row}`."""
    ids = TAXONOMY.ids(tags)
    name = known.pop("id", f"r{row}")
    corpus = known.pop("corpus", "made")
    stated = known.pop("probs", None)
    probs = tuple(
        None if stated is None else stated.get(TAXONOMY.by_id[i].name, 0.9 if i in ids else 0.1) for i in range(18)
    )
    images = known.pop("images", (make_image("source", key=name), make_image("target", key=name)))
    fields: dict[str, Any] = {
        "task": "edit", "instruction": f"make thing {row} red", "calibration": "none", "annotator": "hand@1", "model": "",
        "model_revision": "", "prompt_version": "", "taxonomy": TAXONOMY.ref, "evidence": make_evidence(), "warnings": (),
        "extra": {},
    }  # fmt: skip
    return Annotation(
        corpus=corpus, row=row, uid=make_uid(corpus, name), id=name, scope=next(iter(TAXONOMY.names(ids, tier="scope")), ""),
        types=TAXONOMY.names(ids, tier="type"), preservation=TAXONOMY.names(ids, tier="preservation"), tag_ids=ids,
        tag_probs=probs, tag_probs_raw=probs, images=images, **(fields | known),
    )  # fmt: skip


def write_run(
    root: Path,
    records: Sequence[Annotation],
    rejects: Sequence[Reject] = (),
    *,
    corpus: Path | None = None,
    **known: Any,
) -> Path:
    """Write a complete run of `records` and `rejects`; `known` fields of run.json replace the usual ones."""
    parts = []
    highest = max([r.row for r in (*records, *rejects)], default=0)
    for part in range(highest // PART_ROWS + 1):
        mine = [r for r in records if r.row // PART_ROWS == part]
        failed = [r for r in rejects if r.row // PART_ROWS == part]
        digest = hashlib.sha256()
        for folder, rows, schema in (("annotations", mine, ANNOTATIONS), ("rejects", failed, REJECTS)):
            path = root / folder / part_name(part)
            write_part(path, rows, schema=schema)
            digest.update(path.read_bytes())
        parts.append(PartInfo(part=part, annotations=len(mine), rejects=len(failed), sha256=digest.hexdigest()))
    info = RunInfo(
        complete=True, run_hash=hash_parts(p.sha256 for p in parts), taxonomy=TAXONOMY.ref, annotator="hand@1",
        corpus=CorpusSpec(uri=str(corpus or root / "no-corpus")), corpus_name="made", fingerprint="0" * 64,
        rows=len(records) + len(rejects), parts=parts,
    )  # fmt: skip
    save_run_info(root, info.model_copy(update=known))
    return root


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A picture with coarse structure, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def picture_corpus(root: Path, count: int = 6, *, instructions: Sequence[str] = ()) -> Path:
    """A corpus folder of edit pairs: the target is the source with a red box."""
    (root / "images").mkdir(parents=True)
    lines = []
    for index in range(count):
        source = picture(index)
        target = source.copy()
        target.paste((220, 30, 30), (20 + index, 20, 50 + index, 50))
        source.save(root / "images" / f"{index}_source.png")
        target.save(root / "images" / f"{index}_target.png")
        text = instructions[index] if index < len(instructions) else f"make box {index} red"
        lines.append(
            {
                "id": f"p{index}",
                "task": "edit",
                "instruction": text,
                "source": f"images/{index}_source.png",
                "target": f"images/{index}_target.png",
            }
        )
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return root


def annotate_corpus(
    corpus: Path, root: Path, *, tags: Sequence[str] = LOCAL_RECOLOR, probs: dict[str, float] | None = None
) -> Path:
    """A run over a real corpus: pictures read, hashed and measured; every record gets `tags`."""
    from tagmoe.annotate.prepare import prepare
    from tagmoe.shards.corpus import open_corpus

    opened = open_corpus(CorpusSpec(uri=str(corpus)))
    records, rejects = [], []
    for pair in opened.records():
        done = pair if isinstance(pair, Reject) else prepare(pair, opened, max_pixels=None)
        if isinstance(done, Reject):
            rejects.append(done)
            continue
        known = {"instruction": done.pair.instruction, "task": done.pair.task, "extra": done.pair.extra}
        records.append(
            make_record(
                done.pair.row,
                tags,
                id=done.pair.id,
                corpus=opened.name,
                probs=probs,
                images=done.images,
                evidence=done.evidence,
                **known,
            )
        )
    return write_run(root, records, rejects, corpus=corpus)
