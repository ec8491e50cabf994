"""Samples that could not be read: counted, named, and too many of them stop the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from threading import Lock

from ..schema import DataError

_LOG = logging.getLogger("tagmoe.shards")


@dataclass(frozen=True, slots=True)
class Fault:
    """One sample that was replaced."""

    shard: str
    key: str
    """uid of the sample, or its byte offset where the index cannot say."""
    reason: str
    epoch: int


@dataclass(slots=True)
class FaultLog:
    """The faults of one reader; more than `limit` different samples raise."""

    limit: int
    faults: list[Fault] = field(default_factory=list[Fault])
    _seen: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    _lock: Lock = field(default_factory=Lock)

    def add(self, fault: Fault) -> None:
        """Record and log one fault.

        Raises:
            DataError: more than `limit` different samples were bad.
        """
        with self._lock:
            self.faults.append(fault)
            self._seen.add((fault.shard, fault.key))
            count = len(self._seen)
        _LOG.warning("replaced sample %s of %s.tar in epoch %d: %s", fault.key, fault.shard, fault.epoch, fault.reason)
        if count > self.limit:
            raise DataError(
                f"{count} samples could not be read (limit {self.limit}), the last one {fault.key} "
                f"of {fault.shard}.tar ({fault.reason}): run `tagmoe verify` on the set, or raise max_corrupt"
            )
