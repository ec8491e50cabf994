"""One annotation becomes one sample: its pictures' bytes, checked against what annotate saw, and KEY.json."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

from PIL import Image

from ..schema import Annotation, ImageInfo, ImageRef, Limits, Reject
from ..schema.arrow import dump_json
from ..schema.configs.shards import BuildConfig
from ..schema.reasons import Reason
from ..schema.shards import MAX_JSON_BYTES, ShardRecord
from .buckets import assign_bucket, bucket_name
from .corpus import ImageRejected, open_image
from .layout import EXTENSIONS

ReadImage = Callable[[ImageRef], bytes]

_PILLOW = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF", "gif": "GIF"}


class Dropped(Exception):
    """A record that cannot be stored; carries its reject."""

    def __init__(self, reject: Reject) -> None:
        super().__init__(reject.detail)
        self.reject = reject


def pack(
    annotation: Annotation,
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
    for image in annotation.images:
        data, stored_size = _stored(annotation, image, read=read, config=config, limits=limits)
        extension = config.format or EXTENSIONS[image.format.lower()]
        files[f"{image.role}.{extension}"] = data
        if image.role == "target":
            size = stored_size
    bucket = bucket_name(config.buckets[assign_bucket(size, buckets=config.buckets)])
    record = make_record(annotation, split=split, group=group, signature=signature, bucket=bucket, size=size)
    text = record.model_dump_json().encode()
    if len(text) > MAX_JSON_BYTES:
        raise _dropped(annotation, "bad_record", f"its JSON has {len(text)} bytes (at most {MAX_JSON_BYTES})")
    return record, {"json": text, **files}


def make_record(
    annotation: Annotation, *, split: str, group: str, signature: str, bucket: str, size: tuple[int, int]
) -> ShardRecord:
    """KEY.json of one annotation; `size` is width and height of the stored target."""
    names = [annotation.scope, *annotation.types, *annotation.preservation]
    confidence = annotation.confidence
    return ShardRecord(
        uid=annotation.uid,
        id=annotation.id,
        corpus=annotation.corpus,
        row=annotation.row,
        task=annotation.task,
        instruction=annotation.instruction,
        split=split,
        group=group,
        signature=signature,
        bucket=bucket,
        width=size[0],
        height=size[1],
        scope=annotation.scope,
        types=",".join(annotation.types),
        preservation=",".join(annotation.preservation),
        tags=",".join(names),
        tag_ids=list(annotation.tag_ids),
        tag_probs=",".join("" if p is None else f"{p:.4f}" for p in annotation.tag_probs),
        confidence=-1.0 if confidence is None else round(confidence, 4),
        calibration=annotation.calibration,
        annotator=annotation.annotator,
        model=annotation.model,
        model_revision=annotation.model_revision,
        prompt_version=annotation.prompt_version,
        taxonomy=annotation.taxonomy,
        warnings=",".join(annotation.warnings),
        reasons=dump_json(list(annotation.reasons)),
        images=dump_json([image.model_dump() for image in annotation.images]),
        evidence=dump_json(annotation.evidence.model_dump() if annotation.evidence else {}),
        extra=dump_json(annotation.extra),
    )


def _stored(
    annotation: Annotation, image: ImageInfo, *, read: ReadImage, config: BuildConfig, limits: Limits
) -> tuple[bytes, tuple[int, int]]:
    """Bytes to store of one picture, with width and height."""
    reference = ImageRef.model_validate(image.model_dump(include=set(ImageRef.model_fields)))
    try:
        data = read(reference)
    except ImageRejected as error:
        raise _dropped(annotation, "image_missing", f"{image.role}: {error.detail}") from error
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise _dropped(annotation, "image_changed", f"{image.role} {image.uri} changed since annotate read it")
    extension = EXTENSIONS[image.format.lower()]
    longest = max(image.width, image.height)
    if config.format in (None, extension) and (config.max_side is None or longest <= config.max_side):
        return data, (image.width, image.height)
    try:
        return encode(data, extension=config.format or extension, config=config, limits=limits)
    except ImageRejected as error:
        raise _dropped(annotation, error.reason, f"{image.role}: {error.detail}") from error


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


def _dropped(annotation: Annotation, reason: Reason, detail: str) -> Dropped:
    return Dropped(Reject(row=annotation.row, id=annotation.id, stage="shard", reason=reason, detail=detail))
