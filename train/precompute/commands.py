"""Commands that prepare data for training: precompute, inverse-pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("precompute")(precompute)
    app.command("inverse-pairs")(inverse_pairs)


def precompute(
    shards: Annotated[Path, typer.Argument(help="Folder made by build-shards.")],
    encoders: Annotated[Path, typer.Option(help="Folder of a Qwen-Image pipeline: vae, text_encoder, tokenizer.")],
    name: Annotated[str, typer.Option(help="Name of the tensors; data.tensors of the trainer.")] = "qwen-image",
    area: Annotated[int, typer.Option(min=256, help="Pixels of a target; data.area of the trainer.")] = 1024 * 1024,
    max_text_tokens: Annotated[int, typer.Option(min=1, help="data.max_text_tokens of the trainer.")] = 1024,
    max_references: Annotated[int, typer.Option(min=0, help="data.max_references of the trainer.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Samples encoded together.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32: of the encoders.")] = "auto",
    partition: Annotated[str, typer.Option(help="I/N: shards I, I + N, ... only; for arrays of jobs.")] = "0/1",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the storage needed and stop.")] = False,
    json: AsJson = False,
) -> None:
    """Store VAE latents and text embeddings beside the shards, so that training runs no encoders.

    What is finished is kept: the same command goes on. The pictures are never rewritten.

    Example: tagmoe precompute SHARDS --encoders QWEN_IMAGE
    """
    from dataclasses import asdict

    from ...shards.console import err, print_json, say
    from ...shards.overlays import check_overlay_name
    from .encoders import Settings, fingerprint, load_encoders
    from .run import plan_job, run_job

    check_overlay_name(name)
    where, kind = _hardware(device, dtype)
    settings = Settings(area, max_text_tokens, max_references)
    loaded = load_encoders(encoders, settings=settings, dtype=kind, device=where)
    job = plan_job(
        shards,
        name=name,
        encoders=loaded,
        fingerprint=fingerprint(encoders, settings=settings),
        batch=batch,
        partition=_partition(partition),
    )
    estimate = job.estimate()
    for line in estimate.lines():
        err.print(line, markup=False) if json else say(line)
    pending = [shard.name for shard in job.pending()]
    if dry_run:
        if json:
            print_json({"estimate": asdict(estimate), "bytes": estimate.total, "pending": [*pending]})
        else:
            say(_work(pending, total=len(job.shards)))
        return
    (err.print if json else say)(_work(pending, total=len(job.shards)))
    info = run_job(job, estimate=estimate)
    if json:
        print_json({"estimate": asdict(estimate), "tensors": None if info is None else info.model_dump(mode="json")})
    elif info is None:
        say("this partition is done; others are not: the last one to finish makes the tensors usable")
    else:
        say(f"{info.samples:,} samples, {info.bytes / 1e9:.3f} GB in {job.folder}; {info.missing} could not be read")
        say(f"train with --set data.encoder=precomputed --set data.tensors={name}")


def inverse_pairs(
    run: Annotated[Path, typer.Argument(help="A finished run of annotate.")],
    out: Annotated[Path, typer.Option(help="Folder of the new run.")],
    json: AsJson = False,
) -> None:
    """Turn additions into removals and removals into additions: a run of reversed pairs for build-shards.

    Source and target change places, the instruction is inverted by rule, the tags follow; pairs whose instruction no
    rule inverts are counted and left out.

    Example: tagmoe inverse-pairs RUN --out RUN-INVERSE
    """
    from dataclasses import asdict

    from ...shards.console import print_json, say
    from .inverse import invert_run

    done = invert_run(run, out=out)
    if json:
        print_json(asdict(done))
        return
    say(f"{done.inverted:,} of {done.pairs:,} pairs inverted in {out}")
    for reason, count in done.left_out.items():
        say(f"  left out, {reason}: {count:,}")
    say(f"next: tagmoe build-shards {out} --out SHARDS")


def _work(pending: list[str], *, total: int) -> str:
    names = ", ".join([*pending[:_NAMED], *(["..."] if len(pending) > _NAMED else [])])
    return f"{len(pending)} of {total} shards to make{': ' * bool(names)}{names}"


_NAMED = 5
"""Shards that are named before the others are only counted."""


def _hardware(device: str, dtype: str):
    import torch

    from ...schema import ConfigError

    kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if device not in ("auto", "cpu", "cuda") or dtype not in ("auto", *kinds):
        raise ConfigError(f"--device {device} --dtype {dtype}: expected auto, cpu, cuda and auto, bfloat16, float32")
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise ConfigError("--device cuda, but torch sees no CUDA device: use --device cpu")
    where = torch.device("cuda" if cuda and device != "cpu" else "cpu")
    return where, kinds["bfloat16" if where.type == "cuda" else "float32"] if dtype == "auto" else kinds[dtype]


def _partition(text: str) -> tuple[int, int]:
    from ...schema import ConfigError

    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--partition {text!r}: expected I/N with 0 <= I < N, such as 0/8")
    return int(index), int(count)
