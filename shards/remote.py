"""A shard set behind an fsspec URL: ranges of the tars, kept in a bounded local cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast
from urllib.parse import quote

from fsspec.core import url_to_fs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from ..schema import ConfigError, DataError, StoppedError
from ..schema.files import atomic_file
from ..schema.shards import Snapshot
from .cache import PieceCache
from .source import Place, checked
from .tars import BadSpan

T = TypeVar("T")

CHUNK_BYTES = 4 << 20
"""Aligned stretch of a tar that is fetched and cached as one."""
_WAITS = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt."""
_PATIENCE = 30.0
"""Seconds after which a failed attempt is the last one: some protocols wait and try again by themselves."""
_FINAL_STATUS = {400, 401, 403, 405, 451}


class _FileSystem(Protocol):
    def cat_file(self, path: str, *, start: int | None, end: int | None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Cut:
    """The part [start, stop) of one chunk."""

    name: str
    number: int
    start: int
    stop: int


class RemoteSource:
    """See ShardSource. Faults of the network are tried again and then stop the run; they never replace a sample."""

    def __init__(self, url: str, *, cache: Path, cache_bytes: int) -> None:
        self.url = url.rstrip("/")
        self._cache = PieceCache(cache / "chunks", limit=cache_bytes)
        self._files = cache / "files" / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._version = "unpinned"
        self._sizes: dict[str, tuple[str, int]] = {}
        self._system: tuple[int, _FileSystem, str] | None = None

    def pin(self, snapshot: Snapshot) -> None:
        """Small files are cached under this snapshot from now on, and its shards are known by content."""
        self._version = snapshot.content_hash[:32]
        self._sizes = {shard.name: (shard.sha256, shard.bytes) for shard in snapshot.shards}

    def read(self, shard: str, *, offset: int, size: int, crc32: int) -> bytes:
        """See ShardSource; bytes that do not fit are fetched once more, past the cache."""
        try:
            return checked(self._range(shard, offset, size, fresh=False), crc32=crc32)
        except BadSpan:
            return checked(self._range(shard, offset, size, fresh=True), crc32=crc32)

    def read_all(self, places: Sequence[Place]) -> list[bytes]:
        """See ShardSource."""
        return [self.read(shard, offset=offset, size=size, crc32=crc32) for shard, offset, size, crc32 in places]

    def local(self, relative: str) -> Path:
        """See ShardSource."""
        path = self._files / self._version / relative
        if self._version != "unpinned" and path.is_file():
            return path
        try:
            data = self._patiently(relative, None, None)
        except FileNotFoundError as error:
            raise DataError(f"{self.url}/{relative} does not exist: is this a shard set?") from error
        with atomic_file(path) as stream:
            stream.write(data)
        return path

    def close(self) -> None:
        """See ShardSource; older snapshots' small files leave the cache."""
        for folder in self._files.glob("*") if self._files.is_dir() else ():
            if folder.name != self._version and time.time() - folder.stat().st_mtime > 30 * 86400:
                shutil.rmtree(folder, ignore_errors=True)

    def _range(self, shard: str, offset: int, size: int, *, fresh: bool) -> bytes:
        digest, total = self._sizes[shard]
        if offset + size > total:
            raise BadSpan(f"the index says byte {offset + size}, the manifest {total}")
        cuts: list[_Cut] = []
        for number in range(offset // CHUNK_BYTES, (offset + size - 1) // CHUNK_BYTES + 1):
            base = number * CHUNK_BYTES
            start, stop = max(offset, base) - base, min(offset + size, base + CHUNK_BYTES) - base
            cuts.append(_Cut(f"{digest}-{number}", number, start, stop))
        if fresh:
            for cut in cuts:
                self._cache.drop(cut.name)
        parts = {cut.number: self._cached(cut) for cut in cuts}
        missing = [cut for cut in cuts if parts[cut.number] is None]
        if missing:
            with self._cache.fetching(missing[0].name):
                parts |= self._fetch(shard, missing, total=total)
        data = b"".join(part for _, part in sorted(parts.items()) if part is not None)
        if len(data) < size:
            raise BadSpan(f"{shard}.tar is shorter than the manifest says")
        return data

    def _cached(self, cut: _Cut) -> bytes | None:
        return self._cache.get(cut.name, start=cut.start, stop=cut.stop)

    def _fetch(self, shard: str, cuts: list[_Cut], *, total: int) -> dict[int, bytes | None]:
        """Parts that another process has fetched meanwhile, or one range over all chunks that are still missing."""
        found = {cut.number: self._cached(cut) for cut in cuts}
        lacking = [cut for cut in cuts if found[cut.number] is None]
        if not lacking:
            return found
        begin = lacking[0].number * CHUNK_BYTES
        end = min((lacking[-1].number + 1) * CHUNK_BYTES, total)
        try:
            data = self._patiently(f"{shard}.tar", begin, end)
        except FileNotFoundError as error:
            raise BadSpan(f"{self.url}/{shard}.tar does not exist") from error
        if len(data) > end - begin:
            raise ConfigError(
                f"{self.url} answers a request for {end - begin} bytes with {len(data)}: it does not serve ranges. "
                "Use a server that does, or copy the set to a local folder"
            )
        for cut in lacking:
            at = cut.number * CHUNK_BYTES - begin
            chunk = data[at : at + CHUNK_BYTES]
            if len(chunk) == min(CHUNK_BYTES, total - cut.number * CHUNK_BYTES):
                self._cache.put(cut.name, chunk)
            found[cut.number] = chunk[cut.start : cut.stop]
        return found

    def _patiently(self, relative: str, start: int | None, stop: int | None) -> bytes:
        """Bytes of one file.

        Raises:
            FileNotFoundError: the other side says that there is no such file.
            ConfigError: it refuses, or the protocol is unknown here.
            StoppedError: it did not answer.
        """
        begun = time.monotonic()
        for wait in (*_WAITS, None):
            try:
                return self._cat(relative, start, stop)
            except (ConfigError, PermissionError) as error:
                raise ConfigError(f"cannot read {self.url}/{relative}: {error}") from error
            except Exception as error:
                # Every fsspec protocol has exceptions of its own; HTTP calls any failed request a missing file and
                # keeps the reason as the cause, the others mean it.
                hidden = isinstance(error, FileNotFoundError) and self.url.startswith(("http://", "https://"))
                cause = (error.__cause__ or error) if hidden else error
                status = _status_of(cause)
                if status in (404, 410) or isinstance(cause, FileNotFoundError):
                    raise FileNotFoundError(relative) from error
                if status in _FINAL_STATUS:
                    raise ConfigError(f"cannot read {self.url}/{relative}: the server answers {status}") from error
                if wait is None or time.monotonic() - begun > _PATIENCE:
                    raise StoppedError(
                        f"cannot read {self.url}/{relative}: {type(cause).__name__} {cause}. When the server answers "
                        "again, resume from the last checkpoint"
                    ) from error
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _cat(self, relative: str, start: int | None, stop: int | None) -> bytes:
        system, root = self._open()
        name = quote(relative) if self.url.startswith(("http://", "https://")) else relative
        return system.cat_file(f"{root}/{name}", start=start, end=stop)

    def _open(self) -> tuple[_FileSystem, str]:
        """The file system, opened again in a forked process, whose copy has no running event loop."""
        if self._system is None or self._system[0] != os.getpid():
            open_url = cast("Callable[..., tuple[_FileSystem, str]]", url_to_fs)
            try:
                system, root = open_url(self.url, skip_instance_cache=True)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{self.url}: {error}") from error
            self._system = (os.getpid(), system, root.rstrip("/"))
        return self._system[1], self._system[2]


def _status_of(cause: BaseException) -> int | None:
    """The HTTP status behind an error: aiohttp keeps it as `status`, gcsfs as `code`, and 403 only as a word."""
    status = getattr(cause, "status", None) or getattr(cause, "code", None)
    if status is None and str(cause).startswith("Forbidden: "):
        return 403
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdecimal()) else None
