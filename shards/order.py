"""The order of one epoch: groups interleaved in exact proportion, each group shuffled with locality.

Everything here is arithmetic on integers; nothing reads a file and nothing grows with the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .permutation import U64, Permutation, derive

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """A leaf (one group) or a pair of subtrees, with the number of batches below."""

    count: int
    leaf: int = -1
    left: _Node | None = None
    right: _Node | None = None
    name: str = ""


class Interleaving:
    """A bijection between range(total) and the batches (group, number) of all groups.

    `counts[g]` batches of group g are spread evenly: at each fork of the tree the first q positions hold
    floor((q * a + phase) / (a + b)) batches of the left branch, so any stretch of s positions holds its share of a
    branch within one batch. `paths[g]` names the levels (task, signature, bucket): forks between tasks come first,
    hence task families are the most evenly spread.
    """

    def __init__(self, counts: Sequence[int], *, paths: Sequence[Path]) -> None:
        self._root = _tree([(paths[g], g, count) for g, count in enumerate(counts) if count > 0], level=0)
        self.total = self._root.count if self._root else 0

    def locate(self, position: int, *, key: int) -> tuple[int, int]:
        """Group and batch number within the group at `position` (below `total`); `key` sets the phases."""
        node = self._root
        if node is None or not 0 <= position < self.total:
            raise IndexError(f"position {position} is not below {self.total}")
        while node.left is not None and node.right is not None:
            phase = _phase(key, node.name, node.count)
            before = (position * node.left.count + phase) // node.count
            after = ((position + 1) * node.left.count + phase) // node.count
            if after > before:
                node, position = node.left, before
            else:
                node, position = node.right, position - before
        return node.leaf, position


@lru_cache(maxsize=4096)
def _phase(key: int, name: str, count: int) -> int:
    return derive(key, name) % count


def _tree(items: list[tuple[Path, int, int]], *, level: int) -> _Node | None:
    """Branches by the path's levels in turn, halved by number of branches at each level."""
    if not items:
        return None
    if len(items) == 1:
        return _Node(items[0][2], leaf=items[0][1])
    families: dict[str, list[tuple[Path, int, int]]] = {}
    for item in items:
        families.setdefault(item[0][level] if level < len(item[0]) else str(item[1]), []).append(item)
    if len(families) == 1 and level < max(len(item[0]) for item in items):
        return _tree(items, level=level + 1)
    nodes = [_tree(families[name], level=level + 1) for name in sorted(families)]
    return _halve([node for node in nodes if node is not None], name=f"{level}:{'/'.join(items[0][0][:level])}")


def _halve(nodes: list[_Node], *, name: str) -> _Node:
    if len(nodes) == 1:
        return nodes[0]
    middle = len(nodes) // 2
    left, right = _halve(nodes[:middle], name=name + "l"), _halve(nodes[middle:], name=name + "r")
    return _Node(left.count + right.count, left=left, right=right, name=name)


class GroupOrder:
    """One group's passes: pass p visits each of its `size` samples exactly once.

    The samples, in stored order, form blocks of `block` neighbours. Blocks are permuted, `window` of them are opened
    at once and their samples are mixed; the samples that fill no block join the last window.
    """

    def __init__(self, size: int, *, key: int, block: int, window: int, shuffle: bool = True) -> None:
        self.size, self.shuffle = size, shuffle
        self._key, self._block, self._window = key, block, window
        self._blocks = size // block
        self._span = block * window
        self._windows = max(1, -(-self._blocks // window))
        self._tables: dict[tuple[int, int], U64] = {}

    def positions(self, pass_: int, *, start: int, stop: int) -> U64:
        """Sample numbers at positions [start, stop) of pass `pass_`; uint64 [stop - start]."""
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"positions [{start}, {stop}) are not within {self.size}")
        if not self.shuffle:
            return np.arange(start, stop, dtype=np.uint64)
        pieces: list[U64] = []
        while start < stop:
            number = min(start // self._span, self._windows - 1)
            base = number * self._span
            table = self._table(pass_, number)
            end = min(stop, base + len(table))
            pieces.append(table[start - base : end - base])
            start = end
        return np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)

    def _table(self, pass_: int, number: int) -> U64:
        """Sample numbers of one window in drawn order; the two last used are kept."""
        found = self._tables.get((pass_, number))
        if found is None:
            found = self._make(pass_, number)
            while len(self._tables) >= 2:
                self._tables.pop(next(iter(self._tables)), None)
            self._tables[(pass_, number)] = found
        return found

    def _make(self, pass_: int, number: int) -> U64:
        first = number * self._window
        places = np.arange(first, min(first + self._window, self._blocks), dtype=np.uint64)
        blocks = Permutation(self._blocks, key=derive(self._key, pass_))(places)
        inner = np.arange(self._block, dtype=np.uint64)
        samples = (blocks[:, None] * np.uint64(self._block) + inner).reshape(-1)
        if number == self._windows - 1:
            tail = np.arange(self._blocks * self._block, self.size, dtype=np.uint64)
            samples = np.concatenate([samples, tail])
        drawn = Permutation(len(samples), key=derive(self._key, pass_, number))
        return samples[drawn(np.arange(len(samples), dtype=np.uint64))]
