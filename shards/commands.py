"""The commands `build-shards`, `verify`, `inspect` and `retag`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from pydantic import JsonValue

from ..schema import ConfigError
from .console import peak_memory_mib, print_json, relative, say

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this floor's commands to the command line."""
    app.command("build-shards")(build)
    app.command()(verify)
    app.command("inspect")(inspect)
    app.command()(retag)


def build(
    run: Annotated[Path, typer.Argument(help="Finished run of `tagmoe annotate`.")],
    out: Annotated[Path, typer.Option(help="Shard set to make, or to append to.")],
    split: Annotated[list[str] | None, typer.Option(help="NAME=SHARE such as val=0.02; repeatable.")] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", help="tag:NAME, warning:NAME, task:NAME, confidence>=0.6; - before it negates."),
    ] = None,
    max_side: Annotated[int | None, typer.Option(help="Scale larger pictures down to this many pixels.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="jpg, png or webp: encode other formats anew.")
    ] = None,
    shard_samples: Annotated[int | None, typer.Option(help="Samples of one shard.")] = None,
    shard_bytes: Annotated[int | None, typer.Option(help="Size of a shard to aim at; default 256 MiB.")] = None,
    require_audit: Annotated[Path | None, typer.Option(help="Build only if this report's gate passed.")] = None,
    partition: Annotated[str, typer.Option(help="i/n: write every n-th shard; any order, at once or not.")] = "0/1",
    corpus: Annotated[str | None, typer.Option(help="New place of a corpus that moved.")] = None,
    workers: Annotated[int | None, typer.Option(help="Writing processes; default: one a core.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an unfinished build of something else.")] = False,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as near_bits=0.")] = None,
    json_: Json = False,
) -> None:
    """Write a run's records as WebDataset shards with index, manifest and card, or append new ones.

    Killed or stopped, the same command goes on; the same input gives the same bytes.

    Example: tagmoe build-shards runs/demo --out shards/demo --split val=0.02 --filter -warning:noop_pair
    """
    from ..schema import Run
    from ..schema.config import load_config
    from ..schema.configs.shards import BuildConfig
    from .build import build_shards
    from .gate import check_audit

    options = {
        "splits": dict(_share(text) for text in split) if split else None,
        "filters": filter_,
        "max_side": max_side,
        "format": format_,
        "shard_samples": shard_samples,
        "shard_bytes": shard_bytes,
    }
    settings = load_config(BuildConfig, file=config, options=options, sets=set_ or [])
    share = _partition(partition)
    opened = Run.open(run)
    if require_audit is not None:
        check_audit(require_audit, run=opened)
    result = build_shards(
        opened,
        out,
        config=settings,
        corpus_uri=corpus,
        partition=share,
        workers=workers,
        restart=restart,
        quiet=json_,
    )
    snapshot = result.snapshot
    if json_:
        print_json(
            {
                "out": str(out),
                "snapshot": snapshot.number if snapshot else None,
                "content_hash": snapshot.content_hash if snapshot else None,
                "samples": snapshot.samples if snapshot else None,
                "shards": len(snapshot.shards) if snapshot else None,
                "written": result.written,
                "reused": result.reused,
                "added": result.added,
                "already": result.already,
                "rejected": cast("JsonValue", result.rejected),
                "peak_memory_mib": peak_memory_mib(),
            }
        )
        return
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(result.rejected.items())) or "none"
    if snapshot is None:
        say(f"{result.written} shards written: waiting for the other partitions, the last one adds the snapshot")
        return
    say(f"{relative(out)}: snapshot {snapshot.number}, {snapshot.samples} samples in {len(snapshot.shards)} shards")
    say(f"added {result.added}, already there {result.already}, rejected: {rejected}")
    say(f"next: tagmoe verify {relative(out)}")


