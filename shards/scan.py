"""One pass over a run's records: what can go into shards, as compact arrays, and named rejects for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..schema import Reject, Run
from ..schema.arrow import ANNOTATIONS, read_tables
from ..schema.configs.shards import BuildConfig
from ..schema.reasons import Reason
from .columns import lists, numbers, texts
from .filters import Facts, parse_filter
from .layout import EXTENSIONS, signature_of
from .near import I64
from .permutation import U64

_NEEDED = {"edit": ("source", "target"), "generation": ("target",), "customization": ("ref0", "target")}
"""Pictures without which a record of a task teaches nothing."""

Uids = npt.NDArray[np.bytes_]
I32 = npt.NDArray[np.int32]


_COLUMNS = [
    "corpus",
    "row",
    "uid",
    "id",
    "task",
    *(f"images.list.element.{name}" for name in ("role", "format", "phash")),
]
_FILTER_COLUMNS = ["tag_ids", "tag_probs", "warnings"]
"""Read only where a condition asks: turning them into Python objects is most of the cost."""

_Kind = tuple[str, str]
"""Task and signature."""
_Pictures = tuple[str, tuple[str, ...], tuple[str, ...]]
"""Task, roles and formats: what a record's kind follows from."""


class _Facts(TypedDict):
    tag_ids: list[int]
    tag_probs: list[float | None]
    warnings: list[str]


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


def scan_run(run: Run, *, config: BuildConfig, tags: dict[str, int], present: Uids) -> Scan:
    """Look at every annotation of `run`; records whose uid is in `present` (sorted) are counted and left out."""
    judge = _Judge(config, tags=tags)
    corpora: set[str] = set()
    rejects: list[Reject] = []
    blocks = [_Block.of_nothing()]
    count = already = 0
    for part, first, batch in _batches(run, filtered=bool(judge.conditions)):
        uids = np.array(texts(batch.column("uid")), "S32")
        bounds, images = lists(batch.column("images"))
        known = _is_present(uids, present)
        kinds = judge.kinds(batch, bounds=bounds, images=images, known=known, rejects=rejects)
        kept = kinds >= 0
        already += int(known.sum())
        names = texts(batch.column("corpus"))
        corpora.update(name for name, is_kept in zip(names, kept.tolist(), strict=True) if is_kept)
        pictures = np.diff(bounds)
        chosen = np.repeat(kept, pictures)
        blocks.append(
            _Block(
                np.full(int(kept.sum()), part, np.int32),
                (first + np.flatnonzero(kept)).astype(np.int32),
                uids[kept],
                kinds[kept],
                numbers(images.field("phash"), np.uint64)[chosen],
                np.repeat(np.cumsum(kept) - 1 + count, pictures)[chosen],
            )
        )
        count += int(kept.sum())
    part, offset, uid, kind, phashes, owners = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return Scan(part, offset, uid, kind, list(judge.codes), phashes, owners, sorted(corpora), already, rejects)


class _Block(NamedTuple):
    """The arrays of a Scan, of one batch."""

    part: I32
    offset: I32
    uid: Uids
    kind: I32
    phashes: U64
    owners: I64

    @classmethod
    def of_nothing(cls) -> _Block:
        i32 = np.zeros(0, np.int32)
        return cls(i32, i32, np.zeros(0, "S32"), i32, np.zeros(0, np.uint64), np.zeros(0, np.int64))


def _batches(run: Run, *, filtered: bool) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Part number, row of the first record within the part, and a batch of records."""
    for part, path in enumerate(run.annotation_paths()):
        first = 0
        columns = [*_COLUMNS, *(_FILTER_COLUMNS if filtered else ())]
        for batch in read_tables(path, schema=ANNOTATIONS, columns=columns):
            yield part, first, batch
            first += batch.num_rows


def _is_present(wanted: Uids, present: Uids) -> npt.NDArray[np.bool_]:
    if not len(present):
        return np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(present, wanted), len(present) - 1)
    return present[at] == wanted


class _Judge:
    """Gives each record the number of its kind, or a reject."""

    def __init__(self, config: BuildConfig, *, tags: dict[str, int]) -> None:
        self.conditions = [(text, parse_filter(text, tags=tags)) for text in config.filters]
        self.codes: dict[_Kind, int] = {}
        """Numbers by kind, in the order in which the kinds were found."""
        self._format = config.format
        self._found: dict[_Pictures, _Kind | tuple[None, Reason, str]] = {}

    def kinds(
        self,
        batch: pa.RecordBatch,
        *,
        bounds: I64,
        images: pa.Array,
        known: npt.NDArray[np.bool_],
        rejects: list[Reject],
    ) -> I32:
        """Number in `codes` of each record's kind, -1 for one that is known or was added to `rejects` [rows]."""
        tasks, ends = texts(batch.column("task")), bounds.tolist()
        roles, formats = texts(images.field("role")), texts(images.field("format"))
        facts = self._facts(batch, tasks) if self.conditions else None
        kinds = np.full(batch.num_rows, -1, np.int32)
        for i in np.flatnonzero(~known).tolist():
            a, b = ends[i], ends[i + 1]
            pictures = tasks[i], tuple(roles[a:b]), tuple(formats[a:b])
            found = self._found.get(pictures) or self._found.setdefault(pictures, self._kind(*pictures))
            if found[0] is not None and facts is not None:
                failed = next((text for text, holds in self.conditions if not holds(facts[i])), None)
                found = found if failed is None else (None, "filtered", failed)
            if found[0] is None:
                row, record = batch.column("row")[i].as_py(), batch.column("id")[i].as_py()
                rejects.append(Reject(row=row, id=record, stage="shard", reason=found[1], detail=found[2]))
            else:
                kinds[i] = self.codes.setdefault(found, len(self.codes))
        return kinds

    def _kind(self, task: str, roles: tuple[str, ...], formats: tuple[str, ...]) -> _Kind | tuple[None, Reason, str]:
        """Task and signature of a record with these pictures, or why it cannot be stored."""
        stored: dict[str, str] = {}
        for role, kind in zip(roles, formats, strict=True):
            extension = self._format or EXTENSIONS.get(kind.lower())
            if extension is None:
                return None, "unsupported_format", f"{role} is {kind}: give --format jpg, png or webp"
            stored[role] = extension
        missing = [role for role in _NEEDED[task] if role not in stored]
        if missing:
            return None, "image_missing", f"a record of task {task} needs {' and '.join(missing)}"
        return task, signature_of(stored)

    def _facts(self, batch: pa.RecordBatch, tasks: Sequence[str]) -> list[Facts]:
        corpora = texts(batch.column("corpus"))
        rows = cast("list[_Facts]", batch.select(_FILTER_COLUMNS).to_pylist())
        return [_facts(row, task=task, corpus=name) for row, task, name in zip(rows, tasks, corpora, strict=True)]


def _facts(row: _Facts, *, task: str, corpus: str) -> Facts:
    probs = row["tag_probs"]
    known = [p for p in probs if p is not None]
    confidence = min((max(p, 1 - p) for p in known), default=None)
    return Facts(task, corpus, row["tag_ids"], probs, confidence, row["warnings"])
