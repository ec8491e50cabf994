"""report.json: what an audit found, as a versioned schema that later stages and other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import DataError
from .taxonomy import Tier

REPORT_VERSION = "1.1"

Severity = Literal["error", "advice"]


class ReportModel(BaseModel):
    """Readers ignore fields that a later minor version added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Estimate(ReportModel):
    """A figure with its interval and the number of records behind it."""

    value: float | None
    """None when nothing can be said (no records)."""
    low: float | None
    high: float | None
    n: int


class Example(ReportModel):
    """A record named as an example."""

    row: int
    id: str


class RejectCount(ReportModel):
    """Rejects of one stage and reason."""

    stage: str
    reason: str
    count: int
    examples: list[Example]
    detail: str
    """Detail of the first one."""


class Coverage(ReportModel):
    """What became of the corpus's records."""

    rows: int
    annotated: int
    rejected: int
    with_evidence: int
    """Records with a source and a target picture that were measured."""
    without_pictures: int
    with_probabilities: int
    by_task: dict[str, int]
    by_corpus: dict[str, int]
    rejects: list[RejectCount]


class TagCount(ReportModel):
    """How often one tag was given."""

    id: int
    name: str
    tier: Tier
    count: int
    share: float
    mean_probability: float | None
    """Mean P(tag) over the records with a probability: far from `share` means biased confidences."""


class Combination(ReportModel):
    """A whole tag set and how many records carry exactly it."""

    tag_ids: list[int]
    count: int


class RuleCount(ReportModel):
    """A rule of the taxonomy and the records that break it."""

    rule: str
    severity: Severity
    text: str
    count: int
    examples: list[Example]


class WarningCount(ReportModel):
    """A warning of the annotator and the records that carry it."""

    name: str
    meaning: str
    count: int
    examples: list[Example]


class QueueEntry(ReportModel):
    """One record of a queue."""

    row: int
    id: str
    uid: str
    score: float
    """Higher is more suspicious; comparable within a queue only."""
    reason: str


class Queue(ReportModel):
    """Records ranked by how much they look like one kind of fault."""

    name: str
    title: str
    meaning: str
    scored: int
    """Records the score is defined for."""
    flagged: int
    """Of these, the ones that deserve a look."""
    threshold: float
    """Of the score; for `uncertain`, of the certainty of the record's least certain decision."""
    entries: list[QueueEntry]
    """The first ones, ranked; the rest is in no list."""


class DuplicateGroup(ReportModel):
    """Records that share a picture or repeat each other."""

    size: int
    examples: list[Example]
    splits: list[str] = []


class Duplicates(ReportModel):
    """Repeated records and pictures, by perceptual hash within `bits` of 64 bits."""

    bits: int
    repeated_records: int
    """Records whose pictures and instruction repeat an earlier record's."""
    repeated: list[DuplicateGroup]
    same_target_groups: int
    """Groups of records with different sources but one target."""
    same_target: list[DuplicateGroup]
    shared_source_groups: int
    """Groups of records that edit one source: usual, but they belong into one split."""
    shared_source: list[DuplicateGroup]
    splits: dict[str, int]
    """Records by split, where the corpus states splits."""
    leak_groups: int
    """Groups of near-identical pictures that occur in several splits."""
    leaks: list[DuplicateGroup]


class TagScore(ReportModel):
    """One tag against gold."""

    id: int
    name: str
    tier: Tier
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    ece: Estimate


class ReliabilityBin(ReportModel):
    """Probabilities of one bin against how often the tag was right."""

    low: float
    high: float
    count: int
    mean_probability: float
    observed: Estimate


class GoldReport(ReportModel):
    """The run against verified records."""

    source: str
    records: int
    """Gold records found in the run."""
    unmatched: int
    """Gold records that the run does not hold."""
    mismatches: int
    """Matched records whose target was found not to do what is asked."""
    tags: list[TagScore]
    scope_accuracy: Estimate
    exact_match: Estimate
    """Whole tag sets that agree."""
    micro_f1: Estimate
    macro_f1: Estimate
    """Over the tags that occur in gold or in the run."""
    ece: Estimate
    brier: float | None
    reliability: list[ReliabilityBin]
    queues: dict[str, Estimate]
    """AUROC of each queue against the records marked as mismatch."""


class AlphaScore(ReportModel):
    """Agreement of two runs on one tag."""

    id: int
    name: str
    tier: Tier
    alpha: Estimate
    gained: int
    """Records that have the tag now and had it not."""
    lost: int
    examples: list[Example]


