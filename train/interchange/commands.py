"""Commands about checkpoints: export, import, verify-checkpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
FileBytes = Annotated[int, typer.Option(min=1, help="Largest safetensors file; beyond it an index names several.")]
_TEN_GB = 10_000_000_000


class Layout(StrEnum):
    """How experts are stored."""

    native = "native"
    released = "released"


class Dtype(StrEnum):
    """Of the written values."""

    bf16 = "BF16"
    f16 = "F16"
    f32 = "F32"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export")(export)
    app.command("import")(import_)
    app.command("verify-checkpoint")(verify_checkpoint)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `tagmoe train`.")],
    out: Annotated[Path, typer.Option(help="Pipeline folder; `transformer` is written into it.")],
    layout: Annotated[Layout, typer.Option(help="native keeps everything; released is what the published code loads.")],
    step: Annotated[int | None, typer.Option(help="Checkpoint to take; default the newest.")] = None,
    dtype: Annotated[Dtype, typer.Option(case_sensitive=False, help="Of the weights; released is BF16.")] = Dtype.bf16,
    live: Annotated[bool, typer.Option("--live", help="The weights as trained, not their moving average.")] = False,
    probe_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens that compare routing before and after; 0: none.")
    ] = 256,
    max_file_bytes: FileBytes = _TEN_GB,
    json: AsJson = False,
) -> None:
    """Write a run's checkpoint in diffusers format, strictly, and count the routing choices that change.

    Example: tagmoe export RUN --out MODEL --layout native
    """
    from ...shards.console import print_json, say
    from .export import export_run

    done = export_run(
        run,
        out=out,
        layout=layout.value,
        step=step,
        dtype=dtype.value,
        live=live,
        probe_tokens=probe_tokens,
        max_file_bytes=max_file_bytes,
    )
    if json:
        print_json(done.as_json())
        return
    say(f"{done.folder}: step {done.step}, {done.weights} weights, {done.layout} layout, {done.dtype}")
    say(f"{done.parameters:,} parameters in {len(done.files)} files; every key and shape fits the contract")
    if done.flips is not None:
        layers = ", ".join(map(str, done.flips.per_layer))
        say(
            f"top-1 choices that change in {done.dtype}: {done.flips.share:.2%} (of {done.flips.tokens} a layer: {layers})"
        )
    for note in done.notes:
        say(f"note: {note}")


def import_(
    source: Annotated[Path, typer.Argument(help="Published weights, experts only, or an export.")],
    out: Annotated[Path, typer.Option(help="Pipeline folder; `transformer` is written into it.")],
    layout: Annotated[
        Layout, typer.Option(help="native adds inner biases of zero; released keeps the contract.")
    ] = Layout.released,
    base: Annotated[Path | None, typer.Option(help="Dense Qwen-Image that experts-only weights belong on.")] = None,
    max_file_bytes: FileBytes = _TEN_GB,
    json: AsJson = False,
) -> None:
    """Make a folder that `tagmoe train --set model.pretrained=DIR` can start from; values stay bit for bit.

    Example: tagmoe import TAG-MOE --base QWEN_IMAGE --out START
    """
    from ...shards.console import print_json, say
    from .importing import import_checkpoint

    done = import_checkpoint(source, out=out, layout=layout.value, base=base, max_file_bytes=max_file_bytes)
    if json:
        print_json(done)
        return
    say(f"{done['folder']}: {done['parameters']:,} parameters from {done['source']} weights, {layout.value} layout")
    for note in done["notes"]:
        say(f"note: {note}")
    say(f"start a run from it: tagmoe train SHARDS --out RUN --set model.pretrained={out}")


def verify_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Transformer folder, or the pipeline folder around it.")],
    json: AsJson = False,
) -> None:
    """Check every key, shape and dtype against the contract of the configuration; exit 1 names each difference.

    Only headers are read, within bounds; pickles are never opened.

    Example: tagmoe verify-checkpoint MODEL
    """
    from ...shards.console import print_json, say
    from .verify import check, open_checkpoint, report

    checkpoint = open_checkpoint(folder)
    findings = check(checkpoint)
    if json:
        print_json(report(checkpoint, findings))  # pyright: ignore[reportArgumentType]
    else:
        for note in checkpoint.notes:
            say(f"note: {note}")
        for finding in findings:
            say(str(finding))
        count = f"{len(checkpoint.tensors)} tensors, {checkpoint.parameters:,} parameters"
        say(f"{checkpoint.kind} contract, {count}: {f'{len(findings)} findings' if findings else 'sound'}")
    if findings:
        raise typer.Exit(1)
