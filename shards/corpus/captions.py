"""DreamBench++'s layout: images/ and captions/ with the same names; a caption file is a subject, then one prompt a line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath

from .rejected import ImageRejected
from .store import Store
from .table import BadRow, Located, Row

_MAX_BYTES = 1 << 20
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


class CaptionTable:
    """All prompts of such a folder: one row a prompt, with the picture as its reference."""

    uri = "captions"

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def rows(self) -> int:
        """Prompts in all."""
        return len(self._rows)

    def mark(self) -> str:
        """sha256 over all rows."""
        return hashlib.sha256(repr(self._rows).encode("utf-8", "surrogatepass")).hexdigest()

    def head(self, count: int) -> Iterator[Row | BadRow]:
        """See `Table`."""
        return self.read(0, count)

    def read(self, start: int, stop: int, *, only: str | None = None) -> Iterator[Row | BadRow]:
        """See `Table`."""
        return iter(self._rows[start:stop])

    def read_image(self, place: Located, *, limit: int) -> bytes:
        """Captions hold no pictures."""
        raise ImageRejected("read", "missing_image", f"captions hold no pictures ({place}, at most {limit} bytes)")

    @cached_property
    def _rows(self) -> list[Row | BadRow]:
        pictures = {PurePosixPath(path).with_suffix("").as_posix(): path for path in self._store.list(_PICTURES)}
        texts = [path for path in self._store.list((".txt",)) if path.startswith("captions/")]
        return [row for path in texts for row in self._prompts(path, pictures)]

    def _prompts(self, path: str, pictures: dict[str, str]) -> Iterator[Row | BadRow]:
        name = path.removeprefix("captions/").removesuffix(".txt")
        with self._store.open(path) as stream:
            lines = stream.read(_MAX_BYTES).decode("utf-8-sig", "replace").splitlines()
        subject, *prompts = [line.strip() for line in lines if line.strip()] or [""]
        picture = pictures.get(f"images/{name}", f"images/{name}.jpg")
        category = PurePosixPath(name).parts[0]
        for number, prompt in enumerate(prompts):
            fields = {"prompt": prompt, "image": picture, "subject": subject, "category": category}
            yield Row(fields, key=f"{name}/{number}")
