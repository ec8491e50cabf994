"""One sample as the stream hands it out, read from checked bytes without ever unpickling."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import cast

from PIL import Image
from pydantic import JsonValue
from pydantic_core import from_json

from ..schema import Limits
from ..schema.shards import MAX_JSON_BYTES
from .buckets import Bucket, parse_bucket
from .corpus.header import Format, sniff, stated_size
from .layout import EXTENSIONS, PICTURE_EXTENSIONS
from .tars import BadSpan, split_span


@dataclass(frozen=True, slots=True)
class Sample:
    """One record with its encoded pictures."""

    uid: str
    id: str
    corpus: str
    task: str
    instruction: str
    tag_ids: tuple[int, ...]
    """Ascending; of the overlay where the stream reads one."""
    signature: str
    bucket: Bucket
    """Nominal width and height of the aspect-ratio bucket, pixels."""
    images: dict[str, bytes]
    """Encoded pictures by role: `source`, `target`, `ref0`, ..."""
    split: str = "train"
    scope: str = ""
    confidence: float = -1.0
    warnings: tuple[str, ...] = ()
    extra: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])


def parse_sample(data: bytes, *, tag_ids: tuple[int, ...] | None = None, look: bool = False) -> Sample:
    """A sample from its span; `tag_ids` replace the stored ones (an overlay's).

    With `look` every picture's header is read: it must be of the format its name says, and not larger than `Limits`
    allow, so that nothing that a trainer decodes can exhaust its memory.

    Raises:
        BadSpan: members that are not of the format, or a KEY.json that is not.
    """
    members = split_span(data)
    if not members or members[0].suffix != "json":
        raise BadSpan("the first member is not KEY.json")
    head = members[0]
    if head.size > MAX_JSON_BYTES:
        raise BadSpan(f"KEY.json has {head.size} bytes (at most {MAX_JSON_BYTES})")
    images: dict[str, bytes] = {}
    for member in members[1:]:
        role, _, extension = member.suffix.partition(".")
        if extension not in PICTURE_EXTENSIONS or role in images:
            raise BadSpan(f"{member.suffix} is no picture of this format, or repeats a role")
        images[role] = data[member.offset : member.offset + member.size]
        if look:
            _look(images[role], suffix=member.suffix)
    try:
        record = cast("dict[str, JsonValue]", from_json(data[head.offset : head.offset + head.size]))
        return _sample(record, images=images, tag_ids=tag_ids)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadSpan(f"KEY.json is not of the format ({type(error).__name__}: {error})") from error


def _look(data: bytes, *, suffix: str) -> None:
    kind = sniff(data)
    if kind is None or EXTENSIONS[kind] != suffix.partition(".")[2]:
        raise BadSpan(f"{suffix} holds {kind or 'no picture'}")
    width, height = stated_size(data, kind) or _opened_size(data, kind, suffix=suffix)
    if width * height > _LIMITS.max_image_pixels:
        raise BadSpan(f"{suffix} has {width} x {height} pixels (at most {_LIMITS.max_image_pixels} in all)")


_LIMITS = Limits()


def _opened_size(data: bytes, kind: Format, *, suffix: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=[kind.upper()]) as opened:
            return opened.size
    except Exception as error:
        # Pillow's plugins raise whatever they like on hostile bytes; each means that this is no picture.
        raise BadSpan(f"{suffix} cannot be opened ({type(error).__name__}: {error})") from error


def parse_record(text: bytes) -> dict[str, JsonValue]:
    """KEY.json as it is stored, for whoever shows it or derives from it; the stream takes the last of equal names.

    Raises:
        ValueError: no JSON, or a name that stands twice, of which readers would choose one or the other.
    """
    return cast("dict[str, JsonValue]", json.loads(text, object_pairs_hook=_once))


def _once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _sample(record: dict[str, JsonValue], *, images: dict[str, bytes], tag_ids: tuple[int, ...] | None) -> Sample:
    warnings = _text(record, "warnings")
    return Sample(
        uid=_text(record, "uid"),
        id=_text(record, "id"),
        corpus=_text(record, "corpus"),
        task=_text(record, "task"),
        instruction=_text(record, "instruction"),
        tag_ids=tuple(cast("list[int]", record["tag_ids"])) if tag_ids is None else tag_ids,
        signature=_text(record, "signature"),
        bucket=parse_bucket(_text(record, "bucket")),
        images=images,
        split=_text(record, "split"),
        scope=_text(record, "scope"),
        confidence=float(cast("float", record["confidence"])),
        warnings=tuple(warnings.split(",")) if warnings else (),
        extra={} if record["extra"] == "{}" else cast("dict[str, JsonValue]", from_json(_text(record, "extra"))),
    )


def _text(record: dict[str, JsonValue], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is {type(value).__name__}, expected a string")
    return value
