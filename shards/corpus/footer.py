"""Null counts out of a Parquet footer, read here because asking pyarrow for them can end the process.

pyarrow (through 26) reads column statistics without catching C++ exceptions: one flipped bit in a footer and
`metadata.row_group(i).column(j)` calls std::terminate. Reading the columns themselves reports errors properly.
Source: Thrift compact protocol specification; parquet.thrift of apache/parquet-format.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import BinaryIO, Union

_MAGIC = b"PAR1"
_MAX_FOOTER = 256 << 20
_MAX_DEPTH = 32

_TRUE, _FALSE, _I8, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

Thrift = Union[int, bytes, "list[Thrift]", "dict[int, Thrift]"]
"""A value of the compact protocol; a struct is a dict by field number."""


def null_counts(stream: BinaryIO) -> list[dict[str, int]]:
    """Of each row group: null count by dotted leaf name, for leaves that state one; empty if the footer is unsound."""
    try:
        return [_of_group(group) for group in _items(_struct(_Reader(_footer(stream)).struct()).get(4))]
    except (ValueError, IndexError, UnicodeDecodeError, OSError):
        return []


def _footer(stream: BinaryIO) -> bytes:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 8))
    tail = stream.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > min(size, _MAX_FOOTER):
        raise ValueError("no footer")
    stream.seek(size - 8 - length)
    return stream.read(length)


def _of_group(group: Thrift) -> dict[str, int]:
    counts: dict[str, int] = {}
    for chunk in _items(_struct(group).get(1)):
        column = _struct(_struct(chunk).get(3))
        path = ".".join(part.decode("utf-8") for part in _items(column.get(3)) if isinstance(part, bytes))
        nulls = _struct(column.get(12)).get(3)
        if isinstance(nulls, int):
            counts[path] = nulls
    return counts


def _struct(value: Thrift | None) -> Mapping[int, Thrift]:
    return value if isinstance(value, dict) else {}


def _items(value: Thrift | None) -> list[Thrift]:
    return value if isinstance(value, list) else []


class _Reader:
    """Thrift compact protocol over bytes; ValueError or IndexError where they are not that."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, depth: int = 0) -> Thrift:
        """One struct, as values by field number."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Thrift] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._zigzag()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Thrift:
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self._data):
                raise ValueError("a list longer than the footer")
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_TRUE, _FALSE, _I8):  # a boolean inside a list takes a byte
            return self._byte()
        if kind == _DOUBLE:
            return self._take(8)
        raise ValueError(f"type {kind}")  # maps do not occur in Parquet

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("the footer is cut")
        self._at += count
        return part

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a number longer than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
