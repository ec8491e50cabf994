"""The record types that every stage reads: a raw Pair, its Annotation, or the Reject that says why not."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from .evidence import Evidence, Measure
from .reasons import Reason, Stage

Task = Literal["edit", "generation", "customization"]
Role = str
"""`source`, `target`, or `ref0`, `ref1`, ... in the corpus's order."""

ROLE_PATTERN = r"^(source|target|ref\d{1,2})$"


class Frozen(BaseModel):
    """Immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageRef(Frozen):
    """Where one picture's bytes are, relative to the corpus: a file, a tar member, or a cell of a table."""

    role: Role = Field(pattern=ROLE_PATTERN)
    uri: str
    """File, table or shard, relative to the corpus root; the constant `dataset` for rows of `hf:`."""
    member: str | None = None
    """Name inside the tar `uri`."""
    row: int | None = None
    """Row inside the table `uri`, together with `column`."""
    column: str | None = None
    """Column, with `[i]` behind it for an element of a list and `@L:T:W:H` for a crop."""


class ImageInfo(ImageRef):
    """An ImageRef whose picture was read and decoded once."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    phash: int = Field(ge=0, lt=1 << 64)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    format: str


class Pair(Frozen):
    """One raw record of a corpus.

    `row` (position in the fingerprinted corpus) is the primary key of a run; `uid` follows the record through
    shards to the training step.
    """

    corpus: str
    row: int = Field(ge=0)
    id: str = Field(min_length=1, max_length=1024)
    task: Task
    instruction: str
    images: tuple[ImageRef, ...] = ()
    extra: dict[str, JsonValue] = {}

    @property
    def uid(self) -> str:
        """32 hex digits; see `make_uid`."""
        return make_uid(self.corpus, self.id)

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the images present, in order."""
        return tuple(image.role for image in self.images)

    @property
    def reference_count(self) -> int:
        """How many reference images the record has."""
        return sum(image.role.startswith("ref") for image in self.images)

    @model_validator(mode="after")
    def _roles_are_distinct(self) -> Pair:
        if len(set(self.roles)) != len(self.roles):
            raise ValueError(f"image roles repeat: {self.roles}")
        return self


class Annotation(Frozen):
    """One annotated record: the pair, its tags with probabilities, what was measured, and who said so."""

    corpus: str
    row: int
    uid: str
    id: str
    task: Task
    instruction: str
    scope: str
    types: tuple[str, ...]
    preservation: tuple[str, ...]
    tag_ids: tuple[int, ...]
    """Ascending ids of all tags, scope included."""
    tag_probs: tuple[Measure | None, ...]
    """Calibrated P(tag) by tag id; None where retired or not available."""
    tag_probs_raw: tuple[Measure | None, ...]
    calibration: str
    """Name of the calibration that made `tag_probs` from `tag_probs_raw`, or `none`, or `votes:K`."""
    annotator: str
    """name@version"""
    model: str
    model_revision: str
    prompt_version: str
    taxonomy: str
    evidence: Evidence | None
    """None without both a source and a target picture."""
    images: tuple[ImageInfo, ...]
    warnings: tuple[str, ...]
    """Names of `schema.warnings`, some with a number."""
    reasons: tuple[str, ...] = ()
    """Why a tag was given or left out, one short line each, where the annotator can say."""
    extra: dict[str, JsonValue]

    @property
    def confidence(self) -> float | None:
        """Certainty of the least certain decision: min over tags of max(p, 1 - p); None without probabilities."""
        known = [p for p in self.tag_probs if p is not None]
        return min((max(p, 1 - p) for p in known), default=None)


class Reject(Frozen):
    """A record that failed, as data: where, why (closed set), and the detail for a person."""

    row: int
    id: str
    stage: Stage
    reason: Reason
    detail: str


def make_uid(corpus: str, record_id: str) -> str:
    """First 128 bits, in hex, of sha256 over the length-prefixed (8 bytes, big endian) corpus name and id."""
    digest = hashlib.sha256()
    for text in (corpus, record_id):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:32]
