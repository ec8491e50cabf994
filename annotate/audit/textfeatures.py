"""Instructions as short hashed word vectors: what the audit's own models read, without keeping any text."""

from __future__ import annotations

import itertools
import re
import zlib
from array import array
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...schema import Run

BUCKETS = 1024
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+")
_READ_CHARS = 2000
_MOST = 160


@lru_cache(maxsize=1 << 14)
def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS


def buckets_of(text: str) -> list[int]:
    """Distinct buckets of the words and word pairs of the first 2,000 characters, at most 160, ascending."""
    words = _WORD.findall(text[:_READ_CHARS].casefold())[:_MOST]
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    return sorted({_bucket(w) for w in (*words, *pairs)})[:_MOST]


class TextVectors:
    """The instructions of a run as sparse rows: about 60 bytes a record."""

    def __init__(self, run: Run) -> None:
        buckets, ends = array("H"), array("q", [0])
        for batch in run.tables(["instruction"]):
            for text in batch.column("instruction"):
                buckets.extend(buckets_of(text.as_py()))
                ends.append(len(buckets))
        self._buckets = np.frombuffer(buckets, np.uint16)
        self._start = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._start) - 1

    def dense(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(index), BUCKETS], rows of length one (zero for an empty text)."""
        return self.grouped(index, groups=BUCKETS)

    def grouped(self, index: NDArray[np.int64], *, groups: int) -> NDArray[np.float32]:
        """[len(index), groups], the same with neighbouring buckets added up; `groups` divides BUCKETS."""
        lengths = self._start[index + 1] - self._start[index]
        row = np.repeat(np.arange(len(index)), lengths)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        column = self._buckets[np.repeat(self._start[index], lengths) + offset] // np.uint16(BUCKETS // groups)
        out = np.zeros((len(index), groups), np.float32)
        np.add.at(out.reshape(-1), row * groups + column, np.float32(1))
        out /= np.sqrt(np.maximum(lengths, 1))[:, None].astype(np.float32)
        return out
