"""What a reviewer still has to look at: how many records of each tag, and which ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schema.configs.audit import AuditConfig
from ...schema.report import SamplingPlan, SamplingStratum
from .columns import Columns
from .statistics import wilson, z_of

PLAN_FILE = "lists/sampling_plan.csv"


@dataclass(frozen=True, slots=True)
class Verified:
    """What gold already says about a run."""

    seen: NDArray[np.bool_]
    """[N], records that were verified."""
    right: NDArray[np.bool_]
    """[N, K], the tag's presence agrees with gold; meaningful where `seen` and not disputed."""
    judged: NDArray[np.bool_]
    """[N, K], gold has an opinion on this tag of this record."""


def nothing_verified(columns: Columns) -> Verified:
    """Before any review."""
    none = np.zeros(columns.tags.shape, bool)
    return Verified(seen=np.zeros(len(columns), bool), right=none, judged=none)


def plan(columns: Columns, verified: Verified, *, config: AuditConfig) -> tuple[SamplingPlan, NDArray[np.int64]]:
    """The plan, and the record indices to look at next.

    Every record has one permanent random number, made from its uid. A tag's sample is the records with this tag that
    have the smallest numbers: a simple random sample within the tag, the same one tomorrow, that overlaps as much as
    possible with the samples of the other tags, and that stays valid when the corpus grows.
    """
    luck = _permanent_numbers(columns)
    chosen = np.zeros(len(columns), bool)
    strata: list[SamplingStratum] = []
    everyone = np.ones(len(columns), bool)
    everything_right = (verified.right | ~verified.judged).all(axis=1) & verified.seen
    strata.append(_stratum(None, "all records", everyone, verified.seen, everything_right, luck, chosen, config=config))
    for tag in columns.taxonomy.tags:
        judged = verified.judged[:, tag.id]
        strata.append(
            _stratum(
                tag.id,
                tag.name,
                columns.tags[:, tag.id],
                judged,
                verified.right[:, tag.id],
                luck,
                chosen,
                config=config,
            )
        )
    order = np.flatnonzero(chosen)
    order = order[np.argsort(luck[order], kind="stable")]
    report = SamplingPlan(
        half_width=config.half_width,
        confidence_level=config.confidence_level,
        strata=strata,
        distinct=len(order),
        list_file=PLAN_FILE,
    )
    return report, order


def _stratum(
    tag_id: int | None, name: str, members: NDArray[np.bool_], seen: NDArray[np.bool_], right: NDArray[np.bool_],
    luck: NDArray[np.uint64], chosen: NDArray[np.bool_], *, config: AuditConfig,
) -> SamplingStratum:  # fmt: skip
    known = members & seen
    population, done = int(members.sum()), int(known.sum())
    share = least_favourable(int((known & right).sum()), done, level=config.confidence_level)
    needed = sample_size(share, population, half_width=config.half_width, level=config.confidence_level)
    remaining = max(0, needed - done)
    fresh = np.flatnonzero(members & ~seen)
    chosen[fresh[np.argsort(luck[fresh], kind="stable")][:remaining]] = True
    return SamplingStratum(
        id=tag_id,
        name=name,
        population=population,
        verified=done,
        needed=needed,
        remaining=min(remaining, len(fresh)),
        assumed=share,
    )


def sample_size(share: float, population: int, *, half_width: float, level: float) -> int:
    """Records to see so that a proportion near `share` is known to +- `half_width`.

    The normal approximation with the correction for a finite population (Cochran 1977, section 4.4): 385 for a share
    of one half, +-5 points, 95 % and a large population.
    """
    if population == 0:
        return 0
    infinite = z_of(level) ** 2 * share * (1 - share) / half_width**2
    needed = infinite / (1 + (infinite - 1) / population)
    return min(population, int(np.ceil(needed - 1e-9)))


def least_favourable(right: int, seen: int, *, level: float) -> float:
    """The share nearest to one half that is compatible with `right` of `seen`: it asks for the largest sample."""
    estimate = wilson(right, seen, level=level)
    if estimate.low is None or estimate.high is None:
        return 0.5
    return min(max(0.5, estimate.low), estimate.high)


def _permanent_numbers(columns: Columns) -> NDArray[np.uint64]:
    """[N], from the uid, which is a hash already; its middle half, as splits may be chosen by its head."""
    return np.fromiter((int(uid.as_py()[8:24], 16) for uid in columns.uid), np.uint64, len(columns))
