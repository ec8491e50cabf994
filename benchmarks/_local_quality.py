"""How often the local annotator is right: whole lists held out in turn, and the gold pairs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.annotate.local.authored import authored_examples
from tagmoe.annotate.local.corpora import read_gold, read_lists
from tagmoe.annotate.local.decide import choose
from tagmoe.annotate.local.fit import Recipe, compose, train
from tagmoe.annotate.local.fit_fusion import Judged, fit_fusion, judge
from tagmoe.annotate.local.fusion import Calibration, Heard, join
from tagmoe.annotate.local.model import save

HELD_OUT = ("i2ebench-instructions", "gedit-instructions", "kris-instructions", "editeval-v1")
FOLDS = 5
BINS = 10


@dataclass
class Listed:
    """Counts over one or more labelled lists."""

    typed: int = 0
    type_right: int = 0
    superfluous: int = 0
    scoped: int = 0
    scope_right: int = 0
    by_type: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    by_scope: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def summary(self) -> dict[str, object]:
        """Rates with 95 % intervals; recall by the label's only acceptable tag."""
        return {
            "type_right": rate(self.type_right, self.typed),
            "superfluous_types_per_record": round(self.superfluous / max(1, self.typed), 3),
            "scope_right": rate(self.scope_right, self.scoped),
            "recall_by_type": {name: rate(*pair[::-1]) for name, pair in sorted(self.by_type.items())},
            "recall_by_scope": {name: rate(*pair[::-1]) for name, pair in sorted(self.by_scope.items())},
            "macro_type_recall": _macro(self.by_type),
            "macro_scope_recall": _macro(self.by_scope),
            "confusions": [
                {"wanted": wanted, "got": got, "count": count, "example": self.examples[wanted, got]}
                for (wanted, got), count in self.confusions.most_common(10)
            ],
        }


