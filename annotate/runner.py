"""`tagmoe annotate`: every record ends in exactly one of annotations or rejects, however often the run is killed."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from ..schema import ConfigError, Pair, Reject, Run, RunInfo, load_taxonomy
from ..schema.configs.annotate import AnnotateConfig
from ..schema.runs import PartInfo, check_part, part_paths, save_part, save_run_info
from ..shards.console import Meter, progress
from ..shards.corpus import Corpus, open_corpus
from ..shards.lock import locked
from .asking import Asker
from .base import Annotator, Provenance
from .factory import make_annotator
from .ledger import RECORDS, REPLIES, Ledger
from .outcome import Outcome
from .partitions import durable_elsewhere, partition_root
from .parts import found_part, part_count, rows_of
from .patience import patiently
from .work import make_worker
from .workers import WorkerPool

if TYPE_CHECKING:
    from .ray_executor import RayPool

T = TypeVar("T")


@dataclass(slots=True)
class _Seen:
    """Counts that the live view shows."""

    meter: Meter
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def count(self, outcome: Outcome, *, tokens: int) -> None:
        """Count one finished record."""
        if isinstance(outcome, Reject):
            self.reasons[outcome.reason] += 1
        else:
            self.accepted += 1
        rejected = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common(3))
        note = f"ok {self.accepted}, rejected {self.reasons.total()}" + (f" ({rejected})" if rejected else "")
        if tokens:
            note += f", {tokens / max(time.monotonic() - self.started, 1e-6):,.0f} tokens/s"
        self.meter.update(note=note)


def annotate(
    config: AnnotateConfig,
    *,
    out: Path,
    partition: tuple[int, int] | None = None,
    retry: Sequence[str] = (),
    quiet: bool = False,
) -> RunInfo:
    """Annotate a corpus into RUN, going on where an earlier process stopped.

    Args:
        config: see AnnotateConfig.
        out: RUN folder.
        partition: (i, n): take the parts p with p mod n = i, in a folder of their own under RUN; `merge` joins them.
        retry: reject reasons whose records are tried once more.
        quiet: no progress.

    Returns:
        run.json's content.

    Raises:
        ConfigError: RUN was made from another corpus, annotator or taxonomy, or covers more rows than `limit`.
        DataError: a finished part's files were changed.
        LockedError: another process works on RUN.
        StoppedError: a full disk or dead endpoints outlasted the patience; the same command goes on.
    """
    if (out / "manifest.json").exists() and not (out / "run.json").exists():
        raise ConfigError(f"{out} is a shard set, not a run: use another --out")
    corpus = open_corpus(config.corpus)
    config = config.model_copy(update={"corpus": corpus.spec})
    root = out if partition is None else partition_root(out, partition)
    with locked(root / "lock", what=str(root)):
        annotator = _make_annotator(config)
        try:
            info = _load_info(root, config, corpus, annotator, partition=partition)
            work = _Work(config, corpus, annotator, info, root=root, out=out)
            return work.run(retry, quiet=quiet)
        finally:
            annotator.close()


@dataclass(slots=True)
class _Work:
    """One process's work on one run folder."""

    config: AnnotateConfig
    corpus: Corpus
    annotator: Annotator
    info: RunInfo
    root: Path
    out: Path

    def run(self, retry: Sequence[str], *, quiet: bool) -> RunInfo:
        started, before = time.monotonic(), self.info.timings.get("annotate", 0.0)
        self._save()
        durable = {part.part: part for part in self.info.parts}
        mine = [part for part in range(part_count(self.info.rows)) if self._is_mine(part)]
        pool = self._pool()
        total = sum(len(rows_of(part, rows=self.info.rows)) for part in mine)
        with progress("annotate", total=total, quiet=quiet) as meter:
            seen = _Seen(meter)
            try:
                for part in mine:
                    info = durable.get(part)
                    again = retry if info and any(info.reasons.get(reason) for reason in retry) else ()
                    if (
                        info is None
                        or again
                        or info.annotations + info.rejects < len(rows_of(part, rows=self.info.rows))
                    ):
                        # Described again only when its new files are whole: until then a kill leaves `found_part`.
                        durable.pop(part, None)
                        self._describe(durable)
                        durable[part] = self._make_part(part, pool, seen, before=info, retry=again)
                        self.info.timings["annotate"] = round(before + time.monotonic() - started, 3)
                        self._describe(durable)
                    else:
                        meter.skip(info.annotations + info.rejects)
            finally:
                pool.close()
        self.info.complete = True
        self.info.run_hash = Run(self.root, self.info).hash_of_parts()
        self._save()
        return self.info

    def _pool(self) -> WorkerPool | RayPool:
        annotator, config = self.annotator, self.config
        max_pixels = annotator.max_pixels if annotator.sees_pixels else None
        prefetch = 0 if annotator.embedded else annotator.batch_size * annotator.parallel_batches
        if config.executor == "ray":
            from .ray_executor import RayPool

            return RayPool(
                config, ray_config=config.ray, max_pixels=max_pixels, embedded=annotator.embedded, prefetch=prefetch
            )
        return WorkerPool(
            partial(make_worker, config, max_pixels=max_pixels, embedded=annotator.embedded),
            workers=config.workers or os.cpu_count() or 1,
            chunk=config.chunk,
            prefetch=prefetch,
        )

    def _is_mine(self, part: int) -> bool:
        if self.info.partition is None:
            return True
        index, count = self.info.partition
        return part % count == index and not durable_elsewhere(self.out, self.root, part)

    def _describe(self, durable: dict[int, PartInfo]) -> None:
        self.info.parts = [durable[key] for key in sorted(durable)]
        self._save()

    def _save(self) -> None:
        self._patiently(lambda: save_run_info(self.root, self.info))

    def _make_part(
        self, part: int, pool: WorkerPool | RayPool, seen: _Seen, *, before: PartInfo | None, retry: Sequence[str]
    ) -> PartInfo:
        rows = rows_of(part, rows=self.info.rows)
        place = self.root / "ledger" / f"part-{part:05d}"
        tokens = (0, 0) if before is None else before.tokens
        with (
            closing(Ledger(place.with_suffix(".log"), REPLIES)) as replies,
            closing(Ledger(place.with_suffix(".rows.log"), RECORDS, after=replies)) as records,
        ):
            todo = self._to_do(part, rows, records, retry)
            seen.meter.skip(len(rows) - len(todo))
            worked = pool.run(self._pairs(rows, todo, records, seen))
            if self.annotator.embedded:
                self._log(cast("Iterator[Outcome]", worked), records, seen)
            else:
                asker = Asker(
                    self.annotator,
                    replies,
                    taxonomy=load_taxonomy(self.config.taxonomy),
                    patience_seconds=self.config.patience_seconds,
                    retry=retry,
                )
                self._log(asker.outcomes(worked), records, seen, asker)
                counts = zip(tokens, asker.logged_tokens, asker.tokens, strict=True)
                tokens = cast("tuple[int, int]", tuple(map(sum, counts)))
            self._patiently(records.commit)
            info = self._patiently(lambda: save_part(self.root, part, records.values(map(str, rows)), tokens=tokens))
        replies.remove()
        records.remove()
        return info

    def _to_do(self, part: int, rows: range, records: Ledger[Outcome], retry: Sequence[str]) -> list[int]:
        """Rows of `part` that have no record yet, or one that is tried again; what its files hold enters `records`."""
        for record in found_part(self.root, part):
            if record.row in rows and str(record.row) not in records:
                self._append(record, records)

        def is_to_do(row: int) -> bool:
            if str(row) not in records:
                return True
            record = records.get(str(row)) if retry else None
            return isinstance(record, Reject) and record.reason in retry

        return [row for row in rows if is_to_do(row)]

    def _log(
        self, outcomes: Iterator[Outcome], records: Ledger[Outcome], seen: _Seen, asker: Asker | None = None
    ) -> None:
        """Each of `outcomes` as it comes: in the log, so that a killed session's records are not made again."""
        for outcome in outcomes:
            self._append(outcome, records)
            seen.count(outcome, tokens=sum(asker.tokens) if asker else 0)

    def _append(self, outcome: Outcome, records: Ledger[Outcome]) -> None:
        records.append(str(outcome.row), outcome)
        if records.due:
            self._patiently(records.commit)

    def _patiently(self, action: Callable[[], T]) -> T:
        return patiently(action, seconds=self.config.patience_seconds)

    def _pairs(self, rows: range, todo: list[int], records: Ledger[Outcome], seen: _Seen) -> Iterator[Pair]:
        """Pairs of the rows to do; rows that cannot be read enter `records`."""
        wanted = set(todo)
        for row, item in zip(rows, self.corpus.records(rows.start, rows.stop), strict=True):
            if row not in wanted:
                continue
            if isinstance(item, Reject):
                self._append(item, records)
                seen.count(item, tokens=0)
            else:
                yield item