class Flip(ReportModel):
    """A change of scope between two runs."""

    before: str
    after: str
    count: int
    examples: list[Example]


class Drift(ReportModel):
    """This run against another run over the same records."""

    source: str
    run_hash: str
    annotator: str
    matched: int
    only_here: int
    only_there: int
    changed: int
    """Matched records whose tag set differs."""
    mean_alpha: float | None
    tags: list[AlphaScore]
    scope_flips: list[Flip]


class SamplingStratum(ReportModel):
    """What a reviewer still has to look at for one tag."""

    id: int | None
    """None for the stratum of all records."""
    name: str
    population: int
    verified: int
    needed: int
    """Records to see in all for the wanted half-width."""
    remaining: int
    assumed: float
    """The share right that `needed` was reckoned with: the least favourable one that what is verified allows."""


class SamplingPlan(ReportModel):
    """A stratified plan: the same records serve several tags, `distinct` counts them once."""

    half_width: float
    confidence_level: float
    strata: list[SamplingStratum]
    distinct: int
    list_file: str


class GateCheck(ReportModel):
    """One threshold and the figure held against it."""

    name: str
    passed: bool
    value: float | None
    threshold: float
    n: int
    """Records behind the figure."""
    message: str


class GateResult(ReportModel):
    """The gate: `build-shards --require-audit` asks for `passed` with the same run hash."""

    passed: bool
    source: str
    """`default`, or the name of the gate file."""
    checks: list[GateCheck]
    failures: list[str]


class Histogram(ReportModel):
    """Counts in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]
    missing: int


class PictureFault(ReportModel):
    """A picture that is not the one that was annotated, or that cannot be read any more."""

    row: int
    id: str
    role: str
    uri: str
    member: str | None
    reason: str
    """`image_changed` when its bytes differ from the recorded sha256, else why it cannot be read."""
    detail: str


class PictureCheck(ReportModel):
    """Whether the corpus still holds the pictures that were annotated."""

    asked: str
    """`all`, `shown`, or how many were to be drawn at random beside those that the page shows."""
    recorded: int
    """Pictures of all annotated records."""
    checked: int = 0
    """Of these, read again and compared; 0 also when the corpus could not be opened."""
    changed: int = 0
    """Of the checked ones, those whose bytes differ."""
    unreadable: int = 0
    """Of the checked ones, those that are gone or cannot be read."""
    reasons: dict[str, int] = {}
    """Changed and unreadable ones by reason."""
    share: Estimate = Estimate(value=None, low=None, high=None, n=0)
    """Share of all pictures that are changed or unreadable: exact when all were checked, else from the random draw."""
    faults: list[PictureFault] = []
    """The first ones in row order; `list_file` names every one."""
    list_file: str = ""


class Report(ReportModel):
    """The whole of report.json."""

    format_version: str = REPORT_VERSION
    tagmoe_version: str
    run: str
    run_hash: str
    corpus: str
    corpus_uri: str
    fingerprint: str
    annotator: str
    taxonomy: str
    config: dict[str, int | float | str]
    coverage: Coverage
    tags: list[TagCount]
    pairs: list[list[int]]
    """Records that carry both tags, in the order of `tags`."""
    combinations: list[Combination]
    distinct_combinations: int
    violations: list[RuleCount]
    warnings: list[WarningCount]
    confidence: Histogram
    """Certainty of each record's least certain decision."""
    queues: list[Queue]
    duplicates: Duplicates
    pictures: PictureCheck | None = None
    """None in reports older than 1.1."""
    sampling: SamplingPlan
    gold: GoldReport | None = None
    drift: Drift | None = None
    gate: GateResult
    lists: list[str]
    """Files beside the report, relative to it: one CSV a queue, the sampling plan, and the changed pictures if there are any."""
    notes: list[str]
    """What limits this report (pictures that could not be read, gold that did not match)."""


def load_report(path: Path) -> Report:
    """Read report.json (or the folder that holds it).

    Raises:
        DataError: missing, damaged, or of another major version.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = Report.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist: make it with `tagmoe audit RUN --out {path}`") from error
    except ValidationError as error:
        raise DataError(f"{file} is no audit report: {error.errors()[0]['msg']}") from error
    if report.format_version.split(".")[0] != REPORT_VERSION.split(".")[0]:
        raise DataError(f"{file} has format version {report.format_version}, this tagmoe reads {REPORT_VERSION}")
    return report
