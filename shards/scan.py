"""One pass over a run's records: what can go into shards, as compact arrays, and named rejects for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, cast

import numpy as np
import numpy.typing as npt

from ..schema import Reject, Run
from ..schema.arrow import ANNOTATIONS, read_tables
from ..schema.configs.shards import BuildConfig
from .filters import Condition, Facts, parse_filter
from .layout import EXTENSIONS, signature_of
from .near import I64
from .permutation import U64

_NEEDED = {"edit": ("source", "target"), "generation": ("target",), "customization": ("ref0", "target")}
"""Pictures without which a record of a task teaches nothing."""

Uids = npt.NDArray[np.bytes_]
I32 = npt.NDArray[np.int32]


class _Image(TypedDict):
    role: str
    format: str
    phash: int


class _Row(TypedDict):
    corpus: str
    row: int
    uid: str
    id: str
    task: str
    images: list[_Image]


class _FilteredRow(_Row):
    tag_ids: list[int]
    tag_probs: list[float | None]
    warnings: list[str]


_COLUMNS = ["corpus", "row", "uid", "id", "task", *(f"images.list.element.{name}" for name in _Image.__annotations__)]
_FILTER_COLUMNS = ["tag_ids", "tag_probs", "warnings"]
"""Read only where a condition asks: turning them into Python objects is most of the cost."""


@dataclass(slots=True)
class Scan:
    """Records that can be stored, in row order, one entry each unless said otherwise."""

    part: I32
    offset: I32
    """Row within the part's annotations."""
    uid: Uids
    """Hex, dtype S32."""
    kind: I32
    """Position in `kinds`."""
    kinds: list[tuple[str, str]]
    """(task, signature) pairs."""
    phashes: U64
    """Of every picture [pictures]."""
    owners: I64
    """Record number of every picture [pictures]."""
    corpora: list[str]
    already: int
    """Records that the set holds already."""
    rejects: list[Reject]

    def __len__(self) -> int:
        return len(self.part)


@dataclass(slots=True)
class _Gathered:
    parts: list[int] = field(default_factory=list[int])
    offsets: list[int] = field(default_factory=list[int])
    uids: list[bytes] = field(default_factory=list[bytes])
    kinds: list[int] = field(default_factory=list[int])
    phashes: list[int] = field(default_factory=list[int])
    owners: list[int] = field(default_factory=list[int])

    def pack(self) -> tuple[I32, I32, Uids, I32, U64, I64]:
        return (
            np.array(self.parts, np.int32),
            np.array(self.offsets, np.int32),
            np.array(self.uids, "S32"),
            np.array(self.kinds, np.int32),
            np.array(self.phashes, np.uint64),
            np.array(self.owners, np.int64),
        )


def scan_run(run: Run, *, config: BuildConfig, tags: dict[str, int], present: Uids) -> Scan:
    """Look at every annotation of `run`; records whose uid is in `present` (sorted) are counted and left out."""
    conditions = [(text, parse_filter(text, tags=tags)) for text in config.filters]
    codes: dict[tuple[str, str], int] = {}
    corpora: set[str] = set()
    rejects: list[Reject] = []
    blocks = [_Gathered().pack()]
    count = already = 0
    for part, first, rows in _rows(run, filtered=bool(conditions)):
        got = _Gathered()
        known = _is_present([row["uid"].encode() for row in rows], present)
        for offset, row in enumerate(rows):
            if known[offset]:
                already += 1
                continue
            kind = _judge(row, conditions, config=config)
            if isinstance(kind, Reject):
                rejects.append(kind)
                continue
            corpora.add(row["corpus"])
            got.parts.append(part)
            got.offsets.append(first + offset)
            got.uids.append(row["uid"].encode())
            got.kinds.append(codes.setdefault(kind, len(codes)))
            got.phashes += [image["phash"] for image in row["images"]]
            got.owners += [count] * len(row["images"])
            count += 1
        blocks.append(got.pack())
    part, offset, uid, kind, phashes, owners = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return Scan(part, offset, uid, kind, list(codes), phashes, owners, sorted(corpora), already, rejects)


def _rows(run: Run, *, filtered: bool) -> Iterator[tuple[int, int, list[_Row]]]:
    """Part number, row of the first record within the part, and a batch of records."""
    for part, path in enumerate(run.annotation_paths()):
        first = 0
        columns = [*_COLUMNS, *(_FILTER_COLUMNS if filtered else ())]
        for batch in read_tables(path, schema=ANNOTATIONS, columns=columns):
            yield part, first, cast("list[_Row]", batch.to_pylist())
            first += batch.num_rows


def _is_present(uids: Sequence[bytes], present: Uids) -> npt.NDArray[np.bool_]:
    wanted = np.array(uids, "S32")
    if not len(present):
        return np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(present, wanted), len(present) - 1)
    return present[at] == wanted


def _judge(row: _Row, conditions: Sequence[tuple[str, Condition]], *, config: BuildConfig) -> tuple[str, str] | Reject:
    """Task and signature of a record, or why it cannot be stored."""
    formats: dict[str, str] = {}
    for image in row["images"]:
        extension = config.format or EXTENSIONS.get(image["format"].lower())
        if extension is None:
            detail = f"{image['role']} is {image['format']}: give --format jpg, png or webp"
            return Reject(row=row["row"], id=row["id"], stage="shard", reason="unsupported_format", detail=detail)
        formats[image["role"]] = extension
    missing = [role for role in _NEEDED[row["task"]] if role not in formats]
    if missing:
        detail = f"a record of task {row['task']} needs {' and '.join(missing)}"
        return Reject(row=row["row"], id=row["id"], stage="shard", reason="image_missing", detail=detail)
    facts = _facts(cast("_FilteredRow", row)) if conditions else None
    failed = next((text for text, holds in conditions if facts is not None and not holds(facts)), None)
    if failed is not None:
        return Reject(row=row["row"], id=row["id"], stage="shard", reason="filtered", detail=failed)
    return row["task"], signature_of(formats)


def _facts(row: _FilteredRow) -> Facts:
    probs = row["tag_probs"]
    known = [p for p in probs if p is not None]
    confidence = min((max(p, 1 - p) for p in known), default=None)
    return Facts(row["task"], row["corpus"], row["tag_ids"], probs, confidence, row["warnings"])
