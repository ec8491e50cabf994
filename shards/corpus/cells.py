"""Arrow columns that hold pictures, and Arrow batches as rows of raw fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pyarrow as pa

from .crop import cut
from .fields import split_box
from .rejected import ImageRejected
from .store import too_large
from .table import Located, Row, Value

_INDEXED = re.compile(r"^(.*)\[(\d+)\]$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """A column of encoded pictures: plain binary, a struct<bytes, path>, or a list of either."""

    name: str
    is_struct: bool
    is_list: bool
    has_path: bool

    @property
    def bytes_leaf(self) -> str:
        """Dotted name of the leaf that holds the bytes (not for lists)."""
        return f"{self.name}.bytes" if self.is_struct else self.name


def image_columns(schema: pa.Schema) -> dict[str, ImageColumn]:
    """The columns of `schema` that hold pictures."""
    found: dict[str, ImageColumn] = {}
    for field in schema:
        is_list = _is_list(field.type)
        kind = field.type.value_type if is_list else field.type
        if _is_binary(kind):
            found[field.name] = ImageColumn(field.name, is_struct=False, is_list=is_list, has_path=False)
        elif pa.types.is_struct(kind):
            members = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
            if "bytes" in members and (_is_binary(members["bytes"]) or pa.types.is_null(members["bytes"])):
                has_path = "path" in members
                found[field.name] = ImageColumn(field.name, is_struct=True, is_list=is_list, has_path=has_path)
    return found


def plain_columns(schema: pa.Schema) -> list[str]:
    """Columns whose values are JSON-like: everything that holds no bytes anywhere."""
    return [field.name for field in schema if not _holds_binary(field.type)]


def needed(columns: list[str], only: str | None) -> list[str]:
    """The columns that hold `only`, which may be a member of one; all of them without `only`."""
    return [name for name in columns if only is None or name == only or only.startswith(f"{name}.")]


def rows_of(
    batch: pa.RecordBatch,
    *,
    images: dict[str, ImageColumn],
    uri: str,
    first_row: int,
    folder: str,
    paths_too: bool = False,
) -> Iterator[Row]:
    """Rows of a batch that has every needed column in full; picture bytes become their place.

    Args:
        batch: the rows.
        images: its picture columns.
        uri: the table's path.
        first_row: row number, inside the table, of the batch's first row.
        folder: folder of the table, where paths in it start.
        paths_too: a cell with a path and no bytes is a place in the table too, not a path of the corpus.
    """
    columns: dict[str, list[Value]] = {}
    for name in batch.schema.names:
        array = batch.column(name)
        if name in images:
            columns[name] = _places(array, images[name], uri=uri, first_row=first_row, paths_too=paths_too)
        else:
            columns[name] = cast("list[Value]", array.to_pylist())
    for i in range(batch.num_rows):
        yield Row({name: values[i] for name, values in columns.items()}, folder=folder)


def cell_bytes(value: object, place: Located, *, limit: int) -> bytes:
    """Bytes of a picture cell that was read from `place`: bytes, a struct, or a list of either; cut to its box.

    Raises:
        ImageRejected: empty or larger than `limit`.
    """
    column, box = split_box(place.column or "")
    _, index = split_index(column)
    if index is not None:
        items = cast("list[object]", value) if isinstance(value, list) else []
        value = items[index] if index < len(items) else None
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("bytes")
    if not isinstance(value, bytes):
        raise ImageRejected("read", "missing_image", f"{place.uri} row {place.row} column {place.column} is empty")
    if len(value) > limit:
        raise too_large(f"{place.uri} row {place.row} column {place.column}", len(value), limit)
    return value if box is None else cut(value, box, limit=limit)


def split_index(column: str) -> tuple[str, int | None]:
    """`refs[1]` as (`refs`, 1); a plain name as (name, None)."""
    match = _INDEXED.match(column)
    return (match[1], int(match[2])) if match else (column, None)


def member(array: pa.StructArray, name: str) -> pa.Array:
    """A struct array's member, null where the struct itself is."""
    return array.flatten()[array.type.get_field_index(name)]


def _places(array: pa.Array, image: ImageColumn, *, uri: str, first_row: int, paths_too: bool) -> list[Value]:
    if not image.is_list:
        return [
            _place(item, Located(uri, row=first_row + i, column=image.name), paths_too)
            for i, item in enumerate(_headers(array, image))
        ]
    places: list[Value] = []
    for i, length in enumerate(cast("list[int | None]", array.value_lengths().to_pylist())):
        if length is None:
            places.append(None)
            continue
        items = _headers(array[i].values, image)
        located = [Located(uri, row=first_row + i, column=f"{image.name}[{k}]") for k in range(length)]
        places.append([_place(item, at, paths_too) for item, at in zip(items, located, strict=True)])
    return places


def _place(header: tuple[bool, str | None], at: Located, paths_too: bool) -> Value:
    has_bytes, path = header
    return at if has_bytes or (paths_too and path) else path


def _headers(array: pa.Array, image: ImageColumn) -> list[tuple[bool, str | None]]:
    """Of each cell: whether it holds bytes, and its path; the bytes themselves are not copied."""
    if not image.is_struct:
        return [(valid, None) for valid in cast("list[bool]", array.is_valid().to_pylist())]
    has_bytes = member(array, "bytes").is_valid().to_pylist()
    paths = member(array, "path").to_pylist() if image.has_path else [None] * len(array)
    return list(zip(cast("list[bool]", has_bytes), cast("list[str | None]", paths), strict=True))


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _holds_binary(kind: pa.DataType) -> bool:
    if _is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_binary(kind.field(i).type) for i in range(kind.num_fields))
