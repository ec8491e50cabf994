"""`--require-audit`: shards are built only from a run whose audit passed its gate."""

from __future__ import annotations

from pathlib import Path

from ..schema import ConfigError, FailedGate, Run
from ..schema.report import load_report


def check_audit(report: Path, *, run: Run) -> None:
    """Let a run pass only with a passed report of exactly its annotations.

    Raises:
        FailedGate: the report's gate failed; names each failed check.
        ConfigError: the report is of another run.
        DataError: no report there.
    """
    found = load_report(report)
    run_hash = run.info.run_hash or run.hash_of_parts()
    if found.run_hash != run_hash:
        raise ConfigError(
            f"--require-audit: {report} is of run {found.run_hash[:12]}, {run.root} is {run_hash[:12]}: audit it again"
        )
    if not found.gate.passed:
        failures = "; ".join(found.gate.failures) or "see the report"
        raise FailedGate(f"the audit's gate failed, so no shards are built: {failures}")
