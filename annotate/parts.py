"""The durable parts of a run: which rows they hold, how one is read, what a kill may have left of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..schema import PART_ROWS, Annotation, Reject
from ..schema.arrow import read_annotations, read_rejects
from ..schema.errors import DataError
from ..schema.runs import part_paths
from .outcome import Outcome


def rows_of(part: int, *, rows: int) -> range:
    """Corpus rows of `part` in a run over `rows` rows."""
    return range(part * PART_ROWS, min((part + 1) * PART_ROWS, rows))


def part_count(rows: int) -> int:
    """Parts of a run over `rows` rows."""
    return -(-rows // PART_ROWS)


def load_part(root: Path, part: int) -> tuple[list[Annotation], list[Reject]]:
    """Both files of `part`. Raises DataError if one is damaged or missing."""
    annotations_path, rejects_path = part_paths(root, part)
    return list(read_annotations(annotations_path)), list(read_rejects(rejects_path))


def found_part(root: Path, part: int) -> Iterator[Outcome]:
    """Whatever records the files of a part that run.json does not describe hold, each row at most once.

    Such files are left by a kill: before run.json was written, or between the two renames of a rewritten part, where new
    annotations stand beside old rejects; rejects of rows that are annotated now are dropped, and so is what a damaged
    file cannot give.
    """
    annotations, rejects = part_paths(root, part)
    if not (annotations.is_file() and rejects.is_file()):
        return
    annotated: set[int] = set()
    with suppress(DataError):
        for annotation in read_annotations(annotations):
            annotated.add(annotation.row)
            yield annotation
        yield from (reject for reject in read_rejects(rejects) if reject.row not in annotated)
