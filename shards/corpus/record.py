"""Raw fields to a Pair, or a named reject."""

from __future__ import annotations

import json
from dataclasses import replace

from pydantic import ValidationError

from ...schema import ImageRef, Limits, Pair, Reject, Task
from .fields import MISSING, bounded_extra, dig, split_box
from .mapping import TASKS, FieldMapping
from .paths import safe_relative
from .rejected import RecordRejected, Rejected
from .table import BadRow, Located, Row, Value

_MAX_ID = 1024


def build(
    raw: Row | BadRow, *, row: int, corpus: str, mapping: FieldMapping, limits: Limits, images_apart: bool
) -> Pair | Reject:
    """One record.

    Args:
        raw: what the file holds.
        row: position in the corpus.
        corpus: its name.
        mapping: columns of the fields.
        limits: bounds on text, references and extra fields.
        images_apart: picture paths start at an image root of their own, not at the file's folder.
    """
    if isinstance(raw, BadRow):
        return Reject(row=row, id=f"row {row}", stage="read", reason=raw.reason, detail=raw.detail)
    shown = f"row {row}"
    try:
        shown = record_id(raw, row=row, mapping=mapping)
        instruction = _instruction(raw, mapping.instruction, limits)
        images = _images(raw, mapping, limits, folder="" if images_apart else raw.folder)
        used = mapping.used
        further = raw.fields if raw.extra is None else raw.extra
        rest = ((name, value) for name, value in further.items() if raw.extra is not None or name not in used)
        renamed = ((name, _at(raw, column)) for name, column in mapping.extra)
        return Pair(
            corpus=raw.corpus or corpus,
            row=row,
            id=shown,
            task=_task(raw, mapping, images),
            instruction=instruction,
            images=images,
            extra=bounded_extra([*renamed, *rest], limit=limits.max_extra_bytes),
        )
    except Rejected as error:
        return Reject(row=row, id=shown, stage=error.stage, reason=error.reason, detail=error.detail)
    except ValidationError as error:
        first = error.errors()[0]
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return Reject(row=row, id=shown, stage="read", reason="bad_record", detail=detail[:500])


def record_id(raw: Row, *, row: int, mapping: FieldMapping) -> str:
    """The record's id: its column, else the container's key, else (without an id column) the row number.

    Raises:
        RecordRejected: missing, empty, too long, or neither text nor a whole number.
    """
    if mapping.id is None:
        return raw.key if raw.key is not None else f"{row:09d}"
    value = dig(raw, mapping.id)
    if value is MISSING or value is None or value == "":
        if raw.key is not None:
            return raw.key
        raise _rejected("missing_field", f"no id: column {mapping.id!r} is empty")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _rejected("bad_record", f"the id is {value!r:.80}, text or a whole number was expected")
    if len(value) > _MAX_ID:
        raise _rejected("bad_record", f"the id has {len(value)} characters, at most {_MAX_ID} are read")
    return _utf8(value, "id")


def _instruction(raw: Row, column: str, limits: Limits) -> str:
    value = dig(raw, column)
    if value is MISSING or value is None:
        raise _rejected("missing_field", f"no instruction: column {column!r} is empty")
    if not isinstance(value, str):
        raise _rejected("bad_record", f"the instruction is a {type(value).__name__}, text was expected")
    if len(value) > limits.max_text_chars:
        detail = f"the instruction has {len(value)} characters, at most {limits.max_text_chars} are read"
        raise _rejected("text_too_long", detail)
    if not value.strip():
        raise _rejected("empty_instruction", "the instruction is blank")
    return _utf8(value, "instruction")


def _task(raw: Row, mapping: FieldMapping, images: tuple[ImageRef, ...]) -> Task:
    value = dig(raw, mapping.task) if mapping.task is not None else MISSING
    if value is MISSING or value is None or value == "":
        if mapping.default_task is not None:
            return mapping.default_task
        roles = {image.role for image in images}
        if "source" in roles:
            return "edit"
        return "customization" if "ref0" in roles else "generation"
    if value not in TASKS:
        raise _rejected("bad_task", f"task {str(value)[:80]!r}, expected one of {', '.join(TASKS)}")
    return value  # pyright: ignore[reportReturnType]


def _images(raw: Row, mapping: FieldMapping, limits: Limits, *, folder: str) -> tuple[ImageRef, ...]:
    found: list[ImageRef] = []
    for role, column in (("source", mapping.source), ("target", mapping.target)):
        places = _cropped(_places(_at(raw, column)), column) if column is not None else []
        if len(places) > 1:
            detail = f"{role} lists {len(places)} pictures, one was expected: map the column to references"
            raise _rejected("bad_record", detail)
        found.extend(_ref(role, place, folder) for place in places)
    references = [
        place for column in mapping.references for place in _cropped(_places(_listed(_at(raw, column))), column)
    ]
    if len(references) > limits.max_references:
        detail = f"{len(references)} reference pictures, at most {limits.max_references} are read"
        raise _rejected("too_many_references", detail)
    found.extend(_ref(f"ref{i}", place, folder) for i, place in enumerate(references))
    return tuple(found)


def _at(raw: Row, column: str) -> Value:
    value = dig(raw, column)
    return None if value is MISSING else value  # pyright: ignore[reportReturnType]


def _places(value: Value) -> list[str | Located]:
    """A picture field as the places it names; null, empty text and empty lists are no picture."""
    if value is None or value == "":
        return []
    if isinstance(value, str | Located):
        return [value]
    if isinstance(value, list):
        return [place for item in value for place in _places(item)]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return _places(value["path"])
    raise _rejected("bad_record", f"a picture field holds a {type(value).__name__}, a path was expected")


def _cropped(places: list[str | Located], column: str) -> list[str | Located]:
    """`places` with the crop box of `column`, which travels in their column."""
    _, box = split_box(column)
    if box is None:
        return places
    cut: list[str | Located] = []
    for place in places:
        if isinstance(place, str) or place.column is None:
            raise _rejected("bad_record", f"column {column!r} has a crop box, which only table cells can have")
        cut.append(replace(place, column=f"{place.column}@{':'.join(map(str, box))}"))
    return cut


def _listed(value: Value) -> Value:
    """A list spelled as JSON text, which is how delimited files state one, as that list."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _ref(role: str, place: str | Located, folder: str) -> ImageRef:
    if isinstance(place, Located):
        return ImageRef(role=role, uri=place.uri, member=place.member, row=place.row, column=place.column)
    return ImageRef(role=role, uri=_utf8(safe_relative(place, folder=folder), f"{role} path"))


def _utf8(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _rejected("bad_record", f"the {what} holds a lone surrogate, which is no character") from error
    return text


def _rejected(reason: str, detail: str) -> RecordRejected:
    return RecordRejected("read", reason, detail)  # pyright: ignore[reportArgumentType]
