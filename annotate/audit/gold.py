"""Verified records: reading them, finding them in a run, and scoring the run against them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...schema import DataError, Taxonomy
from ...schema.configs.audit import AuditConfig
from ...schema.files import write_text
from ...schema.report import Estimate, GoldReport, TagScore
from . import calibration
from .columns import Columns
from .drift import name_differences
from .queues import Ranking
from .sampling import Verified
from .statistics import NOTHING, auroc_interval, bootstrap_counts, f1_interval, f1_of, wilson


class GoldRecord(BaseModel):
    """One verified record, as a line of gold JSONL. It is found by `uid`, or by corpus name and id."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    corpus: str = Field("", alias="set")
    id: str = ""
    uid: str = ""
    tags: tuple[str, ...]
    disputed: tuple[str, ...] = ()
    """Tags on which reviewers differ: neither right nor wrong, left out of every score."""
    mismatch: str | None = None
    """Why the target does not do what the instruction asks, if so."""
    mismatch_disputed: bool = False
    task: str = ""
    instruction: str = ""
    """Kept so that gold can be learned from without its run."""


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold file."""

    source: str
    records: tuple[GoldRecord, ...]

    @classmethod
    def load(cls, path: Path) -> Gold:
        """Read gold JSONL; a later line about the same record replaces an earlier one.

        Raises:
            DataError: unreadable, or a line that is not a gold record; names the line.
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"gold file {path} cannot be read: {error}") from error
        found: dict[tuple[str, str, str], GoldRecord] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                record = _parse(line, place=f"{path} line {number}")
                found[record.uid or "", "" if record.uid else record.corpus, "" if record.uid else record.id] = record
        return cls(path.name, tuple(found.values()))


def _parse(line: str, *, place: str) -> GoldRecord:
    try:
        value = json.loads(line)
        if isinstance(value, dict) and "corpus" in value:
            value["set"] = value.pop("corpus")
        record = GoldRecord.model_validate(value)
    except (json.JSONDecodeError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"msg": str(error), "loc": ()}
        raise DataError(f"{place} is no gold record: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
    if not record.uid and not record.id:
        raise DataError(f"{place} names no record: expected `uid`, or `corpus` and `id`")
    return record


def write_gold(path: Path, records: Iterable[GoldRecord]) -> None:
    """Write gold JSONL atomically."""
    rows = (
        {"corpus": r.corpus, **r.model_dump(exclude={"corpus"}, exclude_defaults=True), "tags": r.tags} for r in records
    )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@dataclass(frozen=True, slots=True)
class Matched:
    """Gold records found in a run."""

    gold: Gold
    index: NDArray[np.int64]
    """[G], positions in `Columns`."""
    truth: NDArray[np.bool_]
    """[G, K]"""
    judged: NDArray[np.bool_]
    """[G, K], False where disputed."""
    mismatch: NDArray[np.bool_]
    """[G]"""
    doubtful: NDArray[np.bool_]
    """[G], reviewers differ about the mismatch."""
    unmatched: int
    notes: tuple[str, ...]

    def verified(self, columns: Columns) -> Verified:
        """The same, per record of the run."""
        seen = np.zeros(len(columns), bool)
        judged = np.zeros(columns.tags.shape, bool)
        right = np.zeros(columns.tags.shape, bool)
        seen[self.index] = True
        judged[self.index] = self.judged
        right[self.index] = (columns.tags[self.index] == self.truth) & self.judged
        return Verified(seen=seen, right=right, judged=judged)

    def differences(self, columns: Columns) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
        """[N] judged tags in which the run differs from gold, NaN without gold; [N] which ones, in words."""
        wrong = (columns.tags[self.index] != self.truth) & self.judged
        scores = np.full(len(columns), np.nan, np.float32)
        scores[self.index] = wrong.sum(axis=1)
        words = np.full(len(columns), "", object)
        for tag in columns.taxonomy.tags:
            name_differences(words, tag.name, self.index[wrong[:, tag.id]], columns.tags[:, tag.id])
        return scores, words


def match_gold(columns: Columns, gold: Gold) -> Matched:
    """Find the gold records in a run: by uid, else by corpus name and id.

    Where that finds none at all (the corpus was renamed, or the run is over shards of it), by an id that is unique in the
    run, and the result says so.

    Raises:
        DataError: none of the gold records is in the run.
        ConfigError: gold names a tag that the run's taxonomy does not have.
    """
    uids = {uid: i for i, uid in enumerate(columns.uid.to_pylist())}
    ids = columns.id.to_pylist()
    named = {(str(corpus), name): i for i, (corpus, name) in enumerate(zip(columns.corpus, ids, strict=True))}
    places = [uids.get(r.uid, named.get((r.corpus, r.id))) for r in gold.records]
    notes: tuple[str, ...] = ()
    if all(place is None for place in places):
        counts = Counter(ids)
        alone = {name: i for i, name in enumerate(ids) if counts[name] == 1}
        places = [alone.get(r.id) for r in gold.records]
        named_there = sorted({r.corpus for r in gold.records if r.corpus})[:3]
        if named_there:
            here = ", ".join(sorted(set(columns.corpus))[:3])
            notes = (f"Gold was matched by id alone: it names corpus {', '.join(named_there)}, the run {here}.",)
    records = [record for record, place in zip(gold.records, places, strict=True) if place is not None]
    found = [place for place in places if place is not None]
    if not found:
        raise DataError(
            f"none of the {len(gold.records)} records of gold file {gold.source} is in this run: expected its corpus "
            f"name ({', '.join(sorted(set(columns.corpus))[:3])}) and ids, or its uids"
        )
    truth = _matrix(columns.taxonomy, [record.tags for record in records])
    disputed = _matrix(columns.taxonomy, [record.disputed for record in records])
    return Matched(
        gold=gold,
        index=np.array(found, np.int64),
        truth=truth,
        judged=~disputed,
        mismatch=np.array([r.mismatch is not None and not r.mismatch_disputed for r in records], bool),
        doubtful=np.array([r.mismatch_disputed for r in records], bool),
        unmatched=len(gold.records) - len(found),
        notes=notes,
    )


def _matrix(taxonomy: Taxonomy, names: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    matrix = np.zeros((len(names), taxonomy.size), bool)
    for row, tags in enumerate(names):
        matrix[row, list(taxonomy.ids(tags))] = True
    return matrix


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
