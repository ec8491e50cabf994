"""README.md of a shard set: a dataset card that Hugging Face's loaders read, and people too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from ..schema.files import write_text
from ..schema.shards import ShardInfo, ShardRecord, Snapshot
from .layout import CARD, members_of

_TYPES = {"string": "string", "integer": "int64", "number": "float64"}


def write_card(root: Path, snapshot: Snapshot) -> None:
    """Write the card of the newest snapshot."""
    write_text(root / CARD, render_card(snapshot))


def render_card(snapshot: Snapshot) -> str:
    """The card: YAML with one configuration a signature, then counts, provenance and licences."""
    return "\n".join([*_front_matter(snapshot), "", *_body(snapshot)]) + "\n"


def _kinds(snapshot: Snapshot) -> dict[tuple[str, str], list[ShardInfo]]:
    kinds: dict[tuple[str, str], list[ShardInfo]] = {}
    for shard in sorted(snapshot.shards, key=lambda s: (s.task, s.signature, s.split, s.name)):
        kinds.setdefault((shard.task, shard.signature), []).append(shard)
    return kinds


def _front_matter(snapshot: Snapshot) -> Iterator[str]:
    licences = sorted({name for shard in snapshot.shards for name in shard.licences})
    yield "---"
    yield f"license: {json.dumps(licences[0] if len(licences) == 1 and licences != ['not stated'] else 'other')}"
    yield "task_categories: [image-to-image, text-to-image]"
    yield "tags: [webdataset, tagmoe]"
    yield "configs:"
    for (task, signature), shards in _kinds(snapshot).items():
        yield f"- config_name: {json.dumps(f'{task}-{signature}')}"
        yield "  data_files:"
        for split in sorted({shard.split for shard in shards}):
            yield f"  - split: {split}"
            yield f"    path: {json.dumps(f'{task}-{signature}-{split}-*.tar')}"
    yield "dataset_info:"
    for (task, signature), shards in _kinds(snapshot).items():
        yield f"- config_name: {json.dumps(f'{task}-{signature}')}"
        yield "  features:"
        yield from _features(signature)
        yield "  splits:"
        for split in sorted({shard.split for shard in shards}):
            yield f"  - name: {split}"
            yield f"    num_bytes: {sum(shard.bytes for shard in shards if shard.split == split)}"
            yield f"    num_examples: {sum(shard.samples for shard in shards if shard.split == split)}"
    yield "---"


def _features(signature: str) -> Iterator[str]:
    for suffix in members_of(signature):
        yield f"  - name: {suffix}"
        if suffix == "json":
            yield "    struct:"
            for name in ShardRecord.model_fields:
                yield f"    - name: {name}"
                yield f"      {_feature(name)}"
        else:
            yield "    dtype: image"
    for name in ("__key__", "__url__"):
        yield f"  - name: {name}"
        yield "    dtype: string"


def _feature(name: str) -> str:
    properties = cast("dict[str, dict[str, str]]", ShardRecord.model_json_schema()["properties"])
    kind = properties[name]["type"]
    return "list: int64" if kind == "array" else f"dtype: {_TYPES[kind]}"


def _body(snapshot: Snapshot) -> Iterator[str]:
    yield "# Image edits, generations and customizations with task tags"
    yield ""
    yield (
        f"{snapshot.samples} samples in {len(snapshot.shards)} shards, snapshot {snapshot.number}, "
        f"taxonomy `{snapshot.taxonomy}`, content hash `{snapshot.content_hash[:16]}`."
    )
    yield ""
    yield "| task | signature | split | shards | samples | MiB |"
    yield "|---|---|---|---:|---:|---:|"
    for (task, signature), shards in _kinds(snapshot).items():
        for split in sorted({shard.split for shard in shards}):
            chosen = [shard for shard in shards if shard.split == split]
            size = sum(shard.bytes for shard in chosen) / (1 << 20)
            yield f"| {task} | `{signature}` | {split} | {len(chosen)} | {sum(s.samples for s in chosen)} | {size:.1f} |"
    yield ""
    yield from _counts("tag", [shard.tag_counts for shard in snapshot.shards], total=snapshot.samples)
    yield from _counts("licence", [shard.licences for shard in snapshot.shards], total=snapshot.samples)
    yield "## Where it comes from"
    yield ""
    yield "| corpus | annotator | records | added | rejected | run |"
    yield "|---|---|---:|---:|---|---|"
    for source in snapshot.sources:
        rejected = ", ".join(f"{count} {reason}" for reason, count in source.rejected.items()) or "none"
        cells = (source.corpus, source.annotator, str(source.records), str(source.added), rejected)
        yield f"| {' | '.join(map(cell, cells))} | `{source.run_hash[:16]}` |"
    yield ""
    yield from _usage(snapshot)


def _counts(title: str, counts: Iterable[Mapping[str, int]], *, total: int) -> Iterator[str]:
    summed: Counter[str] = Counter()
    for part in counts:
        summed.update(part)
    yield f"| {title} | samples | share |"
    yield "|---|---:|---:|"
    for name, count in sorted(summed.items(), key=lambda item: (-item[1], item[0])):
        yield f"| {cell(name)} | {count} | {count / total:.1%} |"
    yield ""


def cell(text: str) -> str:
    """Text from a corpus as one table cell: no new line, column, link or markup begins in it."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return "".join("\\" + c if c in "\\|`*_[]<>!#~" else c for c in plain)


def _usage(snapshot: Snapshot) -> Iterator[str]:
    shard = snapshot.shards[0]
    name = f"{shard.task}-{shard.signature}"
    yield "## Reading it"
    yield ""
    yield "```python"
    yield "from tagmoe.shards.stream import ShardStream  # exact order, resumable, checked"
    yield f"from datasets import load_dataset  # load_dataset(THIS_FOLDER, {name!r}, split={shard.split!r})"
    yield f"import webdataset as wds  # wds.WebDataset({shard.name + '.tar'!r}, shardshuffle=False)"
    yield "```"
    yield ""
    yield (
        "Each sample is KEY.json and its pictures; KEY is the record's uid. `index/*.parquet` holds the same facts and "
        "every member's place, so queries need not read a tar. `tagmoe verify` checks every byte."
    )
