"""`tagmoe build-shards`: plan, write in parallel, and add one snapshot when every planned shard is durable."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue, ValidationError

from ..schema import ConfigError, DataError, Frozen, Reject, Run, load_taxonomy
from ..schema.arrow import REJECTS, write_part
from ..schema.configs.shards import BuildConfig
from ..schema.files import sha256_file, write_text
from ..schema.shards import BuildSettings, BuildSource, ShardInfo, Snapshot
from .assign import assign
from .card import write_card
from .console import progress
from .corpus import open_corpus
from .indexmap import build_map
from .layout import INDEX_MAP, MANIFEST, index_name
from .lock import locked
from .manifest import known_names, load_snapshot, save_snapshot
from .near import I64
from .pack import Dropped, key_json, pack
from .plan import ShardPlan, joining_rejects, load_existing, plan_hash, plan_shards
from .pool import Job, write_all, writers
from .rows import RunRows
from .scan import Scan, scan_run
from .writer import read_note

_PROBES = 16


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What one call of `build_shards` did."""

    snapshot: Snapshot | None
    """None while other partitions have shards to write."""
    written: int
    """Shards written by this call."""
    reused: int
    """Shards that an earlier session had finished."""
    added: int
    """Samples that the new snapshot added."""
    already: int
    """Records that the set held before."""
    rejected: dict[str, int]
    """By reason."""


def build_shards(
    run: Run,
    out: Path,
    *,
    config: BuildConfig,
    corpus_uri: str | None = None,
    partition: tuple[int, int] = (0, 1),
    workers: int | None = None,
    restart: bool = False,
    quiet: bool = False,
) -> BuildResult:
    """Write the records of `run` as shards into `out`, or append those that it does not hold yet.

    May be killed at any time: the same call goes on and gives the same bytes. Calls with different `partition`
    (index, count) may run at once on a shared folder; the one that finds every shard finished adds the snapshot.

    Raises:
        ConfigError: a filter, split or taxonomy that does not fit the run or what `out` holds.
        DataError: nothing to store, or `out` holds an unfinished build of something else.
        LockedError: another process writes this partition.
        StoppedError: the disk is full, or Ctrl-C.
    """
    if (out / "run.json").exists():
        raise ConfigError(f"{out} is a run of `tagmoe annotate`: give --out another folder")
    snapshot = load_snapshot(out) if (out / MANIFEST).is_file() else None
    run_hash = run.info.run_hash or run.hash_of_parts()
    settings = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    _check_append(snapshot, config=config, taxonomy=run.info.taxonomy)
    if snapshot and any(s.run_hash == run_hash and s.settings == settings for s in snapshot.sources):
        _clear(out, run_hash=run_hash, settings=settings)
        return BuildResult(snapshot, 0, len(snapshot.shards), 0, run.info.accepted, {})
    index, count = partition
    with locked(out / ".build" / f"lock-{index}-of-{count}", what=f"partition {index}/{count} of {out}"):
        build = _Build(run, out, config, snapshot, run_hash=run_hash, settings=settings, corpus_uri=corpus_uri)
        return build.work(partition=partition, workers=workers, restart=restart, quiet=quiet)


