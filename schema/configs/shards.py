"""Settings of `tagmoe build-shards` and of the stream."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ..config import Config
from ..records import Task

DEFAULT_BUCKETS: tuple[tuple[int, int], ...] = (
    (1024, 1024),
    (1152, 896),
    (1216, 832),
    (1344, 768),
    (1536, 640),
    (896, 1152),
    (832, 1216),
    (768, 1344),
    (640, 1536),
)
"""About one megapixel each; a trainer scales them to its own resolution."""

StoredFormat = Literal["jpg", "png", "webp"]


class BuildConfig(Config):
    """How a run becomes shards."""

    splits: dict[str, float] = {}
    """Share of each split besides `train`, chosen per near-duplicate group."""
    split_seed: int = 0
    """Another seed draws other groups into the splits."""
    near_bits: int = Field(default=3, ge=0, le=6)
    """Pictures whose perceptual hashes differ in at most this many bits count as near-duplicates."""
    filters: tuple[str, ...] = ()
    """Conditions a record must meet, such as `confidence>=0.6`, `-warning:noop_pair`, `tag:local editing`."""
    max_side: int | None = Field(default=None, ge=16)
    """Scale pictures down so that the longer side has at most this many pixels; None passes bytes through."""
    format: StoredFormat | None = None
    """Encode every picture anew in this format; None keeps the format."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of jpg and webp, where pictures are encoded anew."""
    shard_samples: int | None = Field(default=None, ge=1)
    """Samples of one shard; None derives it from `shard_bytes`."""
    shard_bytes: int = Field(default=256 << 20, ge=1 << 10)
    """Size to aim at, estimated by reading a few evenly spaced records of each kind."""
    buckets: tuple[tuple[int, int], ...] = Field(default=DEFAULT_BUCKETS, min_length=1, max_length=4096)
    """Nominal width and height of the aspect-ratio buckets."""

    @field_validator("splits")
    @classmethod
    def _shares_fit(cls, value: dict[str, float]) -> dict[str, float]:
        for name, share in value.items():
            if not name.isalnum() or not name.isascii() or name != name.lower() or name == "train":
                raise ValueError(f"split {name!r}: expected lower-case letters and digits, other than train")
            if not 0 < share < 1:
                raise ValueError(f"split {name}={share}: expected a share between 0 and 1")
        if sum(value.values()) >= 1:
            raise ValueError(f"splits {value} leave nothing for train: their sum must be below 1")
        return value

    @field_validator("buckets")
    @classmethod
    def _sides_are_positive(cls, value: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if any(not 0 < side <= 65535 for bucket in value for side in bucket) or len(set(value)) != len(value):
            raise ValueError(f"buckets {value}: expected distinct WIDTH, HEIGHT pairs of 1 to 65535 pixels")
        return value


class StreamConfig(Config):
    """What a stream reads and in which order; all of it enters the fingerprint that a resume must match."""

    split: str = "train"
    """Physical split to read."""
    snapshot: int | None = Field(default=None, ge=1)
    """Number of the snapshot to read; None is the newest."""
    overlay: str | None = None
    """Name of a tag overlay made by `tagmoe retag`; None reads the tags stored with the pictures."""
    tasks: tuple[Task, ...] = ()
    """Only these task kinds; empty is all."""
    corpora: tuple[str, ...] = ()
    """Only these corpora; empty is all."""
    require_tags: tuple[str, ...] = ()
    """Only samples that carry all of these tags."""
    exclude_tags: tuple[str, ...] = ()
    """No sample that carries any of these tags."""
    batch_size: int = Field(default=8, ge=1)
    """Samples of one batch; every batch is uniform in signature and bucket."""
    ragged: Literal["keep", "drop"] = "keep"
    """Samples that do not fill the last batch of a signature and bucket: a shorter batch, or left out this epoch."""
    shuffle: bool = True
    """False reads in stored order."""
    block_samples: int = Field(default=256, ge=1, le=65536)
    """Neighbouring samples that are shuffled as one block: larger reads more sequentially."""
    window_blocks: int = Field(default=64, ge=1, le=1024)
    """Blocks whose samples are mixed with each other: larger mixes better and touches more shards at once."""
    weights: dict[str, float] = {}
    """Times a sample is drawn per epoch: `corpus:NAME`, `task:NAME`, `tag:NAME`; the largest tag weight counts."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Seed of the order."""

    @model_validator(mode="after")
    def _weights_are_named(self) -> StreamConfig:
        for name, weight in self.weights.items():
            kind, colon, rest = name.partition(":")
            if kind not in ("corpus", "task", "tag") or not colon or not rest:
                raise ValueError(f"weights: {name!r} is not corpus:NAME, task:NAME or tag:NAME")
            if not 0 <= weight <= 1000:
                raise ValueError(f"weights: {name} = {weight} is not between 0 and 1000")
        return self
