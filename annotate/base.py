"""The one annotator protocol: a batch of prepared pairs in, as many results out, each its own success or failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from ..schema import Evidence, ImageInfo, Pair
from ..schema.reasons import Reason


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pair whose pictures were read, bounded, decoded and measured."""

    pair: Pair
    images: tuple[ImageInfo, ...] = ()
    pixels: tuple[Image.Image, ...] = ()
    """RGB pictures in the order of `images`, upright, at most the annotator's pixel bound; empty for an annotator
    that does not look (`sees_pixels` False)."""
    evidence: Evidence | None = None
    warnings: tuple[str, ...] = ()
    """Warnings of decoding and measuring."""


@dataclass(frozen=True, slots=True)
class Labels:
    """An annotator's answer for one record."""

    tag_ids: tuple[int, ...]
    """Ascending, scope included; obeys every rule of severity `error`."""
    tag_probs: tuple[float | None, ...]
    """Calibrated P(tag) by tag id."""
    tag_probs_raw: tuple[float | None, ...]
    calibration: str = "none"
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why a tag was given or left out, one short line each."""
    usage: tuple[int, int] = (0, 0)
    """Prompt and completion tokens."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A named failure of one record; it becomes a Reject of stage `annotate`."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who answered; recorded with every annotation and hashed into the ledger's content key."""

    annotator: str
    """name@version"""
    model: str = ""
    model_revision: str = ""
    prompt_version: str = ""
    settings: str = ""
    """Canonical JSON of everything else that determines a reply: sampling, preprocessing, weights' hash."""


class Annotator(Protocol):
    """What the runner drives. Transient faults (dead server) raise `StoppedError`; they never become a Failure."""

    provenance: Provenance
    embedded: bool
    """True: cheap and picklable by its factory, runs inside the worker processes that decode; False: runs in the
    main process, which hands it prepared batches."""
    sees_pixels: bool
    max_pixels: int
    """Bound of each picture in `Prepared.pixels`; larger ones arrive scaled down."""
    batch_size: int
    """Records it likes to be given at once."""
    parallel_batches: int
    """Calls of `annotate` that may run at the same time, in threads; 1 for an engine that batches by itself or is
    embedded."""

    def annotate(self, batch: Sequence[Prepared]) -> Sequence[Labels | Failure]:
        """Results in the order of `batch`, one each."""
        ...

    def close(self) -> None:
        """Release engines, clients and threads."""
        ...
