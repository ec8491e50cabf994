"""Records of one shard become samples of its tar: by the shortest way where a picture passes through untouched."""

from __future__ import annotations

from hashlib import sha256
from operator import itemgetter
from typing import NamedTuple

from ..schema.configs.shards import BuildConfig
from .buckets import assign_bucket, bucket_name
from .corpus import Corpus
from .pack import key_json, pack, passes_through, suffix_of
from .rows import Picture, RunRow
from .tars import ShardTar, Span, copy


class Stored(NamedTuple):
    """One sample in a tar."""

    span: Span
    size: tuple[int, int]
    """Width and height of the target as stored, pixels."""
    bucket: str


class Samples:
    """The samples of one shard."""

    def __init__(self, tar: ShardTar, *, corpus: Corpus, config: BuildConfig, split: str, signature: str) -> None:
        self._tar, self._corpus, self._config = tar, corpus, config
        self._split, self._signature = split, signature
        self._read_file = corpus.file_reader()
        self._suffixes: dict[tuple[str, str], str] = {}
        self._buckets: dict[tuple[int, int], str] = {}

    def add(self, row: RunRow, *, group: str) -> Stored:
        """Append the sample of one record.

        Raises:
            Dropped: it cannot be stored; nothing is appended.
        """
        size = self._size_of_untouched(row)
        if size is not None and self._read_file is not None:
            text, bucket = self._text(row, group=group, size=size)
            bodies: list[tuple[str, bytes | Picture]] = [("json", text)]
            bodies += [(self._suffix(picture), picture) for picture in row.images]
            bodies.sort(key=_SUFFIX)
            span = self._tar.add_in_place(row.uid, bodies=bodies, put=self._put)
            if span is not None:
                return Stored(span, size, bucket)
        # What could not be read straight into the tar is read with all care, which also says what is wrong with it.
        limits = self._corpus.spec.limits
        files, size = pack(row, read=self._corpus.read_image, config=self._config, limits=limits)
        text, bucket = self._text(row, group=group, size=size)
        return Stored(self._tar.add(row.uid, files={"json": text, **files}), size, bucket)

    def _size_of_untouched(self, row: RunRow) -> tuple[int, int] | None:
        """Width and height of the target if every picture is stored as it is."""
        size = None
        for picture in row.images:
            if not passes_through(picture, config=self._config):
                return None
            if picture.role == "target":
                size = picture.width, picture.height
        return size

    def _suffix(self, picture: Picture) -> str:
        known = picture.role, picture.format
        found = self._suffixes.get(known)
        if found is None:
            found = self._suffixes[known] = suffix_of(picture, config=self._config)
        return found

    def _text(self, row: RunRow, *, group: str, size: tuple[int, int]) -> tuple[bytes, str]:
        bucket = self._buckets.get(size)
        if bucket is None:
            bucket = bucket_name(self._config.buckets[assign_bucket(size, buckets=self._config.buckets)])
            self._buckets[size] = bucket
        text = key_json(row, split=self._split, group=group, signature=self._signature, bucket=bucket, size=size)
        return text, bucket

    def _put(self, body: bytes | Picture, room: memoryview) -> int:
        """Copy a text, or read a picture's file: -1 if it is no plain file, or is not what annotate saw."""
        if isinstance(body, bytes):
            return copy(body, room)
        if body.member is not None or body.row is not None or self._read_file is None:
            return -1
        size = self._read_file(body.uri, room)
        return size if size >= 0 and sha256(room[:size]).hexdigest() == body.sha256 else -1


_SUFFIX = itemgetter(0)
