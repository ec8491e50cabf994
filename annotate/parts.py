"""The durable parts of a run: which rows they hold, how one is written, what a kill may have left of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..schema import PART_ROWS, Annotation, Reject
from ..schema.arrow import ANNOTATIONS, REJECTS, read_annotations, read_rejects, write_part
from ..schema.errors import DataError
from ..schema.runs import PartInfo, hash_part, part_paths
from ..schema.warnings import warning_name
from .outcome import Outcome


def rows_of(part: int, *, rows: int) -> range:
    """Corpus rows of `part` in a run over `rows` rows."""
    return range(part * PART_ROWS, min((part + 1) * PART_ROWS, rows))


def part_count(rows: int) -> int:
    """Parts of a run over `rows` rows."""
    return -(-rows // PART_ROWS)


def save_part(root: Path, part: int, outcomes: Iterable[Outcome], *, tokens: tuple[int, int] = (0, 0)) -> PartInfo:
    """Write both files of `part`, rows ascending. The annotations go first: see `found_part`.

    Raises:
        StoppedError: the disk is full or not writable; nothing is half written.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.row)
    annotations = [outcome for outcome in ordered if isinstance(outcome, Annotation)]
    rejects = [outcome for outcome in ordered if isinstance(outcome, Reject)]
    annotations_path, rejects_path = part_paths(root, part)
    write_part(annotations_path, annotations, schema=ANNOTATIONS)
    write_part(rejects_path, rejects, schema=REJECTS)
    return describe(root, part, annotations, rejects, tokens=tokens)


def describe(
    root: Path, part: int, annotations: Sequence[Annotation], rejects: Sequence[Reject], *, tokens: tuple[int, int]
) -> PartInfo:
    """The PartInfo of files already on disk."""
    return PartInfo(
        part=part,
        annotations=len(annotations),
        rejects=len(rejects),
        sha256=hash_part(root, part),
        reasons=dict(sorted(Counter(reject.reason for reject in rejects).items())),
        warnings=dict(sorted(Counter(warning_name(w) for a in annotations for w in a.warnings).items())),
        tokens=tokens,
    )


def load_part(root: Path, part: int) -> tuple[list[Annotation], list[Reject]]:
    """Both files of `part`. Raises DataError if one is damaged or missing."""
    annotations_path, rejects_path = part_paths(root, part)
    return list(read_annotations(annotations_path)), list(read_rejects(rejects_path))


def found_part(root: Path, part: int) -> list[Outcome]:
    """Whatever records the files of a part that run.json does not describe hold, each row at most once.

    Such files are left by a kill: before run.json was written, or between the two renames of a rewritten part, where new
    annotations stand beside old rejects; rejects of rows that are annotated now are dropped.
    """
    if not all(path.is_file() for path in part_paths(root, part)):
        return []
    try:
        annotations, rejects = load_part(root, part)
    except DataError:
        return []
    annotated = {annotation.row for annotation in annotations}
    return [*annotations, *(reject for reject in rejects if reject.row not in annotated)]
