"""Anything `datasets.load_dataset` opens, as one table; pictures are taken encoded, never decoded by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Protocol, cast

import pyarrow as pa

from ...schema import ConfigError
from .cells import ImageColumn, cell_bytes, image_columns, needed, plain_columns, rows_of, split_index
from .fields import split_box
from .rejected import ImageRejected
from .store import LocalStore
from .table import BadRow, Located, Row

PREFIX = "hf:"
_BATCH_ROWS = 64


class _Data(Protocol):
    """What is used of a `datasets.Dataset` in Arrow format."""

    num_rows: int

    def __getitem__(self, rows: slice) -> pa.Table: ...

    def select_columns(self, names: list[str]) -> _Data: ...


class HubTable:
    """One split of a data set."""

    uri = "dataset"
    """The same in every record, so that a local data set may move."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()

    @property
    def rows(self) -> int:
        """Rows of the split."""
        return self._data.num_rows

    def mark(self) -> str:
        """The library's fingerprint of data and transforms."""
        return str(getattr(self._data, "_fingerprint"))  # noqa: B009

    def head(self, count: int) -> Iterator[Row | BadRow]:
        """See `Table`."""
        return self.read(0, min(count, self.rows))

    def read(self, start: int, stop: int, *, only: str | None = None) -> Iterator[Row | BadRow]:
        """See `Table`."""
        images = self._images if only is None else {}
        data = self._data.select_columns([*needed(plain_columns(self._schema), only), *images])
        for first in range(start, stop, _BATCH_ROWS):
            table = data[first : min(first + _BATCH_ROWS, stop)].combine_chunks()
            for batch in table.to_batches():
                yield from rows_of(batch, images=images, uri=self.uri, first_row=first, folder="", paths_too=True)

    def read_image(self, place: Located, *, limit: int) -> bytes:
        """See `Table`. A picture the data set keeps as a file is read if it lies in its folder or the library's cache."""
        name = split_box(place.column or "")[0]
        image = self._images.get(name) or self._images.get(split_index(name)[0])
        if image is None or place.row is None or not 0 <= place.row < self.rows:
            raise ImageRejected("read", "missing_image", f"no picture at row {place.row}, column {place.column}")
        with self._lock:
            cells = self._data.select_columns([image.name])[slice(place.row, place.row + 1)]
        value = cast("object", cells.column(0)[0].as_py())
        path = _path_of(value, name)
        return cell_bytes(value, place, limit=limit) if path is None else self._read_file(path, limit=limit)

    def _read_file(self, path: str, *, limit: int) -> bytes:
        absolute = os.path.abspath(path)  # noqa: PTH100
        for root in self._roots:
            if Path(absolute).is_relative_to(root):
                return LocalStore(root).read_image(str(Path(absolute).relative_to(root)), limit=limit)
        raise ImageRejected("read", "path_outside_root", f"{path!r} lies neither in the data set nor in the cache")

    @cached_property
    def _roots(self) -> list[Path]:
        from datasets import config

        name, _, _ = parse_hub(self._name)
        caches = [Path(config.HF_DATASETS_CACHE), Path(config.HF_CACHE_HOME)]
        local = [Path(name).absolute()] if Path(name).is_dir() else []
        return [*local, *(cache.absolute() for cache in caches)]

    @cached_property
    def _data(self) -> _Data:
        return load_split(self._name)

    @cached_property
    def _schema(self) -> pa.Schema:
        return self._data[slice(0, 0)].schema

    @cached_property
    def _images(self) -> dict[str, ImageColumn]:
        return image_columns(self._schema)


def parse_hub(uri: str) -> tuple[str, str | None, str | None]:
    """`hf:NAME`, `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT` as (name, config, split)."""
    name, *rest = uri.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise ConfigError(f"{uri!r}: expected hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
    if len(rest) == 2:
        return name, rest[0], rest[1]
    return name, None, rest[0] if rest else None


def load_split(uri: str) -> _Data:
    """Load the split, in Arrow format.

    Raises:
        ConfigError: no such data set or split, or no network; with the library's own words.
    """
    import datasets

    name, config, split = parse_hub(uri)
    try:
        with _without_bars():
            loaded: object = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library lets errors of many packages through
        words = str(error).splitlines() or [type(error).__name__]
        raise ConfigError(f"datasets cannot load {uri}: {words[0][:300]}") from error
    if isinstance(loaded, dict):
        splits = list(cast("dict[str, datasets.Dataset]", loaded))
        if len(splits) != 1:
            raise ConfigError(f"{uri} has the splits {', '.join(splits)}: name one, such as {uri}:{splits[0]}")
        loaded = cast("dict[str, datasets.Dataset]", loaded)[splits[0]]
    return cast("_Data", loaded.with_format("arrow"))


@contextmanager
def _without_bars() -> Iterator[None]:
    """The library's own bars say little beside ours; HF_DATASETS_DISABLE_PROGRESS_BARS=0 brings them back."""
    import datasets

    if "HF_DATASETS_DISABLE_PROGRESS_BARS" in os.environ or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _path_of(value: object, column: str) -> str | None:
    """The file of a cell that holds a path and no bytes."""
    _, index = split_index(column)
    if index is not None and isinstance(value, list) and index < len(cast("list[object]", value)):
        value = cast("list[object]", value)[index]
    if isinstance(value, dict) and value.get("bytes") is None:
        path = cast("dict[str, object]", value).get("path")
        return path if isinstance(path, str) else None
    return None
