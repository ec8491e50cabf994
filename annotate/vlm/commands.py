"""The command `fit-vlm`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...shards.console import print_json, say


def register(app: typer.Typer) -> None:
    """Add this folder's command to the command line."""
    app.command("fit-vlm")(fit_vlm)


def fit_vlm(
    run: Annotated[Path, typer.Argument(help="Run of a vllm or server annotator, with probabilities.")],
    gold: Annotated[Path, typer.Option(help="Verified records (JSONL), such as the audit page exports.")],
    name: Annotated[str, typer.Option(help="Name recorded as `calibration` of later annotations.")] = "gold",
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit the temperatures that make a vision-language model's probabilities honest on verified records.

    Prints the setting for a configuration file; `tagmoe annotate --config FILE` then applies it.

    Example: tagmoe fit-vlm runs/vlm --gold gold.jsonl > calibration.toml
    """
    from .calibrate import fit_calibration

    fit = fit_calibration(run, gold=gold, name=name)
    if json_:
        print_json({**asdict(fit), "temperatures": fit.temperatures.model_dump()})
        return
    say(
        f"# {fit.decisions} decisions on {fit.records} verified records; mean negative log-likelihood "
        f"{fit.loss_before:.4f} before, {fit.loss_after:.4f} after"
    )
    say(fit.toml().rstrip())
