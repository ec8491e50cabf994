"""Arrow columns as Python and numpy values and back, by their buffers.

Several times as fast as `to_pylist`, which makes an object of every cell, and as `to_numpy` or `pyarrow.array` in a
young process: both import pandas where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .near import I64

Number = TypeVar("Number", bound=np.generic)


def texts(column: pa.Array) -> list[str]:
    """The values of a string column; null is the empty text."""
    starts = _starts(column)
    data = bytes(memoryview(column.buffers()[2] or b"")[starts[0] : starts[-1]])
    bounds = (starts - starts[0]).tolist()
    if data.isascii():
        whole = data.decode("ascii")
        return [whole[a:b] for a, b in pairwise(bounds)]
    return [data[a:b].decode() for a, b in pairwise(bounds)]


def optional_texts(column: pa.Array) -> list[str | None]:
    """The values of a string column."""
    if column.null_count == 0:
        return list[str | None](texts(column))
    return cast("list[str | None]", _with_nulls(column))


def optional_integers(column: pa.Array) -> list[int | None]:
    """The values of a column of integers."""
    return cast("list[int | None]", _with_nulls(column) if column.null_count else column.to_pylist())


def numbers(column: pa.Array, dtype: type[Number]) -> npt.NDArray[Number]:
    """The values of a column of numbers; what stands for a null is undefined."""
    data = column.buffers()[1]
    if data is None:
        return np.zeros(len(column), dtype)
    return np.frombuffer(data, dtype, count=len(column), offset=column.offset * np.dtype(dtype).itemsize)


def lists(column: pa.Array) -> tuple[I64, pa.Array]:
    """Bounds of each list of a column [rows + 1], from zero on, and the array that holds their items.

    Raises:
        ValueError: a list is null.
    """
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} lists are null")
    starts = _starts(column)
    items = column.values.slice(int(starts[0]), int(starts[-1] - starts[0]))
    return starts - starts[0], items


def text_column(values: Sequence[str]) -> pa.Array:
    """A string column."""
    encoded = [value.encode() for value in values]
    return pa.Array.from_buffers(
        pa.string(), len(values), [None, _bounds([len(value) for value in encoded]), pa.py_buffer(b"".join(encoded))]
    )


def number_column(values: npt.NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    """A column of type `kind`, whose layout is that of `values`."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def list_column(lengths: Sequence[int] | I64, items: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column of lists with `lengths` that together hold `items`."""
    return pa.Array.from_buffers(kind, len(lengths), [None, _bounds(lengths)], children=[items])


def _bounds(lengths: Sequence[int] | I64) -> pa.Buffer:
    bounds = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=bounds[1:])
    return pa.py_buffer(bounds)


def _starts(column: pa.Array) -> I64:
    """Bounds in the child or data of a list or string column [rows + 1]."""
    if not len(column):
        return np.zeros(1, np.int64)
    found = np.frombuffer(column.buffers()[1], np.int32, count=len(column) + 1, offset=column.offset * 4)
    return found.astype(np.int64)


def _with_nulls(column: pa.Array) -> list[object]:
    return [None] * len(column) if column.null_count == len(column) else column.to_pylist()