def _make_annotator(config: AnnotateConfig) -> Annotator:
    """The annotator of the main process: with Ray, unless it is embedded in the tasks, a crowd of actors behind one."""
    embedded = config.annotator == "local" and config.escalate is None
    if config.executor == "ray" and not embedded:
        from .ray_executor import RayAnnotator

        return RayAnnotator(config, ray_config=config.ray)
    return make_annotator(config)


def _load_info(
    root: Path, config: AnnotateConfig, corpus: Corpus, annotator: Annotator, *, partition: tuple[int, int] | None
) -> RunInfo:
    """run.json to start from: the recorded one with the parts that are still whole, or a fresh one."""
    taxonomy = load_taxonomy(config.taxonomy)
    provenance = annotator.provenance
    rows = min(corpus.rows, config.limit or corpus.rows)
    fresh = RunInfo(
        taxonomy=taxonomy.ref,
        annotator=provenance.annotator,
        settings_hash=settings_hash(provenance, config),
        corpus=corpus.spec,
        corpus_name=corpus.name,
        fingerprint=corpus.fingerprint,
        rows=rows,
        partition=partition,
        config=config.model_dump(mode="json"),
        versions=_versions(),
    )
    if not (root / "run.json").exists():
        return fresh
    old = Run.open(root, allow_incomplete=True).info
    for name, what in (
        ("fingerprint", "another corpus (or the corpus changed)"),
        ("corpus_name", "another corpus name"),
        ("taxonomy", "another taxonomy"),
        ("annotator", "another annotator"),
        ("settings_hash", "other settings of the annotator"),
    ):
        was, now = getattr(old, name), getattr(fresh, name)
        if was and was != now:
            raise ConfigError(f"{root} was made with {what}: {was}, now {now}. Use another --out, or the same settings")
    if old.parts and old.rows > rows:
        raise ConfigError(
            f"{root} already covers {old.rows} rows, --limit {rows} would drop some: leave it out, or use another --out"
        )
    fresh.timings = old.timings
    for part in old.parts:
        if all(path.is_file() for path in part_paths(root, part.part)):
            check_part(root, part)
            fresh.parts.append(part)
    return fresh


def settings_hash(provenance: Provenance, config: AnnotateConfig) -> str:
    """Hex sha256 over everything that determines records: provenance and the bounds on pictures and text."""
    parts = (*astuple(provenance), config.corpus.limits.model_dump_json())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("tagmoe", "pyarrow", "pillow", "numpy", "pydantic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
