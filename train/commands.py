"""Commands of the trainer; torch is imported only when one runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Sets = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: KEY=VALUE, e.g. optimizer.lr=1e-4.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
Preset = Annotated[str, typer.Option(help="tiny, tiny-dense, tiny-wide, qwen-image, qwen-image-released, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the trainer's commands."""
    from .interchange.commands import register as register_interchange
    from .planning.commands import register as register_planning
    from .precompute.commands import register as register_precompute

    app.command("train")(train)
    app.command("routing")(routing)
    register_planning(app)
    register_interchange(app)
    register_precompute(app)


def train(
    shards: Annotated[str, typer.Argument(help="Folder or URL made by build-shards.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished run in it goes on.")],
    preset: Preset = "qwen-image",
    config: ConfigFile = None,
    sets: Sets = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps in all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    json: AsJson = False,
) -> None:
    """Train a task-aware mixture of experts on shards; under torchrun on one node or many.

    Example: tagmoe train SHARDS --out RUN --preset tiny --set steps=200
    """
    from ..schema.config import resolved_json
    from ..shards.console import print_json, say

    settings = load_train_config(preset, file=config, sets=sets or [], steps=steps)
    if dry_run:
        typer.echo(resolved_json(settings), nl=False)
        return
    from .loop import train as run_training
    from .report.table import summary_lines

    run_training(settings, out=out, shards=shards)
    if os.environ.get("RANK", "0") != "0":
        return
    document = read_report(out)
    if json:
        print_json(document)
        return
    for line in summary_lines(document):
        say(line)
    say(f"run: {out}   report: {out / 'routing' / 'report.json'}   curves: tensorboard --logdir {out}")


def routing(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `tagmoe train`.")],
    json: AsJson = False,
) -> None:
    """Show a run's routing report: who goes where, and how much of it is more than chance.

    Example: tagmoe routing RUN
    """
    from ..shards.console import print_json, say
    from .report.table import summary_lines, tag_lines

    document = read_report(run)
    if json:
        print_json(document)
        return
    for line in [*summary_lines(document), *tag_lines(document)]:
        say(line)


def load_train_config(preset: str, *, file: Path | None, sets: list[str], steps: int | None = None):
    """The resolved TrainConfig.

    Raises:
        ConfigError: an unknown preset, or what `load_config` raises.
    """
    from ..schema import ConfigError
    from ..schema.config import load_config
    from ..schema.configs.train import PRESETS, TrainConfig

    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    return load_config(TrainConfig, preset=PRESETS[preset], file=file, options={"steps": steps}, sets=sets)


def read_report(run: Path):
    """RUN/routing/report.json.

    Raises:
        DataError: the run has no finished report.
    """
    import json

    from ..schema import DataError

    path = run / "routing" / "report.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): the report is written when `tagmoe train` ends") from error