class _Build:
    """One call's plan and its execution."""

    def __init__(
        self,
        run: Run,
        out: Path,
        config: BuildConfig,
        snapshot: Snapshot | None,
        *,
        run_hash: str,
        settings: str,
        corpus_uri: str | None,
    ) -> None:
        self.run, self.out, self.config, self.base = run, out, config, snapshot
        self.run_hash, self.settings = run_hash, settings
        self.tags = tag_table(run.info.taxonomy, config=run.info.config)
        self.parts = run.annotation_paths()
        existing = load_existing(out, snapshot)
        self.scan = scan_run(run, config=config, tags=self.tags, present=existing.uid)
        self.corpus_uri = corpus_uri
        self.existing = existing
        self.rejects: list[Reject] = list(self.scan.rejects)

    def work(self, *, partition: tuple[int, int], workers: int | None, restart: bool, quiet: bool) -> BuildResult:
        reasons = Counter(reject.reason for reject in self.rejects)
        if not len(self.scan):
            _refuse_if_nothing(self.run, self.scan, reasons, base=self.base)
            _clear(self.out, run_hash=self.run_hash, settings=self.settings)
            return BuildResult(self.base, 0, 0, 0, self.scan.already, dict(reasons))
        with writers(workers, samples=len(self.scan)) as by:
            job, shards = self._plan(restart=restart)
            mine = shards[partition[0] :: partition[1]]
            done = [shard for shard in mine if read_note(self.out, shard.name, plan=job.plan)]
            finished = {shard.name for shard in done}
            todo = [shard for shard in mine if shard.name not in finished]
            _remove_torn(self.out, {shard.name for shard in todo})
            with progress("build-shards", total=sum(map(len, mine)), unit="samples", quiet=quiet) as meter:
                meter.skip(sum(map(len, done)))
                write_all(job, todo, by=by, meter=meter)
        with locked(self.out / ".build" / "lock-snapshot", what=f"the snapshot of {self.out}", wait=True):
            return self._finish(job, shards, written=len(todo), reused=len(done))

    def _plan(self, *, restart: bool) -> tuple[Job, list[ShardPlan]]:
        spec = self.run.info.corpus
        corpus = open_corpus(spec.model_copy(update={"uri": self.corpus_uri}) if self.corpus_uri else spec)
        assignment = assign(self.scan, self.existing, config=self.config)
        self.rejects += joining_rejects(self.scan, assignment, rows=self._name)
        job = Job(self.out, self.parts, corpus, self.config, self.run_hash, plan="")

        def mean_bytes(signature: str, numbers: I64) -> float:
            return _mean_bytes(self.scan, job, numbers=numbers, signature=signature)

        taken = known_names(self.out)
        shards = plan_shards(self.scan, assignment, config=self.config, taken=taken, mean_bytes=mean_bytes)
        base = self.base.content_hash if self.base else ""
        identity = plan_hash(shards, settings=self.settings, run_hash=self.run_hash, base=base)
        names = tuple(shard.name for shard in shards)
        claim = _Claim(plan=identity, names=names, run_hash=self.run_hash, settings=self.settings)
        _claim(self.out, claim, restart=restart)
        return replace(job, plan=identity), shards

    def _name(self, number: int) -> tuple[int, str]:
        row = RunRows(self.parts).one(part=int(self.scan.part[number]), offset=int(self.scan.offset[number]))
        return row.row, row.id

    def _finish(self, job: Job, shards: Sequence[ShardPlan], *, written: int, reused: int) -> BuildResult:
        notes = [read_note(self.out, shard.name, plan=job.plan) for shard in shards]
        missing = sum(note is None for note in notes)
        if missing:
            newest = load_snapshot(self.out) if (self.out / MANIFEST).is_file() else None
            done = newest is not None and any(
                s.run_hash == self.run_hash and s.settings == self.settings for s in newest.sources
            )
            reasons = Counter(r.reason for note in notes if note for r in note.rejects)
            return BuildResult(newest if done else None, written, reused, 0, self.scan.already, dict(reasons))
        # Again: a worker that outlived a killed session by a moment may have begun a file after the first time.
        _remove_torn(self.out, {shard.name for shard in shards})
        finished = [note for note in notes if note]
        rejects = sorted((*self.rejects, *(r for n in finished for r in n.rejects)), key=lambda r: (r.row, r.id))
        infos = [note.info for note in finished if note.info]
        if not infos and not self.base:
            raise DataError(f"no record of {self.run.root} could be stored: {_counts(rejects)}")
        name = f"rejects/{self.base.number + 1 if self.base else 1:06d}.parquet"
        write_part(self.out / name, rejects, schema=REJECTS)
        snapshot = self._snapshot(infos, rejects, files={name: sha256_file(self.out / name)})
        build_map(lambda relative: self.out / relative, snapshot, path=self.out / INDEX_MAP)
        save_snapshot(self.out, snapshot)
        write_card(self.out, snapshot)
        shutil.rmtree(self.out / ".build", ignore_errors=True)
        reasons = Counter(reject.reason for reject in rejects)
        added = sum(info.samples for info in infos)
        return BuildResult(snapshot, written, reused, added, self.scan.already, dict(reasons))

    def _snapshot(self, infos: list[ShardInfo], rejects: list[Reject], *, files: dict[str, str]) -> Snapshot:
        base = self.base
        source = BuildSource(
            run_hash=self.run_hash,
            annotator=self.run.info.annotator,
            corpus=self.run.info.corpus_name,
            records=self.run.info.accepted,
            added=sum(info.samples for info in infos),
            rejected=dict(sorted(Counter(reject.reason for reject in rejects).items())),
            settings=self.settings,
        )
        corpora = list(base.corpora) if base else []
        corpora += [name for name in self.scan.corpora if name not in corpora]
        return Snapshot(
            number=base.number + 1 if base else 1,
            content_hash="",
            taxonomy=self.run.info.taxonomy,
            tags=self.tags,
            settings=_shared(self.config),
            corpora=tuple(corpora),
            shards=(*(base.shards if base else ()), *infos),
            sources=(*(base.sources if base else ()), source),
            files={**(base.files if base else {}), **files},
        ).sealed()


