"""`tagmoe audit` and `tagmoe gold`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...schema import DEFAULT_TAXONOMY


def audit(
    run: Annotated[Path, typer.Argument(help="Run folder made by `tagmoe annotate`.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html and lists/.")],
    gold: Annotated[Path | None, typer.Option(help="Verified records (JSONL): precision, recall, calibration.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another run over the same records: agreement and drift.")
    ] = None,
    gate: Annotated[Path | None, typer.Option(help="Thresholds (TOML); exit 1 names each that is not met.")] = None,
    corpus: Annotated[str | None, typer.Option(help="The corpus's new place, if it moved.")] = None,
    check_pictures: Annotated[
        str | None,
        typer.Option(help="Compare pictures with the recorded sha256: `all`, `shown`, or how many at random [1000]."),
    ] = None,
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

    settings = load_config(
        AuditConfig, file=config, sets=set_ or (), options={"check_pictures": _pictures_asked(check_pictures)}
    )
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


def _pictures_asked(text: str | None) -> int | str | None:
    from ...schema import ConfigError

    if text is None or text in ("all", "shown"):
        return text
    if not text.isdecimal():
        raise ConfigError(f"--check-pictures {text!r}: expected `all`, `shown`, or how many to draw at random")
    return int(text)


gold_app = typer.Typer(no_args_is_help=True, help="Exchange verified records with Label Studio.")


@gold_app.command("export")
def gold_export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Folder for tasks.json and interface.xml.")],
    report: Annotated[Path | None, typer.Option(help="Audit report: its sampling plan is handed out.")] = None,
    queue: Annotated[str | None, typer.Option(help="Hand out this queue of the report instead.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most records.")] = 200,
    images: Annotated[str, typer.Option(help="`embed`, `none`, or what to put before each picture's path.")] = "embed",
    corpus: Annotated[str | None, typer.Option(help="The corpus's new place, if it moved.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write Label Studio tasks with the run's tags as predictions.

    Example: tagmoe gold export runs/demo --report reports/demo --queue noop --out label-studio/
    """
    from ...shards import console
    from .exchange import Selection, export_tasks

    selection = Selection(report=report, queue=queue, limit=limit)
    count = export_tasks(run, out, selection=selection, images=images, corpus=corpus)
    if json_:
        console.print_json({"tasks": count, "file": str(out / "tasks.json"), "interface": str(out / "interface.xml")})
    else:
        console.say(f"{count} tasks in {out / 'tasks.json'}; set the project up with {out / 'interface.xml'}")


@gold_app.command("import")
def gold_import(
    export: Annotated[Path, typer.Argument(help="JSON export of a Label Studio project.")],
    out: Annotated[Path, typer.Option(help="Gold JSONL to write.")],
    taxonomy: Annotated[str, typer.Option(help="Taxonomy of the tags.")] = DEFAULT_TAXONOMY,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a Label Studio export into gold; tags on which annotators differ become disputed.

    Example: tagmoe gold import export.json --out gold.jsonl
    """
    from ...shards import console
    from .exchange import import_tasks

    count = import_tasks(export, out, taxonomy=taxonomy)
    if json_:
        console.print_json({"records": count, "file": str(out)})
    else:
        console.say(f"{count} gold records in {out}: tagmoe audit RUN --gold {out} --out REPORT")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(audit)
    app.add_typer(gold_app, name="gold")