def verify(
    shards: Annotated[Path, typer.Argument(help="Shard set.")],
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild what can be rebuilt, quarantine the rest.")] = False,
    workers: Annotated[int | None, typer.Option(help="Shards read at once; default 2.")] = None,
    json_: Json = False,
) -> None:
    """Read every byte of a shard set and name everything that is not as it was written; exit 1 if there is any.

    Example: tagmoe verify shards/demo --repair
    """
    from .repair import repair_set
    from .verify import verify_set

    verdict = verify_set(shards, workers=workers, quiet=json_)
    done = repair_set(shards, verdict) if repair and verdict.findings else []
    left = verify_set(shards, workers=workers, quiet=True).findings if done else verdict.findings
    if json_:
        print_json(
            {
                "ok": not left,
                "snapshot": verdict.snapshot.number if verdict.snapshot else None,
                "samples": verdict.snapshot.samples if verdict.snapshot else None,
                "bytes": verdict.bytes,
                "findings": [finding.model_dump() for finding in verdict.findings],
                "repaired": cast("JsonValue", done),
                "left": [finding.model_dump() for finding in left],
            }
        )
    else:
        for finding in verdict.findings:
            say(str(finding))
        for line in done:
            say(f"repair: {line}")
        if verdict.ok and verdict.snapshot:
            samples, count = verdict.snapshot.samples, len(verdict.snapshot.shards)
            say(f"{relative(shards)}: {samples} samples in {count} shards, every byte as written")
        elif done:
            say(f"{len(left)} findings left after repair")
        else:
            say(f"{len(left)} findings; --repair rebuilds what can be rebuilt and quarantines the rest")
    if left:
        raise typer.Exit(1)


def inspect(
    shards: Annotated[Path, typer.Argument(help="Shard set.")],
    key: Annotated[str | None, typer.Argument(help="uid, or id in the corpus: print this record.")] = None,
    json_: Json = False,
) -> None:
    """Print what a shard set holds, or one record with its place in the tar.

    Example: tagmoe inspect shards/demo
    """
    from .inspect import record, summary

    found = summary(shards) if key is None else record(shards, key)
    if json_:
        print_json(found)
        return
    for name, value in found.items():
        if name == "shards" and isinstance(value, list):
            for row in cast("list[dict[str, JsonValue]]", value):
                size = cast("int", row["bytes"]) / (1 << 20)
                kind = f"{row['task']:<13} {row['signature']:<24} {row['split']:<6}"
                say(f"{kind} {row['shards']:>6} shards {row['samples']:>9} samples {size:>9.1f} MiB")
        elif isinstance(value, dict):
            for inner, count in value.items():
                say(f"{name}.{inner}: {count}")
        elif isinstance(value, list):
            say(f"{name}: {', '.join(map(str, value)) or 'none'}")
        else:
            say(f"{name}: {value}")


def retag(
    shards: Annotated[Path, typer.Argument(help="Shard set; its pictures and tars stay as they are.")],
    run: Annotated[Path, typer.Argument(help="Run with other tags for the same records.")],
    name: Annotated[str, typer.Option(help="Name of the overlay, such as v2.")],
    json_: Json = False,
) -> None:
    """Write other tags for the same pictures as an overlay; the stream and train take it by name.

    Example: tagmoe retag shards/demo runs/vlm --name v2
    """
    from ..schema import Run
    from .retag import retag as write

    result = write(shards, Run.open(run), name=name)
    total = result.snapshot.samples
    if json_:
        print_json({"name": name, "samples": total, "matched": result.matched, "changed": result.changed})
        return
    say(f"overlay {name}: tags for {result.matched} of {total} samples, {result.changed} differ from the stored ones")


def _share(text: str) -> tuple[str, float]:
    name, equals, share = text.partition("=")
    try:
        return name, float(share if equals else "")
    except ValueError as error:
        raise ConfigError(f"--split {text!r}: expected NAME=SHARE such as val=0.02") from error


def _partition(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return int(index), int(count)
    raise ConfigError(f"--partition {text!r}: expected i/n with 0 <= i < n, such as 0/4")
