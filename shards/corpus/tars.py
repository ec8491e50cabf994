"""WebDataset tars: consecutive members that share a name up to the first dot are one row."""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO, cast

from .mark import content_mark
from .rejected import ImageRejected
from .store import Store, stop_if_here, too_large
from .table import BadRow, Located, Row, Value

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "jpe", "heic", "avif"})
TEXT_SUFFIXES = frozenset({"txt", "caption", "text"})

_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$", re.DOTALL)
_FORGET_EVERY = 1000
_TORN = (tarfile.TarError, OSError, EOFError)


@dataclass(slots=True)
class Sample:
    """Members of one row, as they come."""

    key: str
    offset: int
    fields: dict[str, Value] = field(default_factory=dict[str, Value])
    fault: str | None = None


class TarTable:
    """One uncompressed tar. A torn tar ends in one BadRow that says where.

    Fields of a row: each picture under the text between the key and its format (`source` of `KEY.source.jpg`, `jpg`
    of `KEY.jpg`), each text likewise (`txt` of `KEY.txt`), and the members of `KEY.json`.
    """

    def __init__(self, store: Store, uri: str, *, max_member: int) -> None:
        self._store = store
        self.uri = uri
        self._max_member = max_member

    @property
    def rows(self) -> int:
        """Samples, and one more row where the tar is torn."""
        return len(self._offsets)

    def mark(self) -> str:
        """See `content_mark`."""
        with self._store.open(self.uri) as stream:
            return content_mark(stream)

    def head(self, count: int) -> Iterator[Row | BadRow]:
        """See `Table`."""
        with self._store.open(self.uri) as stream:
            for number, sample in enumerate(self._samples(stream, 0, read=True)):
                if number >= count:
                    return
                yield self.to_row(sample)

    def read(self, start: int, stop: int, *, only: str | None = None) -> Iterator[Row | BadRow]:
        """See `Table`."""
        if start >= stop:
            return
        with self._store.open(self.uri) as stream:
            samples = self._samples(stream, self._offsets[start], read=True)
            for _, sample in zip(range(start, stop), samples, strict=False):
                yield self.to_row(sample)

    def read_image(self, place: Located, *, limit: int) -> bytes:
        """See `Table`."""
        found = self._pictures.get(place.member or "")
        if found is None:
            raise ImageRejected("read", "missing_image", f"{self.uri} has no member {place.member!r:.200}")
        offset, size = found
        if size > limit:
            raise too_large(f"{self.uri}/{place.member}", size, limit)
        with self._store.open(self.uri) as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) < size:
            raise ImageRejected("read", "unreadable_file", f"{self.uri} is torn inside {place.member!r:.200}")
        return data

    @cached_property
    def _offsets(self) -> array[int]:
        """Header offset of each row's first member."""
        with self._store.open(self.uri) as stream:
            return array("Q", (sample.offset for sample in self._samples(stream, 0, read=False)))

    @cached_property
    def _pictures(self) -> dict[str, tuple[int, int]]:
        """Place and size of each picture by member name: only for a tar that pictures are read from."""
        places: dict[str, tuple[int, int]] = {}
        with self._store.open(self.uri) as stream:
            try:
                for info in _members(stream, 0):
                    if info.isreg() and _is_image(info.name):
                        places.setdefault(info.name, (info.offset_data, info.size))
            except _TORN as error:
                stop_if_here(error, self.uri)
        return places

    def to_row(self, sample: Sample) -> Row | BadRow:
        """Fields of one sample."""
        if sample.fault is not None:
            reason = "unreadable_file" if not sample.key else "bad_record"
            return BadRow(reason, sample.fault)
        return Row(sample.fields, folder=posixpath.dirname(self.uri), key=sample.key)

    def _samples(self, stream: BinaryIO, offset: int, *, read: bool) -> Iterator[Sample]:
        """Rows from the member at `offset` on; `read` fills their fields."""
        sample: Sample | None = None
        position = offset
        try:
            for info in _members(stream, offset):
                position = info.offset
                match = _NAME.match(info.name)
                if match is None or not info.isreg():
                    continue
                key, suffix = match[1], match[2]
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = Sample(key, info.offset)
                if read:
                    self._add(sample, suffix, info, stream)
        except _TORN as error:
            stop_if_here(error, self.uri)
            # The open sample may lack members, and what follows is lost: both are this one row.
            start = sample.offset if sample is not None else position
            yield Sample("", start, fault=f"{self.uri} is torn after byte {position}: {error}; later samples are lost")
            return
        if sample is not None:
            yield sample

    def _add(self, sample: Sample, suffix: str, info: tarfile.TarInfo, stream: BinaryIO) -> None:
        stem, _, kind = suffix.rpartition(".")
        if _is_image(suffix):
            sample.fields[stem or kind] = Located(self.uri, member=info.name)
            return
        if kind.lower() != "json" and kind.lower() not in TEXT_SUFFIXES:
            return
        if info.size > self._max_member:
            sample.fault = f"member {info.name!r:.200} has {info.size} bytes, at most {self._max_member} are read"
            return
        stream.seek(info.offset_data)
        try:
            text = stream.read(info.size).decode("utf-8-sig")
            value: object = text if kind.lower() != "json" else json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            sample.fault = f"member {info.name!r:.200} cannot be parsed: {error}"[:400]
            return
        if kind.lower() == "json" and not stem and isinstance(value, dict):
            # Pictures win: a json often repeats their file names.
            sample.fields = {**cast("dict[str, Value]", value), **_pictures(sample.fields)}
        else:
            sample.fields[stem or kind] = cast("Value", value)


def _pictures(fields: dict[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in fields.items() if isinstance(value, Located)}


def _members(stream: BinaryIO, offset: int) -> Iterator[tarfile.TarInfo]:
    stream.seek(offset)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for number, info in enumerate(tar):
            # tarfile remembers every member, which grows with the tar.
            if number % _FORGET_EVERY == 0:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
            yield info
        # tarfile ends quietly at a damaged header, and where the two zero blocks that end a tar are missing.
        stream.seek(tar.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
            raise tarfile.ReadError(f"no end mark and no sound header at byte {tar.offset}")


def _is_image(suffix: str) -> bool:
    return suffix.rpartition(".")[2].lower() in IMAGE_SUFFIXES
