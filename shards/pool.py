"""Shards written by several processes; each shard is one task, so a lost process loses at most one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from ..schema import StoppedError
from ..schema.configs.shards import BuildConfig
from .console import Meter
from .corpus import Corpus
from .plan import ShardPlan
from .rows import RunRows
from .writer import Filled, Written

_WORTH_A_PROCESS = 2048
"""Samples that take longer to write than a process takes to start."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every shard of a build shares."""

    root: Path
    parts: list[Path]
    corpus: Corpus
    config: BuildConfig
    run_hash: str
    plan: str

    def fill(self, shard: ShardPlan, *, rows: RunRows) -> Filled:
        """Write the tar of one shard, not yet durable."""
        filled = Filled(shard, root=self.root, run_hash=self.run_hash, plan=self.plan)
        filled.fill(rows=rows, corpus=self.corpus, config=self.config)
        return filled


def write_all(job: Job, shards: Sequence[ShardPlan], *, workers: int | None, meter: Meter) -> None:
    """Write `shards` in up to `workers` processes, this one included (None: one a core if there is enough).

    Raises:
        StoppedError: Ctrl-C, a full disk, or a worker process that was killed.
    """
    few = 1 + sum(map(len, shards)) // _WORTH_A_PROCESS
    count = min(workers or min(os.cpu_count() or 1, few), len(shards))
    try:
        if count <= 1:
            _write_here(job, shards, meter=meter)
            return
        _write_parallel(job, shards, workers=count, meter=meter)
    except KeyboardInterrupt as error:
        raise StoppedError("stopped: finished shards are kept, the same command goes on") from error


def _write_here(job: Job, shards: Iterable[ShardPlan], *, meter: Meter) -> None:
    """One shard after another; a thread waits for the disk to hold one while the next is written."""
    with ThreadPoolExecutor(1, thread_name_prefix="tagmoe-finish") as behind:
        rows = RunRows(job.parts)
        finishing: Future[Written] | None = None
        for shard in shards:
            filled = job.fill(shard, rows=rows)
            try:
                if finishing is not None:
                    finishing.result()
            except BaseException as error:
                filled.discard(error)
                raise
            finishing = behind.submit(filled.finish)
            meter.update(len(shard))
        if finishing is not None:
            finishing.result()


def _write_parallel(job: Job, shards: Sequence[ShardPlan], *, workers: int, meter: Meter) -> None:
    """`workers` - 1 further processes begin with the first shards, this one with the last."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers - 1, mp_context=context, initializer=_start, initargs=(job,))
    try:
        futures = {pool.submit(_write, shard): shard for shard in shards}
        mine = _taken_back(futures)
        _write_here(job, mine, meter=meter)
        for future in as_completed(futures):
            future.result()
            meter.update(len(futures[future]))
    except BrokenProcessPool as error:
        raise StoppedError(
            "a writing process ended: killed (out of memory? --workers 1 needs the least), or the script that calls "
            "build_shards lacks `if __name__ == '__main__':`. Finished shards are kept, the same command goes on"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _taken_back(futures: dict[Future[None], ShardPlan]) -> Iterator[ShardPlan]:
    """Shards that no worker has begun, from the last on; they leave `futures`. A worker's failure is raised at once."""
    ended: deque[Future[None]] = deque()
    for future in futures:
        future.add_done_callback(ended.append)
    for future in reversed(list(futures)):
        while ended:
            other = ended.popleft()
            if not other.cancelled():
                other.result()
        if future.cancel():
            yield futures.pop(future)


class _Worker:
    """State of one worker process."""

    job: Job | None = None
    rows: RunRows | None = None


def _start(job: Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        if wait([parent.sentinel], 0):
            os._exit(1)  # killed while this process was starting: work may already wait in the queue
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _Worker.job, _Worker.rows = job, RunRows(job.parts)


def _end_with(sentinel: int) -> None:
    """An orphan would wait for work for ever: end when the parent does, however it does."""
    wait([sentinel])
    os._exit(1)


def _write(shard: ShardPlan) -> None:
    assert _Worker.job is not None
    assert _Worker.rows is not None
    _Worker.job.fill(shard, rows=_Worker.rows).finish()
