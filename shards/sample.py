"""One sample as the stream hands it out, read from checked bytes without ever unpickling."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import cast

from PIL import Image
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

from ..schema import Limits
from ..schema.shards import MAX_JSON_BYTES
from .buckets import Bucket, parse_bucket
from .corpus.header import Format, plain_jpeg_size, sniff, stated_size
from .layout import EXTENSIONS, PICTURE_EXTENSIONS
from .spans import plain_members
from .tars import BLOCK, MAX_MEMBERS, BadSpan, split_span


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
    members = plain_members(data) or [(m.suffix, m.offset, m.size) for m in split_span(data)]
    if not members or members[0][0] != "json":
        raise BadSpan("the first member is not KEY.json")
    _, start, size = members[0]
    if size > MAX_JSON_BYTES:
        raise BadSpan(f"KEY.json has {size} bytes (at most {MAX_JSON_BYTES})")
    text = data[start : start + size]
    images: dict[str, bytes] = {}
    for suffix, start, size in members[1:]:
        role, _, extension = suffix.partition(".")
        if extension not in PICTURE_EXTENSIONS or role in images:
            raise BadSpan(f"{suffix} is no picture of this format, or repeats a role")
        images[role] = data[start : start + size]
        if look:
            _look(images[role], suffix=suffix)
    try:
        return _sample(_TOLD.validate_json(text), key=data[:32].decode("ascii"), images=images, tag_ids=tag_ids)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadSpan(f"KEY.json is not of the format ({where}{': ' * bool(where)}{first['msg']})") from error
    except ValueError as error:
        raise BadSpan(f"KEY.json is not of the format ({error})") from error


def _look(data: bytes, *, suffix: str) -> None:
    if suffix.endswith(".jpg") and (stated := plain_jpeg_size(data)) is not None:
        if stated[0] * stated[1] > _LIMITS.max_image_pixels:
            raise _too_large(suffix, *stated)
        return
    kind = sniff(data)
    if kind is None or EXTENSIONS[kind] != suffix.partition(".")[2]:
        raise BadSpan(f"{suffix} holds {kind or 'no picture'}")
    width, height = stated_size(data, kind) or _opened_size(data, kind, suffix=suffix)
    if width * height > _LIMITS.max_image_pixels:
        raise _too_large(suffix, width, height)


def _too_large(suffix: str, width: int, height: int) -> BadSpan:
    return BadSpan(f"{suffix} has {width} x {height} pixels (at most {_LIMITS.max_image_pixels} in all)")


_LIMITS = Limits()
MAX_SPAN_BYTES = MAX_JSON_BYTES + (2 + _LIMITS.max_references) * _LIMITS.max_image_bytes + 2 * MAX_MEMBERS * BLOCK
"""Of the largest sample that a build stores; what an index calls larger is a fault, and nothing of it is read."""


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


@with_config(ConfigDict(strict=True, extra="ignore"))
class _Told(TypedDict):
    """What a sample takes from KEY.json; other fields are skipped."""

    uid: str
    id: str
    corpus: str
    task: str
    instruction: str
    tag_ids: list[int]
    signature: str
    bucket: str
    split: str
    scope: str
    confidence: float
    warnings: str
    extra: str


_TOLD = TypeAdapter(_Told)


def _sample(told: _Told, *, key: str, images: dict[str, bytes], tag_ids: tuple[int, ...] | None) -> Sample:
    if told["uid"] != key:
        raise ValueError(f"uid is {told['uid'][:40]!r} in the member of {key}")
    warnings, extra = told["warnings"], told["extra"]
    return Sample(
        told["uid"],
        told["id"],
        told["corpus"],
        told["task"],
        told["instruction"],
        tuple(told["tag_ids"]) if tag_ids is None else tag_ids,
        told["signature"],
        parse_bucket(told["bucket"]),
        images,
        told["split"],
        told["scope"],
        told["confidence"],
        tuple(warnings.split(",")) if warnings else (),
        {} if extra == "{}" else cast("dict[str, JsonValue]", from_json(extra)),
    )
