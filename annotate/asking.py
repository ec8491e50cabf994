"""Asking an annotator that lives in the main process: ledger first, then batches, several at a time if it likes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ..schema import Taxonomy
from .base import Annotator, Failure, Labels, Prepared
from .ledger import Ledger, Reply, content_key
from .outcome import Outcome, to_outcome
from .patience import patiently
from .work import Worked

_GRACE_SECONDS = 10.0
"""How long replies under way are waited for after a fault or Ctrl-C."""


class Asker:
    """Turns prepared pairs of one part into records, never asking what the ledger already answers."""

    def __init__(
        self,
        annotator: Annotator,
        ledger: Ledger[Reply],
        *,
        taxonomy: Taxonomy,
        patience_seconds: float,
        retry: Sequence[str] = (),
    ) -> None:
        """Set up.

        Args:
            annotator: who is asked.
            ledger: replies of this part.
            taxonomy: checks replies.
            patience_seconds: how long a full disk is waited for.
            retry: reasons of logged failures that are asked again.
        """
        self.tokens = (0, 0)
        """Prompt and completion tokens of replies received by this process."""
        self.logged_tokens = (0, 0)
        """The same of replies that killed sessions left in the ledger."""
        for reply in ledger.values():
            self.logged_tokens = _counted(self.logged_tokens, reply)
        self._retry = retry
        self._annotator = annotator
        self._ledger = ledger
        self._taxonomy = taxonomy
        self._patience = patience_seconds

    def outcomes(self, worked: Iterable[Worked]) -> Iterator[Outcome]:
        """One record for each item, in any order. Finished records pass through.

        Raises:
            StoppedError: the annotator or the disk stayed unavailable; every reply received so far is in the ledger.
        """
        batch: list[tuple[str, Prepared]] = []
        running: dict[Future[list[Reply]], list[tuple[str, Prepared]]] = {}
        with ThreadPoolExecutor(self._annotator.parallel_batches, thread_name_prefix="annotate") as threads:
            try:
                for item in worked:
                    if not isinstance(item, Prepared):
                        yield item
                        continue
                    hashes = {image.role: image.sha256 for image in item.images}
                    key = content_key(item.pair, hashes, self._annotator.provenance)
                    known = self._ledger.get(key)
                    if known is not None and not (isinstance(known, Failure) and known.reason in self._retry):
                        yield self._outcome(item, known)
                        continue
                    batch.append((key, item))
                    if len(batch) == self._annotator.batch_size:
                        self._start(threads, running, batch)
                        batch = []
                        # One batch more than the annotator works on waits ready, so that it never waits for us.
                        while len(running) > self._annotator.parallel_batches:
                            yield from self._collect(running)
                if batch:
                    self._start(threads, running, batch)
                while running:
                    yield from self._collect(running)
                self._commit()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self._keep_what_arrives(running)
                raise

    def _start(
        self,
        threads: ThreadPoolExecutor,
        running: dict[Future[list[Reply]], list[tuple[str, Prepared]]],
        batch: list[tuple[str, Prepared]],
    ) -> None:
        prepared = [item for _, item in batch]
        running[threads.submit(lambda: list(self._annotator.annotate(prepared)))] = batch

    def _collect(self, running: dict[Future[list[Reply]], list[tuple[str, Prepared]]]) -> Iterator[Outcome]:
        while not (done := wait(running, timeout=self._ledger.due_in, return_when=FIRST_COMPLETED).done):
            self._commit()
        for future in done:
            batch = running.pop(future)
            replies = future.result()
            for (key, _), reply in zip(batch, replies, strict=True):
                self._ledger.append(key, reply)
                self.tokens = _counted(self.tokens, reply)
            if self._ledger.due:
                self._commit()
            for (_, item), reply in zip(batch, replies, strict=True):
                yield self._outcome(item, reply)

    def _keep_what_arrives(self, running: dict[Future[list[Reply]], list[tuple[str, Prepared]]]) -> None:
        """After a fault: batches that are answered soon all the same enter the ledger, which the caller closes."""
        wait(running, timeout=_GRACE_SECONDS)
        for future, batch in running.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                for (key, _), reply in zip(batch, future.result(), strict=True):
                    self._ledger.append(key, reply)

    def _commit(self) -> None:
        patiently(self._ledger.commit, seconds=self._patience)

    def _outcome(self, item: Prepared, reply: Reply) -> Outcome:
        return to_outcome(item, reply, provenance=self._annotator.provenance, taxonomy=self._taxonomy)


def _counted(tokens: tuple[int, int], reply: Reply) -> tuple[int, int]:
    if not isinstance(reply, Labels):
        return tokens
    return tokens[0] + reply.usage[0], tokens[1] + reply.usage[1]
