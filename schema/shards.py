"""What a shard set says about itself: the record inside a tar (KEY.json), a shard, a snapshot."""

from __future__ import annotations

import hashlib
import json

from pydantic import Field

from .records import Frozen, Task

SHARD_FORMAT = "1.0"
"""Major version changes break readers; readers ignore unknown fields within one major version."""

MAX_JSON_BYTES = 16 << 20
"""Bytes of one KEY.json; a larger one is a named fault."""


class ShardRecord(Frozen):
    """KEY.json: one fixed set of non-null scalars, so that table readers infer the same types from any sample.

    Lists are comma-joined strings (no tag name, warning or hash holds a comma); `reasons`, `images`, `evidence` and
    `extra` are JSON strings; `tag_ids`, never empty, is the only list.
    """

    format_version: str = SHARD_FORMAT
    uid: str = Field(pattern=r"^[0-9a-f]{32}$")
    id: str
    corpus: str
    row: int
    task: Task
    instruction: str
    split: str
    group: str
    """uid that names the near-duplicate group; the split follows from it."""
    signature: str
    bucket: str
    """Nominal `WIDTHxHEIGHT` of the aspect-ratio bucket."""
    width: int
    """Of the target as stored, pixels."""
    height: int
    scope: str
    types: str
    preservation: str
    tags: str
    tag_ids: list[int] = Field(min_length=1)
    tag_probs: str
    """Comma-joined by tag id, four places, empty where not available."""
    confidence: float
    """Certainty of the least certain decision; -1.0 where not available."""
    calibration: str
    annotator: str
    model: str
    model_revision: str
    prompt_version: str
    taxonomy: str
    warnings: str
    reasons: str
    """JSON list."""
    images: str
    """JSON list: role, place in the corpus, sha256, phash, size and format of every original picture."""
    evidence: str
    extra: str


class ShardInfo(Frozen):
    """One shard of a snapshot."""

    name: str
    """File name without `.tar`."""
    task: Task
    signature: str
    split: str
    samples: int = Field(gt=0)
    bytes: int = Field(gt=0)
    sha256: str
    index_sha256: str
    run_hash: str
    """The annotation run it was built from."""
    tag_counts: dict[str, int] = {}
    """Samples by tag name."""
    licences: dict[str, int] = {}
    """Samples by the corpus's own licence text, `not stated` without one."""


class BuildSettings(Frozen):
    """Settings that a later append must share, because split and bucket of a record follow from them."""

    splits: dict[str, float] = {}
    """Share of each split besides `train`."""
    split_seed: int = 0
    near_bits: int = 3
    buckets: tuple[tuple[int, int], ...]


class BuildSource(Frozen):
    """One run that went into the set."""

    run_hash: str
    annotator: str
    corpus: str
    records: int
    added: int
    rejected: dict[str, int]
    settings: str
    """Hash of the build's settings (filters, re-encoding); the same run with the same settings adds nothing. Empty
    after a repair left out shards of this run: building it again then brings the samples back."""


class Snapshot(Frozen):
    """manifest.json, and one immutable copy of each number in snapshots/."""

    format_version: str = SHARD_FORMAT
    number: int = Field(ge=1)
    content_hash: str
    taxonomy: str
    tags: dict[str, int]
    """Tag ids by name, so that a reader needs no taxonomy file."""
    settings: BuildSettings
    corpora: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    sources: tuple[BuildSource, ...]
    files: dict[str, str] = {}
    """sha256 of immutable files beside the shards (rejects), by path."""

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that hold samples, sorted."""
        return tuple(sorted({shard.split for shard in self.shards}))

    def expected_hash(self) -> str:
        """sha256 over everything that determines what a reader sees."""
        content = {
            "format": self.format_version.split(".")[0],
            "taxonomy": self.taxonomy,
            "tags": self.tags,
            "buckets": [list(bucket) for bucket in self.settings.buckets],
            "corpora": list(self.corpora),
            "shards": [[s.name, s.samples, s.bytes, s.sha256, s.index_sha256] for s in self.shards],
            **({"files": self.files} if self.files else {}),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def sealed(self) -> Snapshot:
        """This snapshot with its content hash set."""
        return self.model_copy(update={"content_hash": self.expected_hash()})
