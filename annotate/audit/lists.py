"""Exported lists beside the report: CSV files that no spreadsheet can be made to execute."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...schema.files import atomic_file
from ...schema.report import PictureFault, Queue
from .columns import Columns

LIST_CHARS = 500
"""Characters of a cell."""

_FORMULA = re.compile(r"^\s*[=+\-@|%\uff1d\uff0b\uff0d\uff20]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def safe_cell(text: str) -> str:
    """A text cell that stays text.

    Control and bidirectional characters become spaces; what a spreadsheet would take for a formula gets an apostrophe
    in front.
    """
    plain = _CONTROL.sub(" ", text)
    plain = plain[:LIST_CHARS] + "\u2026" if len(plain) > LIST_CHARS else plain
    return "'" + plain if _FORMULA.match(plain) else plain


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[str | int | float]]) -> None:
    """Write a CSV of safe cells atomically, row by row; numbers are written as they are."""
    with atomic_file(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(list(header))
        for row in rows:
            writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in row])
        text.detach()


def write_queue(path: Path, queue: Queue, texts: Mapping[int, str]) -> None:
    """Export one queue; `texts` are keyed by corpus row."""
    write_csv(
        path,
        ("place", "row", "id", "uid", "score", "reason", "instruction"),
        (
            (place, entry.row, entry.id, entry.uid, entry.score, entry.reason, texts[entry.row])
            for place, entry in enumerate(queue.entries, start=1)
        ),
    )


def write_plan(path: Path, order: Iterable[int], columns: Columns, texts: Mapping[int, str]) -> None:
    """Export the sampling plan in the order in which to review: record indices, and texts by corpus row."""
    rows = ((int(columns.row[i]), i) for i in order)
    write_csv(
        path,
        ("place", "row", "id", "uid", "tags", "instruction"),
        (
            (place, row, columns.id[i].as_py(), columns.uid[i].as_py(), ", ".join(columns.names(i)), texts[row])
            for place, (row, i) in enumerate(rows, start=1)
        ),
    )


def write_faults(path: Path, faults: Iterable[PictureFault]) -> None:
    """Export the pictures that are not the annotated ones, as they are found."""
    write_csv(
        path,
        ("row", "id", "role", "uri", "member", "reason", "detail"),
        ((f.row, f.id, f.role, f.uri, f.member or "", f.reason, f.detail) for f in faults),
    )
