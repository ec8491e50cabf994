"""Escalation: a cheap annotator answers every record, a dear one is asked where the cheap one is unsure or fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ...schema.warnings import warning
from ..base import Annotator, Failure, Labels, Prepared, Provenance
from ..prepare import bounded


class EscalatingAnnotator:
    """Asks `first`, then `second` for records whose least certain decision is below a threshold."""

    embedded = False

    def __init__(self, first: Annotator, second: Annotator, *, below: float) -> None:
        """Combine two annotators.

        Args:
            first: the cheap one.
            second: the dear one; closed together with `first`.
            below: records with confidence (see `confidence`) under this go to `second`.
        """
        self._first = first
        self._second = second
        self._below = below
        self.provenance = _combined(first.provenance, second.provenance, below=below)
        self.sees_pixels = first.sees_pixels or second.sees_pixels
        self.max_pixels = max(item.max_pixels for item in (first, second) if item.sees_pixels or not self.sees_pixels)
        self.batch_size = max(first.batch_size, second.batch_size)
        self.parallel_batches = second.parallel_batches

    def annotate(self, batch: Sequence[Prepared]) -> Sequence[Labels | Failure]:
        """Results in the order of `batch`; an escalated one carries the warning `escalated`."""
        results = list(self._first.annotate([_fitted(record, self._first) for record in batch]))
        unsure = [i for i, result in enumerate(results) if confidence(result) < self._below]
        if not unsure:
            return results
        answers = self._second.annotate([_fitted(batch[i], self._second) for i in unsure])
        for i, answer in zip(unsure, answers, strict=True):
            results[i] = _escalated(answer, confidence(results[i]))
        return results

    def close(self) -> None:
        """Close both."""
        try:
            self._first.close()
        finally:
            self._second.close()


def confidence(result: Labels | Failure) -> float:
    """Certainty of the least certain decision, min over tags of max(p, 1 - p); 0 for a failure or without any p."""
    if isinstance(result, Failure):
        return 0.0
    return min((max(p, 1 - p) for p in result.tag_probs if p is not None), default=0.0)


def _escalated(answer: Labels | Failure, before: float) -> Labels | Failure:
    if isinstance(answer, Failure):
        return answer
    return replace(answer, warnings=(*answer.warnings, warning("escalated", before)))


def _fitted(record: Prepared, annotator: Annotator) -> Prepared:
    """`record` with pictures as `annotator` alone would have been given them."""
    if not annotator.sees_pixels:
        return replace(record, pixels=())
    return replace(record, pixels=tuple(bounded(picture, max_pixels=annotator.max_pixels) for picture in record.pixels))


def _combined(first: Provenance, second: Provenance, *, below: float) -> Provenance:
    settings = {"below": below, "first": first.settings, "second": second.settings}
    return Provenance(
        annotator=f"{first.annotator}>{second.annotator}",
        model=">".join(filter(None, (first.model, second.model))),
        model_revision=">".join(filter(None, (first.model_revision, second.model_revision))),
        prompt_version=">".join(filter(None, (first.prompt_version, second.prompt_version))),
        settings=json.dumps(settings, sort_keys=True, separators=(",", ":")),
    )
