"""What one worker process does: read, decode, measure and, for an embedded annotator, label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..schema import Annotation, Pair, Reject, Taxonomy, load_taxonomy
from ..schema.configs.annotate import AnnotateConfig
from ..shards.corpus import Corpus, open_corpus
from .base import Annotator, Failure, Labels, Prepared
from .factory import make_annotator
from .outcome import to_outcome
from .prepare import prepare_all

Worked = Annotation | Reject | Prepared
"""What a worker returns for a record; Prepared where the annotator runs in the main process."""


class Worker:
    """The state of one worker process: an open corpus and, if embedded, an annotator."""

    def __init__(
        self, corpus: Corpus, *, annotator: Annotator | None, taxonomy: Taxonomy, max_pixels: int | None
    ) -> None:
        self._corpus = corpus
        self._annotator = annotator
        self._taxonomy = taxonomy
        self._max_pixels = max_pixels

    def __call__(self, pairs: Sequence[Pair]) -> list[Worked]:
        """Results in the order of `pairs`."""
        prepared = prepare_all(pairs, self._corpus, max_pixels=self._max_pixels)
        if self._annotator is None:
            return list(prepared)
        ready = [item for item in prepared if isinstance(item, Prepared)]
        replies: Iterator[Labels | Failure] = iter(self._annotator.annotate(ready))
        provenance = self._annotator.provenance
        return [
            to_outcome(item, next(replies), provenance=provenance, taxonomy=self._taxonomy)
            if isinstance(item, Prepared)
            else item
            for item in prepared
        ]


def make_worker(config: AnnotateConfig, *, max_pixels: int | None, embedded: bool) -> Worker:
    """A Worker made from settings alone, in the process that will use it."""
    return Worker(
        open_corpus(config.corpus),
        annotator=make_annotator(config) if embedded else None,
        taxonomy=load_taxonomy(config.taxonomy),
        max_pixels=max_pixels,
    )
