"""A run against verified records: precision, recall, F1, calibration, and what the queues are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...schema.configs.audit import AuditConfig
from ...schema.report import Estimate, GoldReport, TagScore
from . import calibration
from .columns import Columns
from .queues import Ranking
from .statistics import NOTHING, auroc_interval, bootstrap_counts, f1_interval, f1_of, wilson
from .verified import Matched


def score_gold(columns: Columns, matched: Matched, rankings: Sequence[Ranking], *, config: AuditConfig) -> GoldReport:
    """Every figure of a run against gold, each with its interval."""
    level, draws = config.confidence_level, config.bootstrap
    given, truth, judged = columns.tags[matched.index], matched.truth, matched.judged
    ids = [tag.id for tag in columns.taxonomy.tags]
    probs = columns.probs[matched.index].astype(np.float64)
    known = judged & ~np.isnan(probs)
    known[:, [i for i in range(known.shape[1]) if i not in columns.taxonomy.by_id]] = False
    records = np.repeat(np.arange(len(matched.index)), known.sum(axis=1))
    scope = [tag.id for tag in columns.taxonomy.tier("scope")]
    clear = judged[:, scope].all(axis=1)
    right_scope = (given[:, scope] == truth[:, scope]).all(axis=1) & clear
    whole = ((given == truth) | ~judged)[:, ids].all(axis=1)
    return GoldReport(
        source=matched.gold.source,
        records=len(matched.index),
        unmatched=matched.unmatched,
        mismatches=int(matched.mismatch.sum()),
        tags=[_score_tag(columns, tag.id, given, truth, judged, probs, config=config) for tag in columns.taxonomy.tags],
        scope_accuracy=wilson(int(right_scope.sum()), int(clear.sum()), level=level),
        exact_match=wilson(int(whole.sum()), len(whole), level=level),
        micro_f1=_over_records(given, truth, judged, micro=True, config=config),
        macro_f1=_over_records(given, truth, judged, micro=False, config=config),
        ece=calibration.ece_interval(
            probs[known], truth[known], groups=records, draws=draws, level=level, seed=config.seed
        ),
        brier=calibration.brier(probs[known], truth[known]),
        reliability=calibration.reliability(probs[known], truth[known], level=level),
        queues=_queue_quality(matched, rankings, config=config),
    )


def _score_tag(
    columns: Columns, tag_id: int, given: NDArray[np.bool_], truth: NDArray[np.bool_], judged: NDArray[np.bool_],
    probs: NDArray[np.float64], *, config: AuditConfig,
) -> TagScore:  # fmt: skip
    tag, level = columns.taxonomy.by_id[tag_id], config.confidence_level
    ok = judged[:, tag_id]
    g, t = given[ok, tag_id], truth[ok, tag_id]
    tp, fp, fn, tn = (int(x.sum()) for x in (g & t, g & ~t, ~g & t, ~g & ~t))
    known = ok & ~np.isnan(probs[:, tag_id])
    return TagScore(
        id=tag.id,
        name=tag.name,
        tier=tag.tier,
        true_positive=tp,
        false_positive=fp,
        false_negative=fn,
        true_negative=tn,
        precision=wilson(tp, tp + fp, level=level),
        recall=wilson(tp, tp + fn, level=level),
        f1=f1_interval(tp, fp, fn, level=level),
        ece=calibration.ece_interval(
            probs[known, tag_id], truth[known, tag_id], draws=config.bootstrap, level=level, seed=config.seed
        ),
    )


def _over_records(
    given: NDArray[np.bool_], truth: NDArray[np.bool_], judged: NDArray[np.bool_], *, micro: bool, config: AuditConfig
) -> Estimate:
    """Micro or macro F1 over all tags, with an interval from drawing whole records."""
    if not len(given):
        return NOTHING
    kinds = np.stack([given & truth & judged, given & ~truth & judged, ~given & truth & judged]).astype(np.float64)
    used = kinds.sum(axis=(0, 1)) > 0
    kinds = kinds[:, :, used]

    def figure(weights_BG: NDArray[np.float64]) -> NDArray[np.float64]:
        counts_BKC = np.einsum("bg,cgk->bkc", weights_BG, kinds)
        if micro:
            return f1_of(counts_BKC.sum(axis=1))
        scores = f1_of(counts_BKC)
        return np.nansum(scores, axis=1) / np.maximum((~np.isnan(scores)).sum(axis=1), 1)

    return bootstrap_counts(
        np.ones(len(given), np.int64),
        figure,
        n=len(given),
        draws=config.bootstrap,
        level=config.confidence_level,
        seed=config.seed,
    )


def _queue_quality(matched: Matched, rankings: Sequence[Ranking], *, config: AuditConfig) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for ranking in rankings:
        scores = ranking.scores[matched.index]
        usable = ~np.isnan(scores) & ~matched.doubtful
        if (
            not usable.any() or np.ptp(scores[usable]) == 0
        ):  # nothing is ranked, and 0.5 without an interval would mislead
            continue
        found[ranking.name] = auroc_interval(
            scores[usable], matched.mismatch[usable], draws=config.bootstrap, level=config.confidence_level,
            seed=config.seed,
        )  # fmt: skip
    return {name: estimate for name, estimate in found.items() if estimate.value is not None}
