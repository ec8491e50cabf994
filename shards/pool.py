"""Shards written by several processes; each shard is one task, so a lost process loses at most one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    threaded: bool = True
    """Each process hashes and writes in a thread of its own."""

    def fill(self, shard: ShardPlan, *, rows: RunRows) -> Filled:
        """Write the tar of one shard, not yet durable."""
        filled = Filled(shard, root=self.root, run_hash=self.run_hash, plan=self.plan)
        filled.fill(rows=rows, corpus=self.corpus, config=self.config, threaded=self.threaded)
        return filled


@dataclass(frozen=True, slots=True)
class Writers:
    """The processes of a build."""

    pool: ProcessPoolExecutor | None
    """Those beside this one, None if there are none."""
    threaded: bool
    """There are cores for a second thread in each."""


@contextmanager
def writers(count: int | None, *, samples: int) -> Iterator[Writers]:
    """`count` processes that write, this one included (None: one a core if there is enough).

    One starts at once, which takes as long as planning, the others when there is work for them.
    """
    cores = os.cpu_count() or 1
    count = count or min(cores, 1 + samples // _WORTH_A_PROCESS)
    if count <= 1:
        yield Writers(None, threaded=True)
        return
    pool = ProcessPoolExecutor(count - 1, mp_context=multiprocessing.get_context("spawn"), initializer=_start)
    try:
        pool.submit(_begin)
        yield Writers(pool, threaded=2 * count <= cores)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def write_all(job: Job, shards: Sequence[ShardPlan], *, by: Writers, meter: Meter) -> None:
    """Write `shards` in this process and those beside it.

    Raises:
        StoppedError: Ctrl-C, a full disk, or a worker process that was killed.
    """
    job = replace(job, threaded=by.threaded)
    try:
        if by.pool is None:
            _write_here(job, shards, meter=meter)
        else:
            _write_parallel(job, shards, pool=by.pool, meter=meter)
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


def _write_parallel(job: Job, shards: Sequence[ShardPlan], *, pool: ProcessPoolExecutor, meter: Meter) -> None:
    """The processes begin with the first shards, this one with the last."""
    shared = pickle.dumps(job)
    try:
        futures = {pool.submit(_write, shared, shard): shard for shard in shards}
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
    """What one worker process keeps from shard to shard."""

    shared: bytes = b""
    job: Job
    rows: RunRows


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        if wait([parent.sentinel], 0):
            os._exit(1)  # killed while this process was starting: work may already wait in the queue
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """An orphan would wait for work for ever: end when the parent does, however it does."""
    wait([sentinel])
    os._exit(1)


def _begin() -> None:
    """Nothing: a process starts when it is given something to do."""


def _write(shared: bytes, shard: ShardPlan) -> None:
    """Write one shard of the job that `shared` is a pickle of."""
    if shared != _Worker.shared:
        _Worker.job = pickle.loads(shared)
        _Worker.rows, _Worker.shared = RunRows(_Worker.job.parts), shared
    _Worker.job.fill(shard, rows=_Worker.rows).finish()
