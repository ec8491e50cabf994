"""Settings of `tagmoe audit` and the thresholds of its gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..config import Config


class AuditConfig(Config):
    """How much an audit looks at and shows; the statistics always cover every record."""

    seed: int = Field(default=0, ge=0)
    """Of bootstrap draws, folds and the random sample."""
    confidence_level: float = Field(default=0.95, gt=0.5, lt=1)
    """Of every interval."""
    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    """Bootstrap draws."""
    low_confidence: float = Field(default=0.6, gt=0, lt=1)
    """A record whose least certain decision is below this is flagged."""
    near_duplicate_bits: int = Field(default=3, ge=0, le=8)
    """Perceptual hashes that differ in at most this many of 64 bits are the same picture, as for the splits of shards."""
    queue_length: int = Field(default=500, ge=1, le=100_000)
    """Entries of each queue kept in report.json and in its exported list."""
    cards_per_queue: int = Field(default=36, ge=1, le=500)
    """Records of each queue shown in the page."""
    sample_cards: int = Field(default=48, ge=0, le=500)
    """Records drawn at random for the page, so that it shows the usual beside the suspicious."""
    max_cards: int = Field(default=600, ge=1, le=5000)
    """Records in the page in all."""
    max_pictured: int = Field(default=320, ge=0, le=2000)
    """Of these, records shown with pictures."""
    thumbnail_side: int = Field(default=288, ge=64, le=1024)
    """Pixels of a thumbnail's longer side."""
    check_pictures: Literal["all", "shown"] | Annotated[int, Field(ge=0)] = 1000
    """Pictures to read again and compare with the recorded sha256: every one, only those that the page shows, or those
    and this many drawn at random."""
    second_readings: int = Field(default=20_000, ge=0, le=10_000_000)
    """Records that the embedded annotator reads again; of a larger run the most surprising ones and a random draw."""
    half_width: float = Field(default=0.05, gt=0.001, lt=0.5)
    """Half-width of the interval that the sampling plan aims at."""


class TagGate(Config):
    """Thresholds of one tag; what is not given is not checked."""

    min_precision: float | None = Field(default=None, ge=0, le=1)
    min_recall: float | None = Field(default=None, ge=0, le=1)
    min_f1: float | None = Field(default=None, ge=0, le=1)
    max_ece: float | None = Field(default=None, ge=0, le=1)
    min_alpha: float | None = Field(default=None, ge=-1, le=1)
    """Krippendorff's alpha against the run given by --against."""
    min_share: float | None = Field(default=None, ge=0, le=1)
    """Share of annotated records that carry the tag."""
    max_share: float | None = Field(default=None, ge=0, le=1)
    min_records: int = Field(default=0, ge=0)
    """Gold records with the tag that a figure must rest on; fewer fail the gate."""


class OverallGate(Config):
    """Thresholds of the run as a whole."""

    max_reject_share: float | None = Field(default=None, ge=0, le=1)
    max_rule_errors: int | None = Field(default=0, ge=0)
    """Broken rules of severity `error`."""
    max_leaks: int | None = Field(default=None, ge=0)
    """Groups of near-identical pictures that occur in several splits."""
    max_duplicate_share: float | None = Field(default=None, ge=0, le=1)
    """Records that repeat another one."""
    max_changed_pictures: int | None = Field(default=None, ge=0)
    """Checked pictures that are not the annotated ones or cannot be read any more."""
    max_changed_share: float | None = Field(default=None, ge=0, le=1)
    """The same as a share of all pictures, reckoned from the random draw; with `bound`, the upper end of its interval."""
    max_flagged_share: dict[str, float] = {}
    """Queue name -> largest share of the records it scored that it may flag."""
    min_macro_f1: float | None = Field(default=None, ge=0, le=1)
    min_scope_accuracy: float | None = Field(default=None, ge=0, le=1)
    max_ece: float | None = Field(default=None, ge=0, le=1)
    min_alpha: float | None = Field(default=None, ge=-1, le=1)
    """Mean over the tags that both runs use."""
    min_gold_records: int = Field(default=0, ge=0)


class Gate(Config):
    """gate.toml. Without a file, only the defaults of `overall` are checked."""

    compare: Literal["estimate", "bound"] = "estimate"
    """`bound` holds the pessimistic end of each interval against the threshold."""
    overall: OverallGate = OverallGate()
    tags: dict[str, TagGate] = {}