def tag_table(ref: str, *, config: Mapping[str, JsonValue]) -> dict[str, int]:
    """Tag ids by name of taxonomy `ref`, which the run's configuration may name as a file."""
    named = config.get("taxonomy")
    taxonomy = load_taxonomy(named if isinstance(named, str) and named.endswith(".toml") else ref)
    return {tag.name: tag.id for tag in taxonomy.tags}


def _shared(config: BuildConfig) -> BuildSettings:
    return BuildSettings(
        splits=dict(sorted(config.splits.items())),
        split_seed=config.split_seed,
        near_bits=config.near_bits,
        buckets=config.buckets,
    )


def _check_append(snapshot: Snapshot | None, *, config: BuildConfig, taxonomy: str) -> None:
    """What the set holds must have been split and bucketed by the same settings."""
    if snapshot is None:
        return
    if snapshot.taxonomy != taxonomy:
        raise ConfigError(f"the set has taxonomy {snapshot.taxonomy}, the run {taxonomy}: build it into another folder")
    wanted = _shared(config)
    for name in BuildSettings.model_fields:
        have, want = getattr(snapshot.settings, name), getattr(wanted, name)
        if have != want:
            raise ConfigError(f"the set was built with {name} = {have}, not {want}: appending needs the same")


def _refuse_if_nothing(run: Run, scan: Scan, reasons: Counter[str], *, base: Snapshot | None) -> None:
    if base is not None and scan.already:
        return
    records = run.info.accepted
    if records and reasons["image_missing"] == records:
        raise DataError(
            f"{run.root} holds {records} records of text alone: shards need pictures. Annotate a corpus with images"
        )
    raise DataError(f"no record of {run.root} can be stored ({_counts(scan.rejects) or 'it holds none'})")


def _counts(rejects: Sequence[Reject]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in rejects).most_common())


class _Claim(Frozen):
    """.build/plan.json: the build that the notes beside it belong to."""

    plan: str
    names: tuple[str, ...]
    run_hash: str
    settings: str


def _read_claim(out: Path) -> _Claim | None:
    try:
        return _Claim.model_validate_json((out / ".build" / "plan.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _clear(out: Path, *, run_hash: str, settings: str) -> None:
    """Remove what a killed session left of a build that is finished; another run's unfinished build stays."""
    found = _read_claim(out)
    if found is None or (found.run_hash, found.settings) == (run_hash, settings):
        shutil.rmtree(out / ".build", ignore_errors=True)


def _claim(out: Path, claim: _Claim, *, restart: bool) -> None:
    """Record the plan, or check that the unfinished build in `out` is this one.

    Raises:
        DataError: it is another one and `restart` is False.
    """
    with locked(out / ".build" / "lock-plan", what=f"the plan of {out}", wait=True):
        found = _read_claim(out)
        if found is not None and found.plan != claim.plan:
            if not restart:
                raise DataError(
                    f"{out} holds an unfinished build of another run or other settings: finish it with its own "
                    "command, or discard it with --restart"
                )
            for name in found.names:
                (out / f"{name}.tar").unlink(missing_ok=True)
                (out / index_name(name)).unlink(missing_ok=True)
            shutil.rmtree(out / ".build" / "done", ignore_errors=True)
            found = None
        if found is None:
            write_text(out / ".build" / "plan.json", claim.model_dump_json() + "\n")


def _remove_torn(out: Path, names: set[str]) -> None:
    """Temporary files that a killed session left of these shards."""
    for folder in (out, out / "index"):
        for path in folder.glob(".*.tmp"):
            if path.name[1:].split(".")[0] in names:
                path.unlink(missing_ok=True)


def _mean_bytes(scan: Scan, job: Job, *, numbers: I64, signature: str) -> float:
    """Mean stored size of evenly spaced records; the mean is the same wherever and how often it is asked."""
    chosen = numbers[np.unique(np.linspace(0, len(numbers) - 1, min(_PROBES, len(numbers))).astype(np.int64))]
    sizes: list[int] = []
    for _, rows in RunRows(job.parts).read(part=scan.part[chosen], offset=scan.offset[chosen]):
        for row in rows:
            try:
                files, size = pack(row, read=job.corpus.read_image, config=job.config, limits=job.corpus.spec.limits)
                text = key_json(row, split="train", group=row.uid, signature=signature, bucket="1024x1024", size=size)
            except Dropped:
                continue
            sizes.append(sum(len(data) + 1024 for data in (text, *files.values())))
    return sum(sizes) / len(sizes) if sizes else float(1 << 20)
