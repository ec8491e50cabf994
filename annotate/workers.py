"""A bounded stream of pairs through worker processes; a record that kills its worker is found and isolated."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection, resource_tracker

from ..schema import Pair, StoppedError
from .outcome import crashed
from .work import Worked

Work = Callable[[Sequence[Pair]], Sequence[Worked]]
"""Results in the order of the pairs."""

MAX_CRASHES = 3
_ALL_DYING = 10

_make_work: Callable[[], Work]
_work: Work | None = None


def _start(make_work: Callable[[], Work]) -> None:
    # `make_work` is called by the first chunk: an error there reaches the caller with its message, while one in an
    # initializer would only break the pool and look like a crash.
    global _make_work
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _make_work = make_work


def _leave_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: it holds both ends of its queue itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run(pairs: Sequence[Pair]) -> Sequence[Worked]:
    global _work
    if _work is None:
        _work = _make_work()
        # What was imported and loaded stays: the garbage collector need not walk it again and again.
        gc.freeze()
    return _work(pairs)


class WorkerPool:
    """Processes that turn pairs into results, in any order, each exactly once."""

    def __init__(self, make_work: Callable[[], Work], *, workers: int, chunk: int, prefetch: int = 0) -> None:
        """Set up; processes start with the first chunk.

        Args:
            make_work: picklable; called once in every process.
            workers: processes.
            chunk: pairs handed to a process at once.
            prefetch: results to keep in flight beyond two chunks a worker.
        """
        self._make_work = make_work
        self._workers = workers
        self._chunk = chunk
        self._in_flight = workers * 2 + -(-prefetch // chunk)
        self._pool: ProcessPoolExecutor | None = None

    def run(self, pairs: Iterable[Pair]) -> Iterator[Worked]:
        """One result for each pair.

        Raises:
            StoppedError: worker after worker dies: the machine, not a record.
            Exception: whatever a worker raised.
        """
        source = iter(pairs)
        running: dict[Future[Sequence[Worked]], list[Pair]] = {}
        suspects: deque[Pair] = deque()
        while True:
            while not suspects and len(running) < self._in_flight and (chunk := list(islice(source, self._chunk))):
                running[self._submit(chunk)] = chunk
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                chunk = running.pop(future)
                try:
                    yield from future.result()
                except BrokenProcessPool:
                    suspects.extend(chunk)
            if suspects and not running:
                self.close()
                yield from self._one_by_one(suspects)
                suspects.clear()

    def _one_by_one(self, suspects: Iterable[Pair]) -> Iterator[Worked]:
        dying = 0
        for pair in suspects:
            result = self._alone(pair)
            dying = 0 if result is not None else dying + 1
            if dying >= _ALL_DYING:
                raise StoppedError(
                    f"{dying} records in a row killed their worker, the last is {pair.id!r}: that looks like the "
                    "machine (out of memory?), not the data. Use fewer --workers and run the same command again"
                )
            yield result if result is not None else crashed(pair, times=MAX_CRASHES)

    def _alone(self, pair: Pair) -> Worked | None:
        for _ in range(MAX_CRASHES):
            try:
                return self._submit([pair]).result()[0]
            except BrokenProcessPool:
                self.close()
        return None

    def _submit(self, pairs: list[Pair]) -> Future[Sequence[Worked]]:
        # A worker inherits the blocked signal: Ctrl-C is the parent's business even while the child still imports. The
        # tracker is started before, because its start unblocks the signal.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._started().submit(_run, pairs)
        except BrokenProcessPool as error:
            failed: Future[Sequence[Worked]] = Future()
            failed.set_exception(error)
            return failed
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # One BLAS thread a worker: there is a worker for every core already.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_start, initargs=(self._make_work,)
            )
        return self._pool

    def close(self) -> None:
        """Stop the processes; work in flight is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
