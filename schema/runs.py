"""A finished or growing run of `annotate` on disk: run.json and the parts beside it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from .arrow import ANNOTATIONS, REJECTS, annotation_from_row, hash_parts, read_tables, write_part
from .corpus import CorpusSpec
from .errors import DataError
from .files import write_text
from .records import Annotation, Frozen, Reject
from .warnings import warning_name

PART_ROWS = 16384
"""Part p holds the corpus rows [p * PART_ROWS, (p + 1) * PART_ROWS)."""


class PartInfo(Frozen):
    """One durable part."""

    part: int
    annotations: int
    rejects: int
    sha256: str
    """Over the annotations file's bytes followed by the rejects file's bytes."""
    reasons: dict[str, int] = {}
    """Rejects by reason."""
    warnings: dict[str, int] = {}
    """Annotations by warning name, numbers dropped."""
    tokens: tuple[int, int] = (0, 0)
    """Prompt and completion tokens of the replies received while this part was made."""


class RunInfo(BaseModel):
    """run.json. Clock times live here and in no part."""

    model_config = ConfigDict(extra="ignore")

    format_version: str = "1.0"
    complete: bool = False
    """Every part of the corpus (or of this partition) is durable."""
    run_hash: str | None = None
    """sha256 of the ordered part hashes, once complete."""
    taxonomy: str
    annotator: str
    """name@version"""
    settings_hash: str = ""
    """Over everything else that determines a reply."""
    corpus: CorpusSpec
    corpus_name: str
    fingerprint: str
    rows: int
    """Rows of the corpus this run covers (`--limit` counts)."""
    partition: tuple[int, int] | None = None
    parts: list[PartInfo] = []
    config: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    timings: dict[str, float] = {}
    """Seconds by stage, summed over sessions."""

    @property
    def accepted(self) -> int:
        """Annotated records in durable parts."""
        return sum(part.annotations for part in self.parts)

    @property
    def rejected(self) -> int:
        """Rejected records in durable parts."""
        return sum(part.rejects for part in self.parts)

    @property
    def rejects_by_reason(self) -> dict[str, int]:
        """Rejected records by reason, most frequent first."""
        return _total(part.reasons for part in self.parts)

    @property
    def warnings_by_name(self) -> dict[str, int]:
        """Annotations by warning name, most frequent first."""
        return _total(part.warnings for part in self.parts)


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def part_name(part: int) -> str:
    """File name of part `part`."""
    return f"part-{part:05d}.parquet"


def part_paths(root: Path, part: int) -> tuple[Path, Path]:
    """Annotations file and rejects file of `part`."""
    return root / "annotations" / part_name(part), root / "rejects" / part_name(part)


def hash_part(root: Path, part: int) -> str:
    """Hex sha256 over the annotations file's bytes followed by the rejects file's bytes."""
    digest = hashlib.sha256()
    for path in part_paths(root, part):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def save_part(
    root: Path, part: int, outcomes: Iterable[Annotation | Reject], *, tokens: tuple[int, int] = (0, 0)
) -> PartInfo:
    """Write both files of a part, the annotations first.

    Args:
        root: RUN.
        part: its number.
        outcomes: rows ascending; taken one at a time.
        tokens: prompt and completion tokens that it cost.

    Raises:
        StoppedError: the disk is full or not writable; neither file is half written.
    """
    rejects: list[Reject] = []
    warnings: Counter[str] = Counter()

    def annotations() -> Iterator[Annotation]:
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                warnings.update(warning_name(warning) for warning in outcome.warnings)
                yield outcome

    annotations_path, rejects_path = part_paths(root, part)
    annotated = write_part(annotations_path, annotations(), schema=ANNOTATIONS)
    return PartInfo(
        part=part,
        annotations=annotated,
        rejects=write_part(rejects_path, rejects, schema=REJECTS),
        sha256=hash_part(root, part),
        reasons=dict(sorted(Counter(reject.reason for reject in rejects).items())),
        warnings=dict(sorted(warnings.items())),
        tokens=tokens,
    )


def check_part(root: Path, info: PartInfo) -> None:
    """Compare a recorded part with its files.

    Raises:
        DataError: a file is missing or its bytes are not those that run.json recorded.
    """
    paths = part_paths(root, info.part)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing: run `tagmoe annotate` again, it makes the part anew")
    if hash_part(root, info.part) != info.sha256:
        raise DataError(
            f"part {info.part} of {root} is not what run.json recorded: its files were changed or damaged. Restore them, "
            f"or delete {paths[0]} and run `tagmoe annotate` again"
        )


class Run:
    """Read access to a run folder."""

    def __init__(self, root: Path, info: RunInfo) -> None:
        self.root = root
        self.info = info

    @classmethod
    def open(cls, root: Path, *, allow_incomplete: bool = False) -> Run:
        """Open RUN.

        A complete run's parts are compared with the hashes in run.json, so that whatever reads them can rely on them.

        Raises:
            DataError: no run.json, an unreadable one, another major version, a part that was changed, or an incomplete
                run that the caller did not allow.
        """
        path = root / "run.json"
        if not path.is_file():
            raise DataError(f"{root} is no run: {path} is missing. Make one with `tagmoe annotate CORPUS --out {root}`")
        try:
            info = RunInfo.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(f"{path} is damaged: {error.errors()[0]['msg']}") from error
        if info.format_version.split(".")[0] != "1":
            raise DataError(f"{path} has format version {info.format_version}, this tagmoe reads 1.x")
        if not info.complete and not allow_incomplete:
            done = sum(p.annotations + p.rejects for p in info.parts)
            raise DataError(
                f"{root} is not finished ({done} of {info.rows} records): run `tagmoe annotate` again, it goes on"
            )
        if not allow_incomplete:
            for part in info.parts:
                check_part(root, part)
        return cls(root, info)

    def annotation_paths(self) -> list[Path]:
        """Annotation parts in order."""
        return [self.root / "annotations" / part_name(p.part) for p in self.info.parts]

    def reject_paths(self) -> list[Path]:
        """Reject parts in order."""
        return [self.root / "rejects" / part_name(p.part) for p in self.info.parts]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Record batches of all annotations in row order (schema ANNOTATIONS), only `columns` if given."""
        for path in self.annotation_paths():
            yield from read_tables(path, schema=ANNOTATIONS, columns=columns)

    def annotations(self) -> Iterator[Annotation]:
        """All annotations in row order, a bounded number in memory."""
        for batch in self.tables():
            for row in batch.to_pylist():
                yield annotation_from_row(row)

    def rejects(self) -> Iterator[Reject]:
        """All rejects in row order."""
        for path in self.reject_paths():
            for batch in read_tables(path, schema=REJECTS):
                for row in batch.to_pylist():
                    yield Reject.model_validate(row)

    def hash_of_parts(self) -> str:
        """The run hash from the recorded part hashes."""
        return hash_parts(part.sha256 for part in self.info.parts)


def save_run_info(root: Path, info: RunInfo) -> None:
    """Write run.json atomically."""
    write_text(root / "run.json", info.model_dump_json(indent=2) + "\n")
