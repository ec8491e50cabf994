"""The durable parts of a run: which exist and are whole, how one is written, how a torn pair is mended."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..schema import PART_ROWS, Annotation, Reject
from ..schema.arrow import ANNOTATIONS, REJECTS, read_annotations, read_rejects, write_part
from ..schema.errors import DataError
from ..schema.runs import PartInfo, part_name
from ..schema.warnings import warning_name
from .outcome import Outcome


def rows_of(part: int, *, rows: int) -> range:
    """Corpus rows of `part` in a run over `rows` rows."""
    return range(part * PART_ROWS, min((part + 1) * PART_ROWS, rows))


def part_count(rows: int) -> int:
    """Parts of a run over `rows` rows."""
    return -(-rows // PART_ROWS)


def paths(root: Path, part: int) -> tuple[Path, Path]:
    """Annotations file and rejects file of `part`."""
    return root / "annotations" / part_name(part), root / "rejects" / part_name(part)


def hash_part(root: Path, part: int) -> str:
    """Hex sha256 over the annotations file's bytes followed by the rejects file's bytes."""
    digest = hashlib.sha256()
    for path in paths(root, part):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def save_part(root: Path, part: int, outcomes: Iterable[Outcome], *, tokens: tuple[int, int] = (0, 0)) -> PartInfo:
    """Write both files of `part`, rows ascending. The annotations go first: see `mend`.

    Raises:
        StoppedError: the disk is full or not writable; nothing is half written.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.row)
    annotations = [outcome for outcome in ordered if isinstance(outcome, Annotation)]
    rejects = [outcome for outcome in ordered if isinstance(outcome, Reject)]
    annotations_path, rejects_path = paths(root, part)
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
    annotations_path, rejects_path = paths(root, part)
    return list(read_annotations(annotations_path)), list(read_rejects(rejects_path))


def is_whole(root: Path, info: PartInfo) -> bool:
    """Whether the files of a recorded part are there and unchanged."""
    return all(path.is_file() for path in paths(root, info.part)) and hash_part(root, info.part) == info.sha256


def mend(root: Path, part: int, *, rows: int) -> PartInfo | None:
    """Adopt the files of a part that run.json does not describe, if together they hold each row exactly once.

    A kill between the two renames of a rewritten part leaves new annotations beside old rejects: rejects of rows that
    are annotated now are dropped. A kill before run.json was written leaves a whole part. Otherwise None: the part is
    made again from its ledger.
    """
    if not all(path.is_file() for path in paths(root, part)):
        return None
    try:
        annotations, rejects = load_part(root, part)
    except DataError:
        return None
    annotated = {annotation.row for annotation in annotations}
    kept = [reject for reject in rejects if reject.row not in annotated]
    if sorted([*annotated, *(reject.row for reject in kept)]) != list(rows_of(part, rows=rows)):
        return None
    return save_part(root, part, [*annotations, *kept])
