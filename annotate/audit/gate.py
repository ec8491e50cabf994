"""The gate: thresholds held against the figures of a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...schema import ConfigError, Taxonomy
from ...schema.config import load_config
from ...schema.configs.audit import Gate, TagGate
from ...schema.report import Estimate, GateCheck, GateResult, Report

_UNKNOWN = Estimate(value=None, low=None, high=None, n=0)
_HINT = "; give --gold or --against so that it can be reckoned"


def load_gate(file: Path | None, *, taxonomy: Taxonomy, queues: list[str]) -> Gate:
    """Read gate.toml; None gives the defaults.

    Raises:
        ConfigError: not a gate, or a threshold for a tag or queue that does not exist.
    """
    gate = load_config(Gate, file=file)
    taxonomy.ids(gate.tags)
    unknown = sorted(set(gate.overall.max_flagged_share) - set(queues))
    if unknown:
        raise ConfigError(f"gate {file} names unknown queues {unknown}: expected some of {', '.join(queues)}")
    return gate


def apply_gate(gate: Gate, report: Report, *, source: str) -> GateResult:
    """Hold every threshold of `gate` against `report`; a figure that is not known fails."""
    checks = [*_overall(gate, report), *_per_tag(gate, report)]
    failures = [check.message for check in checks if not check.passed]
    return GateResult(passed=not failures, source=source, checks=checks, failures=failures)


def _overall(gate: Gate, report: Report) -> Iterator[GateCheck]:
    wanted, pessimistic = gate.overall, gate.compare == "bound"
    coverage, gold, drift = report.coverage, report.gold, report.drift
    if wanted.max_reject_share is not None:
        yield _at_most("reject share", coverage.rejected, coverage.rows, wanted.max_reject_share)
    if wanted.max_rule_errors is not None:
        broken = sum(rule.count for rule in report.violations if rule.severity == "error")
        yield _count("broken rules", broken, wanted.max_rule_errors, coverage.annotated)
    if wanted.max_leaks is not None:
        yield _count("pictures in several splits", report.duplicates.leak_groups, wanted.max_leaks, coverage.annotated)
    if wanted.max_duplicate_share is not None:
        repeated = report.duplicates.repeated_records
        yield _at_most("repeated records", repeated, coverage.annotated, wanted.max_duplicate_share)
    yield from _pictures(gate, report)
    for name, limit in sorted(wanted.max_flagged_share.items()):
        queue = next((queue for queue in report.queues if queue.name == name), None)
        flagged = _plain(queue.flagged / max(queue.scored, 1), queue.scored) if queue else _UNKNOWN
        yield _below(f"flagged {name}", flagged, limit)
    if wanted.min_gold_records:
        yield _at_least("gold records", _counted(gold.records if gold else 0), wanted.min_gold_records)
    figures = [
        ("macro F1", gold.macro_f1 if gold else _UNKNOWN, wanted.min_macro_f1),
        ("scope accuracy", gold.scope_accuracy if gold else _UNKNOWN, wanted.min_scope_accuracy),
        ("mean alpha", _plain(drift.mean_alpha, drift.matched) if drift else _UNKNOWN, wanted.min_alpha),
    ]
    for name, estimate, limit in figures:
        if limit is not None:
            yield _at_least(name, estimate, limit, pessimistic=pessimistic)
    if wanted.max_ece is not None:
        yield _below("ECE", gold.ece if gold else _UNKNOWN, wanted.max_ece, pessimistic=pessimistic)


def _pictures(gate: Gate, report: Report) -> Iterator[GateCheck]:
    """A run whose pictures could not be looked at, or of which none was drawn at random, has no such figure."""
    wanted, found = gate.overall, report.pictures
    hint = "; give --corpus, or --check-pictures with a number or `all`, so that it can be reckoned"
    if wanted.max_changed_pictures is not None:
        checked = found.checked if found else 0
        wrong = _plain(float(found.changed + found.unreadable), checked) if found and checked else _UNKNOWN
        yield _below("changed pictures", wrong, float(wanted.max_changed_pictures), hint=hint, unit="pictures")
    if wanted.max_changed_share is not None:
        share = found.share if found else _UNKNOWN
        pessimistic = gate.compare == "bound"
        yield _below(
            "changed pictures, share",
            share,
            wanted.max_changed_share,
            pessimistic=pessimistic,
            hint=hint,
            unit="pictures",
        )


def _per_tag(gate: Gate, report: Report) -> Iterator[GateCheck]:
    scores = {score.name: score for score in report.gold.tags} if report.gold else {}
    alphas = {score.name: score.alpha for score in report.drift.tags} if report.drift else {}
    shares = {tag.name: _plain(tag.share, report.coverage.annotated) for tag in report.tags}
    pessimistic = gate.compare == "bound"
    for name, wanted in sorted(gate.tags.items()):
        score = scores.get(name)
        figures = {
            "min_precision": score.precision if score else _UNKNOWN,
            "min_recall": score.recall if score else _UNKNOWN,
            "min_f1": score.f1 if score else _UNKNOWN,
            "max_ece": score.ece if score else _UNKNOWN,
            "min_alpha": alphas.get(name, _UNKNOWN),
            "min_share": shares[name],
            "max_share": shares[name],
        }
        if wanted.min_records:
            behind = score.true_positive + score.false_negative if score else 0
            yield _at_least(f"{name}: gold records", _counted(behind), wanted.min_records)
        for field, estimate in figures.items():
            limit = _limit(wanted, field)
            if limit is None:
                continue
            title = f"{name}: {field[4:].replace('_', ' ')}"
            check = _at_least if field.startswith("min") else _below
            yield check(title, estimate, limit, pessimistic=pessimistic)


def _limit(wanted: TagGate, field: str) -> float | None:
    return {
        "min_precision": wanted.min_precision,
        "min_recall": wanted.min_recall,
        "min_f1": wanted.min_f1,
        "max_ece": wanted.max_ece,
        "min_alpha": wanted.min_alpha,
        "min_share": wanted.min_share,
        "max_share": wanted.max_share,
    }[field]


def _plain(value: float | None, n: int) -> Estimate:
    return Estimate(value=value, low=value, high=value, n=n)


def _counted(count: int) -> Estimate:
    return _plain(float(count), count)


def _at_most(name: str, count: int, of: int, limit: float) -> GateCheck:
    return _below(name, _plain(count / of if of else 0.0, of), limit)


def _count(name: str, count: int, limit: int, n: int) -> GateCheck:
    return _below(name, _plain(float(count), n), float(limit))


def _at_least(name: str, estimate: Estimate, limit: float, *, pessimistic: bool = False) -> GateCheck:
    value = estimate.low if pessimistic else estimate.value
    return _check(name, estimate, value, limit, passed=value is not None and value >= limit, word="at least")


def _below(
    name: str, estimate: Estimate, limit: float, *, pessimistic: bool = False, hint: str = _HINT, unit: str = "records"
) -> GateCheck:
    value = estimate.high if pessimistic else estimate.value
    passed = value is not None and value <= limit
    return _check(name, estimate, value, limit, passed=passed, word="at most", hint=hint, unit=unit)


def _check(
    name: str,
    estimate: Estimate,
    value: float | None,
    limit: float,
    *,
    passed: bool,
    word: str,
    hint: str = _HINT,
    unit: str = "records",
) -> GateCheck:
    found = "is not known" if value is None else f"is {value:.4g}"
    message = f"{name} {found} ({estimate.n} {unit}), wanted {word} {limit:.4g}"
    if value is None:
        message += hint
    return GateCheck(name=name, passed=passed, value=value, threshold=limit, n=estimate.n, message=message)
