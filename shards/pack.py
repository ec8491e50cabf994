"""One record of a run becomes one sample: its pictures' bytes, checked against what annotate saw, and KEY.json."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence

from PIL import Image
from pydantic_core import to_json

from ..schema import ImageRef, Limits, Reject
from ..schema.configs.shards import BuildConfig
from ..schema.reasons import Reason
from ..schema.shards import MAX_JSON_BYTES, SHARD_FORMAT
from .corpus import ImageRejected, open_image
from .layout import EXTENSIONS
from .rows import Picture, RunRow

ReadImage = Callable[[ImageRef], bytes]

_PILLOW = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF", "gif": "GIF"}


class Dropped(Exception):
    """A record that cannot be stored; carries its reject."""

    def __init__(self, reject: Reject) -> None:
        super().__init__(reject.detail)
        self.reject = reject


def passes_through(picture: Picture, *, config: BuildConfig) -> bool:
    """Whether a picture is stored as it is."""
    if config.max_side is not None and max(picture.width, picture.height) > config.max_side:
        return False
    return config.format is None or config.format == EXTENSIONS[picture.format.lower()]


def suffix_of(picture: Picture, *, config: BuildConfig) -> str:
    """Member name of a picture without the key."""
    return f"{picture.role}.{config.format or EXTENSIONS[picture.format.lower()]}"


def pack(
    row: RunRow, *, read: ReadImage, config: BuildConfig, limits: Limits
) -> tuple[dict[str, bytes], tuple[int, int]]:
    """The pictures of one sample by suffix, and width and height of the target as stored.

    Raises:
        Dropped: a picture is gone, or is another one than annotate saw, or cannot be encoded anew.
    """
    files: dict[str, bytes] = {}
    size = (0, 0)
    for picture in row.images:
        data, stored_size = _stored(row, picture, read=read, config=config, limits=limits)
        files[suffix_of(picture, config=config)] = data
        if picture.role == "target":
            size = stored_size
    return files, size


def key_json(row: RunRow, *, split: str, group: str, signature: str, bucket: str, size: tuple[int, int]) -> bytes:
    """KEY.json of one record, a `ShardRecord`; `size` is width and height of the target as stored.

    Raises:
        Dropped: it would be larger than readers take.
    """
    text = to_json(
        {
            "format_version": SHARD_FORMAT,
            "uid": row.uid,
            "id": row.id,
            "corpus": row.corpus,
            "row": row.row,
            "task": row.task,
            "instruction": row.instruction,
            "split": split,
            "group": group,
            "signature": signature,
            "bucket": bucket,
            "width": size[0],
            "height": size[1],
            "scope": row.scope,
            "types": row.types,
            "preservation": row.preservation,
            "tags": row.tags,
            "tag_ids": row.tag_ids,
            "tag_probs": row.tag_probs,
            "confidence": row.confidence,
            "calibration": row.calibration,
            "annotator": row.annotator,
            "model": row.model,
            "model_revision": row.model_revision,
            "prompt_version": row.prompt_version,
            "taxonomy": row.taxonomy,
            "warnings": row.warnings,
            "reasons": row.reasons,
            "images": images_json(row.images),
            "evidence": row.evidence,
            "extra": row.extra,
        }
    )
    if len(text) > MAX_JSON_BYTES:
        raise _dropped(row, "bad_record", f"its JSON has {len(text)} bytes (at most {MAX_JSON_BYTES})")
    return text


def images_json(images: Sequence[Picture]) -> str:
    """What `dump_json` gives (a test holds this), several times as fast: texts, integers and nulls alone need no care."""
    return to_json([dict(zip(Picture._fields, image, strict=True)) for image in images]).decode()


def _stored(
    row: RunRow, picture: Picture, *, read: ReadImage, config: BuildConfig, limits: Limits
) -> tuple[bytes, tuple[int, int]]:
    """Bytes to store of one picture, with width and height."""
    place = ImageRef(role=picture.role, uri=picture.uri, member=picture.member, row=picture.row, column=picture.column)
    try:
        data = read(place)
    except ImageRejected as error:
        raise _dropped(row, "image_missing", f"{place.role}: {error.detail}") from error
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise _dropped(row, "image_changed", f"{place.role} {place.uri} changed: annotate it again, --out another run")
    if passes_through(picture, config=config):
        return data, (picture.width, picture.height)
    extension = config.format or EXTENSIONS[picture.format.lower()]
    try:
        return encode(data, extension=extension, config=config, limits=limits)
    except ImageRejected as error:
        raise _dropped(row, error.reason, f"{place.role}: {error.detail}") from error


def encode(
    data: bytes, *, extension: str, config: BuildConfig, limits: Limits | None = None
) -> tuple[bytes, tuple[int, int]]:
    """A picture scaled down to `config.max_side` and encoded anew, upright RGB, with width and height."""
    picture = open_image(data, limits).image
    if config.max_side is not None:
        picture.thumbnail((config.max_side, config.max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    options: dict[str, int] = {"quality": config.quality} if extension in ("jpg", "webp") else {}
    picture.save(out, format=_PILLOW[extension], **options)
    return out.getvalue(), picture.size


def _dropped(row: RunRow, reason: Reason, detail: str) -> Dropped:
    return Dropped(Reject(row=row.row, id=row.id, stage="shard", reason=reason, detail=detail))
