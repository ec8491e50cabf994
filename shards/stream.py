"""The stream: an endless sequence of batches that any number of readers can share.

Batch p of the sequence is a pure function of (snapshot, selection and overlay, batching, seed, p); epoch e is the
batches [e * batches_per_epoch, (e + 1) * batches_per_epoch). Rank r of R reads p = start + r, start + r + R, ...; after
k steps the next start is start + k * R, whatever R was. So the state is one number with a fingerprint, resuming costs
nothing, and a changed world size continues the same order:

    stream = ShardStream("SHARDS", config=StreamConfig(batch_size=8, seed=1))
    start = stream.resume(saved) if saved else 0
    for batch in stream.batches(rank=rank, world=world, start=start):
        train_step(batch.samples)
        saved = stream.state(batch.next_start)  # dict: put it into the checkpoint

Every batch is uniform in task, signature and bucket; neighbouring batches alternate between tasks in exact proportion,
so a global step of several batches mixes task families.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np

from ..schema import ConfigError, DataError
from ..schema.configs.shards import StreamConfig
from .buckets import Bucket
from .faults import Fault, FaultLog
from .index import key_at
from .indexmap import tag_ids_of
from .opening import OpenedSet, open_set
from .order import GroupOrder, Interleaving
from .permutation import derive
from .sample import MAX_SPAN_BYTES, Sample, parse_sample
from .selection import Group, select
from .state import StreamState, check_state, fingerprint
from .tars import BadSpan
from .unread import UnreadSamples

__all__ = ["Batch", "Fault", "Sample", "ShardStream", "StreamConfig", "StreamState"]

T = TypeVar("T")
_Record = tuple[int, int, int, int, int]
"""Map record, shard, offset, size and crc32 of one sample."""

_REPLACEMENTS = 16
"""How many replacements are tried for one sample before the stream gives up."""
_DEFAULT_PREFETCH = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one task, signature and bucket."""

    position: int
    """In the global sequence."""
    epoch: int
    task: str
    signature: str
    bucket: Bucket
    samples: tuple[Sample, ...]
    next_start: int
    """Position at which all ranks go on once each has consumed its batch of this step."""
    faults: tuple[Fault, ...] = ()
    """Samples of this batch that could not be read and were replaced."""

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a batch holds before it is read."""

    position: int
    epoch: int
    group: int
    records: list[_Record]


class ShardStream:
    """Random access to the endless sequence of batches of one selection; see the module's text.

    `shards` is a folder or an fsspec URL. `max_corrupt` bounds the different samples that may be replaced because
    their bytes are bad. Copies may be sent to other processes (spawn or fork). What a URL needs is kept in `cache`
    (default: TAGMOE_CACHE, or the user's cache folder), tars in at most about `cache_bytes`.

    With `pictures=False` samples come from the indexes alone: the same samples in the same order, with `images` and
    `extra` empty, and no tar is opened. `refuse` gives the reason why a sample cannot be used, "" where it can; a
    refused one is replaced and counted as if its bytes were bad. It must depend on nothing but the sample.

    Raises:
        DataError: not a finished shard set, or damaged.
        ConfigError: a selection that the set cannot serve.
    """

    def __init__(
        self,
        shards: str | Path,
        *,
        config: StreamConfig | None = None,
        max_corrupt: int = 100,
        cache: Path | None = None,
        cache_bytes: int = 16 << 30,
        pictures: bool = True,
        refuse: Callable[[Sample], str] | None = None,
    ) -> None:
        self.shards = str(shards)
        self.config = config or StreamConfig()
        self.max_corrupt = max_corrupt
        self.cache, self.cache_bytes = cache, cache_bytes
        self.pictures, self.refuse = pictures, refuse
        self._open()

    def _open(self) -> None:
        config = self.config
        self._set: OpenedSet = open_set(
            self.shards,
            number=config.snapshot,
            overlay=config.overlay,
            cache=self.cache,
            cache_bytes=self.cache_bytes,
        )
        self.snapshot = self._set.snapshot
        self._names = [shard.name for shard in self.snapshot.shards]
        self._unread = None if self.pictures else UnreadSamples(self._set.source.local, self.snapshot)
        self.groups: list[Group] = select(
            self._set.index, snapshot=self.snapshot, config=config, overlay=self._set.overlay
        )
        self.fingerprint = fingerprint(
            config, content_hash=self.snapshot.content_hash, overlay_hash=self._set.overlay_hash
        )
        self.faults = FaultLog(self.max_corrupt)
        self._lock = Lock()
        self._orders = [self._order(group) for group in self.groups]
        self._pass_batches = [self._batches_in_pass(group) for group in self.groups]
        counts = [
            max(1, round(group.weight * batches)) if batches else 0
            for group, batches in zip(self.groups, self._pass_batches, strict=True)
        ]
        self._counts = counts
        paths = [(g.task, g.signature, f"{g.bucket[0]}x{g.bucket[1]}", repr(g.weight)) for g in self.groups]
        self._interleaving = Interleaving(counts, paths=paths)
        self.batches_per_epoch = self._interleaving.total
        if not self.batches_per_epoch:
            sizes = [group.size for group in self.groups]
            raise ConfigError(
                f"no group fills a batch of {config.batch_size} (sizes {sizes}) and ragged is drop: use keep"
            )

    def __reduce__(self) -> tuple[object, ...]:
        options = (self.config, self.max_corrupt, self.cache, self.cache_bytes, self.pictures, self.refuse)
        return _reopen, (self.shards, *options)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of the selection, each counted once (weights do not count)."""
        return sum(group.size for group in self.groups)

    def state(self, position: int) -> StreamState:
        """State of a run whose next step starts at `position` (`batch.next_start`)."""
        return StreamState(
            version=1,
            position=position,
            epoch=position // self.batches_per_epoch,
            fingerprint=dict(self.fingerprint),
        )

    def resume(self, state: StreamState) -> int:
        """The position to pass as `start`.

        Raises:
            ConfigError: the state belongs to another order; names what differs.
        """
        return check_state(state, expected=self.fingerprint)

    def batch(self, position: int, *, world: int = 1, rank: int = 0) -> Batch:
        """The batch at `position` of the global sequence."""
        return self._read(self._plan(position), next_start=position - rank + world)

    def places(self, position: int) -> list[tuple[str, int, int]]:
        """Shard, offset and size of each sample of the batch at `position`; nothing is read."""
        names = self.snapshot.shards
        return [(names[shard].name, offset, size) for _, shard, offset, size, _ in self._plan(position).records]

    def batches(
        self,
        *,
        rank: int = 0,
        world: int = 1,
        worker: int = 0,
        workers: int = 1,
        start: int = 0,
        stop: int | None = None,
        prefetch: int = _DEFAULT_PREFETCH,
    ) -> Iterator[Batch]:
        """Batches of one reader in order: positions start + rank + k * world, every `workers`-th of them from `worker`.

        Endless unless `stop` (a position) is given; where (stop - start) is no multiple of `world`, the first ranks
        get one batch more. `prefetch` batches are read ahead by as many threads; 0 reads when asked.
        """
        if not (0 <= rank < world and 0 <= worker < workers):
            raise ConfigError(f"rank {rank} of {world}, worker {worker} of {workers}: expected 0 <= rank < world")
        if start < 0:
            raise ConfigError(f"start ({start}) must not be negative")
        first, stride = start + rank + worker * world, world * workers
        positions = _count(first, stop=stop, stride=stride)
        if prefetch <= 0:
            for position in positions:
                yield self.batch(position, world=world, rank=rank)
            return
        yield from self._ahead(positions, world=world, rank=rank, prefetch=prefetch)

    def raw_batches(
        self, *, rank: int = 0, world: int = 1, start: int = 0, stop: int | None = None
    ) -> Iterator[list[bytes]]:
        """The same samples in the same order as `batches`, as stretches of tar, checked but not parsed.

        For copying and counting; `tars.split_span` finds the members.
        """
        for position in _count(start + rank, stop=stop, stride=world):
            plan = self._plan(position)
            spans = self._spans(plan.records)
            if spans is None:
                spans = [self._good(record, plan=plan, faults=[], use=self._bytes) for record in plan.records]
            yield spans

    def _ahead(self, positions: Iterator[int], *, world: int, rank: int, prefetch: int) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(max_workers=prefetch, thread_name_prefix="tagmoe-stream")
        pending: deque[Future[Batch]] = deque()
        try:
            for position in positions:
                pending.append(pool.submit(self._read, self._plan(position), next_start=position - rank + world))
                if len(pending) > prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            pool.shutdown(wait=True)

    def _order(self, group: Group) -> GroupOrder:
        config = self.config
        return GroupOrder(
            group.size,
            key=derive(config.seed, "group", group.name),
            block=config.block_samples,
            window=config.window_blocks,
            shuffle=config.shuffle,
        )

    def _batches_in_pass(self, group: Group) -> int:
        size = self.config.batch_size
        return group.size // size if self.config.ragged == "drop" else -(-group.size // size)

    def _plan(self, position: int) -> _Plan:
        epoch, within = divmod(position, self.batches_per_epoch)
        group, number = self._interleaving.locate(within, key=derive(self.config.seed, "epoch", epoch))
        pass_, batch = divmod(epoch * self._counts[group] + number, self._pass_batches[group])
        start = batch * self.config.batch_size
        stop = min(start + self.config.batch_size, self.groups[group].size)
        with self._lock:
            numbers = self._orders[group].positions(pass_, start=start, stop=stop)
        chosen = self.groups[group].records(numbers)
        rows = self._set.index.records[chosen]
        columns = (rows[name].tolist() for name in ("shard", "offset", "size", "crc32"))
        return _Plan(position, epoch, group, list(zip(chosen.tolist(), *columns, strict=True)))

    def _read(self, plan: _Plan, *, next_start: int) -> Batch:
        group = self.groups[plan.group]
        faults: list[Fault] = []
        samples = tuple(
            sample or self._good(record, plan=plan, faults=faults, use=self._sample)
            for record, sample in zip(plan.records, self._at_once(plan.records), strict=True)
        )
        return Batch(
            plan.position, plan.epoch, group.task, group.signature, group.bucket, samples, next_start, tuple(faults)
        )

    def _at_once(self, records: list[_Record]) -> list[Sample | None]:
        """The samples of all records with little done for each; None where `_good` has to look."""
        overlay = self._set.overlay
        spans = None if self._unread is not None or self.refuse is not None else self._spans(records)
        if spans is None:
            return [None] * len(records)
        found: list[Sample | None] = []
        for (number, *_), span in zip(records, spans, strict=True):
            try:
                tags = None if overlay is None else tag_ids_of(int(overlay[number]))
                found.append(parse_sample(span, tag_ids=tags, look=True))
            except BadSpan:
                found.append(None)
        return found

    def _spans(self, records: list[_Record]) -> list[bytes] | None:
        """The bytes of all records; None where one of them is not as it should be."""
        names = self._names
        if max(record[3] for record in records) > MAX_SPAN_BYTES:
            return None
        try:
            return self._set.source.read_all([(names[s], at, size, crc) for _, s, at, size, crc in records])
        except BadSpan:
            return None

    def _good(
        self,
        record: _Record,
        *,
        plan: _Plan,
        faults: list[Fault],
        use: Callable[[_Record], T],
    ) -> T:
        """`use` of the record, or of a replacement of the same group that follows from it alone."""
        wanted = record[0]
        for attempt in range(_REPLACEMENTS):
            try:
                return use(record)
            except BadSpan as error:
                fault = self._fault(record, reason=str(error), epoch=plan.epoch)
                faults.append(fault)
                self.faults.add(fault)
                group = self.groups[plan.group]
                drawn = derive(self.config.seed, "replace", wanted, attempt) % group.size
                record = self._record(int(group.records(np.array([drawn], np.uint64))[0]))
        group = self.groups[plan.group]
        raise DataError(
            f"sample {faults[-1].key} of {faults[-1].shard}.tar and {_REPLACEMENTS} draws in its place from the "
            f"{group.size} samples of {group.name} could not be used: run `tagmoe verify --repair` on the set"
        )

    def _record(self, number: int) -> _Record:
        row = self._set.index.records[number]
        return number, int(row["shard"]), int(row["offset"]), int(row["size"]), int(row["crc32"])

    def _bytes(self, record: _Record) -> bytes:
        _, shard, offset, size, crc32 = record
        if size > MAX_SPAN_BYTES:
            raise BadSpan(f"the index gives it {size} bytes (at most {MAX_SPAN_BYTES})")
        return self._set.source.read(self._names[shard], offset=offset, size=size, crc32=crc32)

    def _sample(self, record: _Record) -> Sample:
        number, shard, offset, _, _ = record
        overlay = self._set.overlay
        tags = None if overlay is None else tag_ids_of(int(overlay[number]))
        if self._unread is None:
            sample = parse_sample(self._bytes(record), tag_ids=tags, look=True)
        else:
            tags = tags if tags is not None else tag_ids_of(int(self._set.index.records["tags"][number]))
            sample = self._unread.sample(shard, offset=offset, tag_ids=tags)
        reason = self.refuse(sample) if self.refuse is not None else ""
        if reason:
            raise BadSpan(reason)
        return sample

    def _fault(self, record: _Record, *, reason: str, epoch: int) -> Fault:
        shard = self.snapshot.shards[record[1]].name
        return Fault(shard, key_at(self._set.source.local, shard=shard, offset=record[2]), reason, epoch)


def _count(first: int, *, stop: int | None, stride: int) -> Iterator[int]:
    while stop is None or first < stop:
        yield first
        first += stride


def _reopen(
    shards: str,
    config: StreamConfig,
    max_corrupt: int,
    cache: Path | None,
    cache_bytes: int,
    pictures: bool,
    refuse: Callable[[Sample], str] | None,
) -> ShardStream:
    return ShardStream(
        shards,
        config=config,
        max_corrupt=max_corrupt,
        cache=cache,
        cache_bytes=cache_bytes,
        pictures=pictures,
        refuse=refuse,
    )
