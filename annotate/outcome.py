"""From an annotator's answer to the record that is written: an Annotation or a Reject, nothing else."""

from __future__ import annotations

from ..schema import Annotation, Pair, Reject, Taxonomy
from ..schema.arrow import clean_text
from .base import Failure, Labels, Prepared, Provenance

Outcome = Annotation | Reject


def to_outcome(prepared: Prepared, reply: Labels | Failure, *, provenance: Provenance, taxonomy: Taxonomy) -> Outcome:
    """The record for `reply`. Labels that break a rule of severity `error` become a Reject that names it."""
    pair = prepared.pair
    if isinstance(reply, Failure):
        return Reject(row=pair.row, id=pair.id, stage="annotate", reason=reply.reason, detail=clean_text(reply.detail))
    broken = [v for v in taxonomy.check(reply.tag_ids, task=pair.task) if v.severity == "error"]
    if broken:
        detail = f"{broken[0].rule}: {broken[0].message}"
        return Reject(row=pair.row, id=pair.id, stage="annotate", reason="rule_violation", detail=detail)
    return Annotation(
        corpus=pair.corpus,
        row=pair.row,
        uid=pair.uid,
        id=clean_text(pair.id),
        task=pair.task,
        instruction=clean_text(pair.instruction),
        scope=taxonomy.names(reply.tag_ids, tier="scope")[0],
        types=taxonomy.names(reply.tag_ids, tier="type"),
        preservation=taxonomy.names(reply.tag_ids, tier="preservation"),
        tag_ids=tuple(sorted(reply.tag_ids)),
        tag_probs=reply.tag_probs,
        tag_probs_raw=reply.tag_probs_raw,
        calibration=reply.calibration,
        annotator=provenance.annotator,
        model=provenance.model,
        model_revision=provenance.model_revision,
        prompt_version=provenance.prompt_version,
        taxonomy=taxonomy.ref,
        evidence=prepared.evidence,
        images=prepared.images,
        warnings=(*prepared.warnings, *(w for w in reply.warnings if w not in prepared.warnings)),
        reasons=reply.reasons,
        extra=pair.extra,
    )


def crashed(pair: Pair, *, times: int) -> Reject:
    """The Reject of a record that killed its worker `times` times."""
    detail = f"the worker process died {times} times on this record"
    return Reject(row=pair.row, id=pair.id, stage="decode", reason="worker_crashed", detail=detail)
