"""Small real corpora, finished runs and shard sets for the shard tests."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tagmoe.schema import Annotation, CorpusSpec, ImageInfo, Reject, RunInfo, load_taxonomy, make_uid
from tagmoe.schema.arrow import ANNOTATIONS, REJECTS, hash_parts, write_part
from tagmoe.schema.configs.shards import BuildConfig
from tagmoe.schema.runs import PartInfo, Run, part_name, save_run_info
from tagmoe.shards.build import BuildResult, build_shards
from tagmoe.shards.corpus import open_image, phash
from tagmoe.shards.verify import verify_set

TAXONOMY = load_taxonomy()
TASKS: tuple[Literal["edit", "generation", "customization"], ...] = ("edit", "generation", "customization")
ROLES = {"edit": ("source", "target"), "generation": ("target",), "customization": ("ref0", "ref1", "target")}
TAGS = {
    "edit": ["local editing", "attribute editing", "identity preservation"],
    "generation": ["image generation"],
    "customization": ["content customization", "identity preservation"],
}


def picture(seed: int | str, *, size: tuple[int, int] = (48, 32), kind: str = "JPEG") -> bytes:
    """A smooth random picture: distinct seeds give distinct perceptual hashes."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big"))
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return out.getvalue()


@dataclass
class Rec:
    """One record to make."""

    id: str
    task: Literal["edit", "generation", "customization"] = "edit"
    pictures: dict[str, bytes] = field(default_factory=dict)
    instruction: str = "make it red"
    tags: Sequence[str] = ()
    warnings: Sequence[str] = ()
    probs: Sequence[float | None] | None = None
    extra: dict[str, object] = field(default_factory=dict)


def mixed(count: int, *, prefix: str = "r", kinds: Sequence[str] = ("JPEG",)) -> list[Rec]:
    """Records of all tasks in turn, landscape and portrait, with distinct pictures."""
    records: list[Rec] = []
    for i in range(count):
        task = TASKS[i % 3]
        size = (48, 32) if i % 2 else (32, 48)
        pictures = {role: picture(f"{prefix}{i}{role}", size=size, kind=kinds[i % len(kinds)]) for role in ROLES[task]}
        records.append(Rec(f"{prefix}{i}", task, pictures, f"instruction {i}, with a comma"))
    return records


def make_run(
    folder: Path, records: Sequence[Rec], *, name: str = "demo", part_rows: int = 16384, rejects: Sequence[Reject] = ()
) -> Run:
    """Write a corpus folder with its pictures, and a finished run over it."""
    corpus, run = folder / "corpus", folder / "run"
    (corpus / "images").mkdir(parents=True)
    annotations = [_annotation(corpus, row, rec, name=name) for row, rec in enumerate(records)]
    with (corpus / "manifest.jsonl").open("w") as stream:
        for rec, annotation in zip(records, annotations, strict=True):
            by_role = {image.role: image.uri for image in annotation.images}
            references = [by_role[role] for role in sorted(by_role) if role.startswith("ref")]
            line = {"id": rec.id, "task": rec.task, "instruction": rec.instruction, "target": by_role.get("target")}
            line |= {"source": by_role.get("source"), "references": references, **rec.extra}
            stream.write(json.dumps({key: value for key, value in line.items() if value}) + "\n")
    parts: list[PartInfo] = []
    for number, start in enumerate(range(0, max(len(annotations), 1), part_rows)):
        chunk = annotations[start : start + part_rows]
        paths = [run / kind / part_name(number) for kind in ("annotations", "rejects")]
        write_part(paths[0], chunk, schema=ANNOTATIONS)
        write_part(paths[1], list(rejects) if number == 0 else [], schema=REJECTS)
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        parts.append(PartInfo(part=number, annotations=len(chunk), rejects=0, sha256=digest))
    save_run_info(
        run,
        RunInfo(
            complete=True,
            run_hash=hash_parts(part.sha256 for part in parts),
            taxonomy=TAXONOMY.ref,
            annotator="test@1",
            corpus=CorpusSpec(uri=str(corpus), kind="manifest", name=name),
            corpus_name=name,
            fingerprint="0" * 64,
            rows=len(records),
            parts=parts,
        ),
    )
    return Run.open(run)


def _annotation(corpus: Path, row: int, rec: Rec, *, name: str) -> Annotation:
    images: list[ImageInfo] = []
    for role, data in rec.pictures.items():
        decoded = open_image(data)
        uri = f"images/{rec.id}-{role}.{decoded.format}"
        (corpus / uri).write_bytes(data)
        images.append(
            ImageInfo(
                role=role,
                uri=uri,
                sha256=hashlib.sha256(data).hexdigest(),
                phash=phash(decoded.image),
                width=decoded.width,
                height=decoded.height,
                format=decoded.format,
            )
        )
    ids = TAXONOMY.ids(rec.tags or TAGS[rec.task])
    probs = rec.probs if rec.probs is not None else [0.9 if i in ids else 0.1 for i in range(TAXONOMY.size)]
    return Annotation(
        corpus=name,
        row=row,
        uid=make_uid(name, rec.id),
        id=rec.id,
        task=rec.task,
        instruction=rec.instruction,
        scope=TAXONOMY.names(ids, tier="scope")[0],
        types=TAXONOMY.names(ids, tier="type"),
        preservation=TAXONOMY.names(ids, tier="preservation"),
        tag_ids=ids,
        tag_probs=tuple(probs),
        tag_probs_raw=tuple(probs),
        calibration="none",
        annotator="test@1",
        model="",
        model_revision="",
        prompt_version="",
        taxonomy=TAXONOMY.ref,
        evidence=None,
        images=tuple(images),
        warnings=tuple(rec.warnings),
        extra=dict(rec.extra),
    )


def build(run: Run, out: Path, **settings: object) -> BuildResult:
    """Build in this process; `settings` are fields of BuildConfig."""
    config = BuildConfig.model_validate({"shard_samples": 8, **settings})
    return build_shards(run, out, config=config, workers=1, quiet=True)


def files_of(root: Path) -> dict[str, str]:
    """sha256 of every file below `root`, by relative path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def codes(root: Path) -> dict[str, list[str]]:
    """Where `verify` finds what, by code."""
    found: dict[str, list[str]] = {}
    for finding in verify_set(root, quiet=True).findings:
        found.setdefault(finding.code, []).append(finding.where)
    return found
