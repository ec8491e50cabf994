"""What every kind of corpus file offers: rows of raw fields, before they are mapped to a Pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, Union

from ...schema.reasons import Reason


@dataclass(frozen=True, slots=True)
class Located:
    """A field that is a picture's place inside a table or tar: the bytes are not read yet."""

    uri: str
    member: str | None = None
    row: int | None = None
    column: str | None = None


Value = Union[None, bool, int, float, str, Located, "list[Value]", "dict[str, Value]"]
"""A raw field: JSON, or a picture's place."""


@dataclass(frozen=True, slots=True)
class Row:
    """Fields of one row, and the folder (relative to the root) that its paths start from."""

    fields: Mapping[str, Value]
    folder: str = ""
    key: str | None = None
    """The container's own name of the record (a tar key): its id where it states none."""
    corpus: str | None = None
    """The corpus the record came from at first, where the file says so: its uid is made with it."""
    extra: Mapping[str, Value] | None = None
    """Further fields, where the file keeps them apart; None: every field that is not mapped."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be parsed."""

    reason: Reason
    detail: str


class Table(Protocol):
    """One file of rows (or a whole data set that looks like one)."""

    @property
    def uri(self) -> str:
        """Path relative to the corpus root."""
        ...

    @property
    def rows(self) -> int:
        """Number of rows; the first use may read the file once."""
        ...

    def mark(self) -> str:
        """Hex digest that changes with the content."""
        ...

    def head(self, count: int) -> Iterator[Row | BadRow]:
        """At most `count` first rows, without looking at the rest of the file."""
        ...

    def read(self, start: int, stop: int, *, only: str | None = None) -> Iterator[Row | BadRow]:
        """Rows [start, stop) in order, one item each; starting anywhere is cheap.

        Args:
            start: first row.
            stop: row after the last.
            only: the one column that is needed: a file stored by columns then reads no other.
        """
        ...

    def read_image(self, place: Located, *, limit: int) -> bytes:
        """Bytes of a picture inside this file.

        Raises:
            ImageRejected: missing or larger than `limit`.
        """
        ...
