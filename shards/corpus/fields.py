"""Reaching into raw fields by column text, and turning any value into bounded JSON."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

from pydantic import JsonValue

from .table import Located, Row, Value


class Missing:
    """The type of MISSING."""


MISSING: Final = Missing()
"""No such column, as distinct from null."""

KEY_COLUMN = "__key__"
"""Column name of a container's own record name (a tar's key), as webdataset and `datasets` call it."""

DROPPED = "tagmoe_dropped"
"""Extra field that names the fields left out for their size."""


_BOX = re.compile(r"^(.+)@(\d{1,6}):(\d{1,6}):(\d{1,6}):(\d{1,6})$", re.DOTALL)


def dig(row: Row, column: str) -> Value | Missing:
    """Value of `column`: an exact name first, then without a crop box, then member by member at the dots."""
    if column == KEY_COLUMN:
        return MISSING if row.key is None else row.key
    if column in row.fields:
        return row.fields[column]
    column = split_box(column)[0]
    if column in row.fields:
        return row.fields[column]
    value: object = row.fields
    for step in column.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(cast("list[Value]", value)):
            value = cast("list[Value]", value)[int(step)]
        else:
            return MISSING
    return cast("Value", value)


def split_box(column: str) -> tuple[str, tuple[int, int, int, int] | None]:
    """`image@8:8:512:512` as (`image`, left, top, width, height); a column without a box as (column, None)."""
    match = _BOX.match(column)
    if match is None:
        return column, None
    left, top, width, height = (int(text) for text in match.groups()[1:])
    return match[1], (left, top, width, height)


def bounded_extra(fields: Iterable[tuple[str, Value]], *, limit: int) -> dict[str, JsonValue]:
    """JSON-safe copy of `fields`; once `limit` bytes of JSON are full, further fields are named, not kept."""
    kept: dict[str, JsonValue] = {}
    dropped: list[JsonValue] = []
    room = limit
    for name, value in fields:
        if isinstance(value, Located):
            continue
        safe = json_safe(value)
        size = len(json.dumps(safe)) + len(name)
        if size > room:
            dropped.append(clean(name)[:200])
        else:
            room -= size
            kept[clean(name)] = safe
    if dropped:
        kept[DROPPED] = dropped[:100]
    return kept


def json_safe(value: object) -> JsonValue:
    """`value` as JSON: dates as ISO text, NaN as null, lone surrogates replaced, anything else as its text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {clean(str(key)): json_safe(item) for key, item in items if not isinstance(item, Located)}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in cast("Iterable[object]", value) if not isinstance(item, Located)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return clean(str(value))


def clean(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
