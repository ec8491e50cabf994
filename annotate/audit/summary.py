"""What the audit prints: a few lines for a person, the same as JSON for a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from ...schema.report import Estimate, Report


def as_lines(report: Report, out: Path) -> Iterator[str]:
    """The summary, one line a fact."""
    c = report.coverage
    yield f"{c.annotated} of {c.rows} records annotated by {report.annotator}, {c.rejected} rejected"
    broken = [rule for rule in report.violations if rule.count]
    for rule in broken:
        yield f"  rule {rule.rule} ({rule.severity}): {rule.count} records"
    for queue in report.queues:
        if queue.flagged:
            first = queue.entries[0].row
            yield f"  {queue.title.lower()}: {queue.flagged} of {queue.scored} flagged, first row {first}"
    if report.gold:
        g = report.gold
        yield (
            f"  against {g.records} gold records: scope accuracy {_words(g.scope_accuracy)}, "
            f"macro F1 {_words(g.macro_f1)}, calibration error {_words(g.ece)}"
        )
    if report.drift:
        d = report.drift
        alpha = "unknown" if d.mean_alpha is None else f"{d.mean_alpha:.3f}"
        yield f"  against {d.source}: {d.changed} of {d.matched} tag sets differ, mean alpha {alpha}"
    if report.pictures:
        p = report.pictures
        yield f"  {p.checked} of {p.recorded} pictures checked: {p.changed} changed, {p.unreadable} unreadable"
    yield from (f"  note: {note}" for note in report.notes)
    plan = report.sampling
    yield f"  to review for +-{plan.half_width:.0%} per tag: {_count(plan.distinct, 'record')}, listed in {plan.list_file}"
    wanted = [f"{s.name} {s.remaining}" for s in plan.strata if s.id is not None and s.remaining]
    if wanted:
        yield f"    of each tag: {', '.join(wanted)}"
    yield f"gate ({report.gate.source}): {'passed' if report.gate.passed else 'FAILED'}"
    yield from (f"  {failure}" for failure in report.gate.failures)
    yield f"report: {out / 'report.html'}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return "unknown"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def as_json(report: Report, out: Path) -> JsonValue:
    """The summary for machines; report.json holds everything."""
    gold, pictures = report.gold, report.pictures
    return {
        "report": str(out / "report.json"),
        "page": str(out / "report.html"),
        "run_hash": report.run_hash,
        "rows": report.coverage.rows,
        "annotated": report.coverage.annotated,
        "rejected": report.coverage.rejected,
        "rule_errors": sum(rule.count for rule in report.violations if rule.severity == "error"),
        "flagged": {queue.name: queue.flagged for queue in report.queues},
        "pictures": pictures.model_dump(include={"recorded", "checked", "changed", "unreadable"}) if pictures else None,
        "scope_accuracy": gold.scope_accuracy.value if gold else None,
        "macro_f1": gold.macro_f1.value if gold else None,
        "mean_alpha": report.drift.mean_alpha if report.drift else None,
        "review": report.sampling.distinct,
        "review_per_tag": {s.name: s.remaining for s in report.sampling.strata if s.id is not None},
        "gate": {"passed": report.gate.passed, "failures": list(report.gate.failures)},
    }
