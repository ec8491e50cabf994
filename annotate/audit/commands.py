"""`tagmoe audit` and `tagmoe gold`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def audit(
    run: Annotated[Path, typer.Argument(help="Run folder made by `tagmoe annotate`.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html and lists/.")],
    gold: Annotated[Path | None, typer.Option(help="Verified records (JSONL): precision, recall, calibration.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another run over the same records: agreement and drift.")
    ] = None,
    gate: Annotated[Path | None, typer.Option(help="Thresholds (TOML); exit 1 names each that is not met.")] = None,
    corpus: Annotated[str | None, typer.Option(help="The corpus's new place, if it moved.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings (TOML).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, KEY=VALUE.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Report how far a run's tags can be trusted, and which records to look at first.

    Example: tagmoe audit runs/demo --out reports/demo --gold gold.jsonl --gate gate.toml
    """
    from ...schema.config import load_config
    from ...schema.configs.audit import AuditConfig
    from ...shards import console
    from .build import Inputs
    from .build import audit as make_report

    settings = load_config(AuditConfig, file=config, sets=set_ or ())
    inputs = Inputs(run=run, gold=gold, against=against, gate=gate, corpus=corpus)
    report = make_report(inputs, out, config=settings, quiet=json_)
    if json_:
        from .summary import as_json

        console.print_json(as_json(report, out))
    else:
        from .summary import as_lines

        for line in as_lines(report, out):
            console.say(line)
    if not report.gate.passed:
        raise typer.Exit(1)


gold_app = typer.Typer(no_args_is_help=True, help="Exchange verified records with Label Studio.")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(audit)
    app.add_typer(gold_app, name="gold")