def rate(right: int, total: int) -> dict[str, float | int]:
    """Share with its 95 % Wilson interval."""
    if not total:
        return {"n": 0, "rate": float("nan"), "low": 0.0, "high": 1.0}
    p, z = right / total, 1.96
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * (p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5 / (1 + z * z / total)
    return {"n": total, "rate": round(p, 3), "low": round(middle - half, 3), "high": round(middle + half, 3)}


def _macro(counts: dict[str, list[int]]) -> float:
    return round(float(np.mean([right / total for total, right in counts.values()])), 3) if counts else float("nan")


def cross_validate(root: Path, work: Path, recipe: Recipe) -> dict[str, object]:
    """Each list of `HELD_OUT` labelled by a model that has seen the composed phrases, the authored records and the other lists."""
    composed, lists = [*compose(recipe), *authored_examples()], read_lists(root)
    pooled, result = Listed(), {}
    for name in HELD_OUT:
        model, _, _ = train([*composed, *(example for example in lists if example.group != name)], recipe)
        path = work / f"without-{name}.npz"
        save(model, path)
        mine = Listed()
        for counts in (mine, pooled):
            score_list(LocalAnnotator(weights=path), root / name, counts)
        result[name] = mine.summary()
    result["pooled"] = pooled.summary()
    return result


def score_list(annotator: LocalAnnotator, folder: Path, counts: Listed) -> None:
    """Add one list's records; labels of low confidence are left out."""
    labels = json.loads((folder / "label_map.json").read_text("utf-8"))
    for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        label = labels.get(record["label"] or "", {})
        if label.get("confidence", "low") == "low":
            continue
        references = len(record["references"] or record.get("reference_ids") or [])
        opinion = annotator.opinion(record["instruction"], task=record["task"], references=references)
        tags, _ = choose(opinion.calibrated, taxonomy=annotator.taxonomy, task=record["task"])
        _count(
            counts,
            label,
            annotator.taxonomy.names(tags, tier="scope")[0],
            annotator.taxonomy.names(tags, tier="type"),
            record,
        )


def _count(
    counts: Listed, label: dict[str, list[str] | None], scope: str, types: Sequence[str], record: dict[str, str]
) -> None:
    wanted_types, wanted_scopes = label.get("type_any"), label.get("scope_any")
    if wanted_types:
        right = bool(set(types) & set(wanted_types))
        counts.typed += 1
        counts.type_right += right
        counts.superfluous += len(set(types) - set(wanted_types))
        if len(wanted_types) == 1:
            counts.by_type[wanted_types[0]][0] += 1
            counts.by_type[wanted_types[0]][1] += right
        if not right:
            _confuse(counts, " or ".join(wanted_types), " + ".join(types) or "no type", record["instruction"])
    if wanted_scopes:
        right = scope in wanted_scopes
        counts.scoped += 1
        counts.scope_right += right
        if len(wanted_scopes) == 1:
            counts.by_scope[wanted_scopes[0]][0] += 1
            counts.by_scope[wanted_scopes[0]][1] += right
        if not right:
            _confuse(counts, " or ".join(wanted_scopes), scope, record["instruction"])


def _confuse(counts: Listed, wanted: str, got: str, text: str) -> None:
    counts.confusions[wanted, got] += 1
    counts.examples.setdefault((wanted, got), text[:100])


def score_gold(root: Path) -> dict[str, object]:
    """The shipped model on gold-pairs: its text and pixel models never saw these sets; calibration is cross-fitted here."""
    annotator = LocalAnnotator()
    model = annotator.model
    gold = read_gold(root)
    judged = judge(model, gold)
    fitted = [fit_fusion(model, [item for i, item in enumerate(judged) if i % FOLDS != fold]) for fold in range(FOLDS)]
    text_only = Calibration(scope_pixels=0, type_pixels=0)
    variants = {
        "text_only_uncalibrated": [text_only] * len(judged),
        "cross_fitted": [fitted[i % FOLDS] for i in range(len(judged))],
    }
    texts = [item.text for item in gold]
    return {name: _gold_figures(annotator, judged, calibrations, texts) for name, calibrations in variants.items()}


def _gold_figures(
    annotator: LocalAnnotator, judged: Sequence[Judged], calibrations: Iterable[Calibration], texts: Sequence[str]
) -> dict[str, object]:
    taxonomy, model = annotator.taxonomy, annotator.model
    hits: list[tuple[float, bool]] = []
    tiers = {tier: np.zeros((len(judged), 3), dtype=int) for tier in ("type", "preservation")}
    scope_right: list[bool] = []
    per_tag: dict[str, Counter[str]] = {tag.name: Counter() for tag in taxonomy.tags}
    confusions: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for row, (item, calibration) in enumerate(zip(judged, calibrations, strict=True)):
        (chances,) = annotator.by_id([item.task], join(Heard.stack([item.heard]), model, calibration))
        ids, _ = choose(chances, taxonomy=taxonomy, task=item.task)
        found = set(taxonomy.names(ids))
        scope = next((name for name in item.tags if taxonomy.by_name[name].tier == "scope"), None)
        if scope is not None:
            scope_right.append(scope in found)
        for tag in taxonomy.tags:
            if tag.name in item.disputed:
                continue
            wanted, got = tag.name in item.tags, tag.name in found
            hits.append((chances[tag.id], wanted))
            outcome = "tp" if wanted and got else "fn" if wanted else "fp" if got else "tn"
            per_tag[tag.name][outcome] += 1
            if tag.tier in tiers and outcome != "tn":
                tiers[tag.tier][row, ("tp", "fp", "fn").index(outcome)] += 1
            if outcome in ("fn", "fp"):
                key = (tag.name, "missed" if outcome == "fn" else "superfluous")
                confusions[key] += 1
                examples.setdefault(key, texts[row][:100])
    return {
        "scope_accuracy": rate(sum(scope_right), len(scope_right)),
        **{f"{tier}_micro_f1": _f1(counts) for tier, counts in tiers.items()},
        "ece": round(expected_calibration_error(hits), 4),
        "per_tag": {name: _tag_row(counts) for name, counts in per_tag.items()},
        "confusions": [
            {"tag": tag, "error": error, "count": count, "example": examples[tag, error]}
            for (tag, error), count in confusions.most_common(10)
        ],
    }


def expected_calibration_error(hits: Sequence[tuple[float, bool]]) -> float:
    """Mean over ten equal bins of |mean probability - share that is true|, weighted by size."""
    chance = np.array([p for p, _ in hits])
    true = np.array([y for _, y in hits], dtype=float)
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)
    return float(
        sum(
            abs(chance[bins == b].mean() - true[bins == b].mean()) * (bins == b).mean()
            for b in range(BINS)
            if (bins == b).any()
        )
    )


def _f1(counts_N3: np.ndarray) -> dict[str, float]:
    """Micro-F1 with a 95 % bootstrap interval over records."""
    rng = np.random.default_rng(0)

    def f1(rows: np.ndarray) -> float:
        tp, fp, fn = counts_N3[rows].sum(axis=0)
        return float(2 * tp / max(1, 2 * tp + fp + fn))

    draws = [f1(rng.integers(0, len(counts_N3), len(counts_N3))) for _ in range(1000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"f1": round(f1(np.arange(len(counts_N3))), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _tag_row(counts: Counter[str]) -> dict[str, object]:
    positives = counts["tp"] + counts["fn"]
    denominator = 2 * counts["tp"] + counts["fp"] + counts["fn"]
    return {
        "positives": positives,
        "precision": rate(counts["tp"], counts["tp"] + counts["fp"]),
        "recall": rate(counts["tp"], positives),
        "f1": round(2 * counts["tp"] / denominator, 3) if denominator else None,
        "too_few_to_say": positives < 5,
    }
