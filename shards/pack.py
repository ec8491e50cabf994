"""One record of a run becomes one sample: its pictures' bytes, checked against what annotate saw, and KEY.json."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence

from PIL import Image
from pydantic import JsonValue
from pydantic_core import to_json

from ..schema import ImageRef, Limits, Reject
from ..schema.arrow import dump_json
from ..schema.configs.shards import BuildConfig
from ..schema.reasons import Reason
from ..schema.shards import MAX_JSON_BYTES, ShardRecord
from .buckets import assign_bucket, bucket_name
from .corpus import ImageRejected, open_image
from .layout import EXTENSIONS
from .rows import ImageRow, RunRow

ReadImage = Callable[[ImageRef], bytes]

_IMAGE_FIELDS = sorted(ImageRow.__annotations__)
_PILLOW = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF", "gif": "GIF"}


class Dropped(Exception):
    """A record that cannot be stored; carries its reject."""

    def __init__(self, reject: Reject) -> None:
        super().__init__(reject.detail)
        self.reject = reject


def pack(
    row: RunRow,
    *,
    read: ReadImage,
    config: BuildConfig,
    split: str,
    group: str,
    signature: str,
    limits: Limits,
) -> tuple[ShardRecord, dict[str, bytes]]:
    """KEY.json and the members (`json` included) of one sample.

    Raises:
        Dropped: a picture is gone, or is another one than annotate saw, or cannot be encoded anew.
    """
    files: dict[str, bytes] = {}
    size = (0, 0)
    for image in row["images"]:
        data, stored_size = _stored(row, image, read=read, config=config, limits=limits)
        extension = config.format or EXTENSIONS[image["format"].lower()]
        files[f"{image['role']}.{extension}"] = data
        if image["role"] == "target":
            size = stored_size
    bucket = bucket_name(config.buckets[assign_bucket(size, buckets=config.buckets)])
    record = make_record(row, split=split, group=group, signature=signature, bucket=bucket, size=size)
    text = record.model_dump_json().encode()
    if len(text) > MAX_JSON_BYTES:
        raise _dropped(row, "bad_record", f"its JSON has {len(text)} bytes (at most {MAX_JSON_BYTES})")
    return record, {"json": text, **files}


def make_record(
    row: RunRow, *, split: str, group: str, signature: str, bucket: str, size: tuple[int, int]
) -> ShardRecord:
    """KEY.json of one record; `size` is width and height of the stored target."""
    probs = row["tag_probs"]
    certainty = [p if p > 0.5 else 1 - p for p in probs if p is not None]
    return ShardRecord(
        uid=row["uid"],
        id=row["id"],
        corpus=row["corpus"],
        row=row["row"],
        task=row["task"],
        instruction=row["instruction"],
        split=split,
        group=group,
        signature=signature,
        bucket=bucket,
        width=size[0],
        height=size[1],
        scope=row["scope"],
        types=",".join(row["types"]),
        preservation=",".join(row["preservation"]),
        tags=",".join([row["scope"], *row["types"], *row["preservation"]]),
        tag_ids=row["tag_ids"],
        tag_probs=",".join(["" if p is None else f"{p:.4f}" for p in probs]),
        confidence=round(min(certainty), 4) if certainty else -1.0,
        calibration=row["calibration"],
        annotator=row["annotator"],
        model=row["model"],
        model_revision=row["model_revision"],
        prompt_version=row["prompt_version"],
        taxonomy=row["taxonomy"],
        warnings=",".join(row["warnings"]),
        reasons=dump_json(list[JsonValue](row["reasons"])) if row["reasons"] else "[]",
        images=images_json(row["images"]),
        evidence=_evidence_json(row["evidence"]) if row["evidence"] else "{}",
        extra=row["extra"],
    )


def images_json(images: Sequence[ImageRow]) -> str:
    """What `dump_json` gives (a test holds this), several times as fast: texts, integers and nulls alone need no care."""
    return to_json([{name: image[name] for name in _IMAGE_FIELDS} for image in images]).decode()


def _evidence_json(evidence: Mapping[str, float | None]) -> str:
    return dump_json({name: None if value is None else round(value, 6) for name, value in evidence.items()})


def _stored(
    row: RunRow, image: ImageRow, *, read: ReadImage, config: BuildConfig, limits: Limits
) -> tuple[bytes, tuple[int, int]]:
    """Bytes to store of one picture, with width and height."""
    place = ImageRef(
        role=image["role"], uri=image["uri"], member=image["member"], row=image["row"], column=image["column"]
    )
    try:
        data = read(place)
    except ImageRejected as error:
        raise _dropped(row, "image_missing", f"{place.role}: {error.detail}") from error
    if hashlib.sha256(data).hexdigest() != image["sha256"]:
        raise _dropped(row, "image_changed", f"{place.role} {place.uri} changed: annotate it again, --out another run")
    extension = EXTENSIONS[image["format"].lower()]
    longest = max(image["width"], image["height"])
    if config.format in (None, extension) and (config.max_side is None or longest <= config.max_side):
        return data, (image["width"], image["height"])
    try:
        return encode(data, extension=config.format or extension, config=config, limits=limits)
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
    return Dropped(Reject(row=row["row"], id=row["id"], stage="shard", reason=reason, detail=detail))
