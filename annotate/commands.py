"""The commands `annotate`, `merge` and `fit-local`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue

from ..schema import REASONS, ConfigError, RunInfo
from ..shards.console import peak_memory_mib, print_json, relative, say

_WARNINGS_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add this floor's commands to the command line."""
    app.command()(annotate)
    app.command()(merge)
    app.command("fit-local")(fit_local)


def annotate(
    corpus: Annotated[str, typer.Argument(help="Folder, file, fsspec URL, SHARDS or hf:NAME[:split].")],
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it goes on.")],
    annotator: Annotated[str | None, typer.Option(help="local (default, CPU), vllm (in process) or server.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="Column mapping such as source=input_image,instruction=edit; repeatable.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Column mapping of a well-known corpus.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="manifest, parquet, jsonl, csv, webdataset, ...; else told apart.")
    ] = None,
    image_root: Annotated[str | None, typer.Option(help="Where relative picture paths start, if elsewhere.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of records that state none.")] = None,
    name: Annotated[str | None, typer.Option(help="Corpus name; enters every uid.")] = None,
    taxonomy: Annotated[str | None, typer.Option(help="NAME@VERSION or a TOML file.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of the local annotator, from fit-local.")] = None,
    model: Annotated[str | None, typer.Option(help="Vision-language model for vllm or server.")] = None,
    endpoint: Annotated[list[str] | None, typer.Option(help="OpenAI-compatible base URL; repeatable.")] = None,
    votes: Annotated[int | None, typer.Option(help="Replies asked for each record.")] = None,
    swap_test: Annotated[bool | None, typer.Option("--swap-test", help="Catch reversed pairs.")] = None,
    escalate: Annotated[str | None, typer.Option(help="With local: vllm or server for unsure records.")] = None,
    below: Annotated[float | None, typer.Option(help="Confidence under which a record is escalated.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read, decode and measure; 0: one a core.")] = None,
    executor: Annotated[str | None, typer.Option(help="local, or ray for many machines.")] = None,
    limit: Annotated[int | None, typer.Option(help="Annotate only the first rows.")] = None,
    partition: Annotated[str | None, typer.Option(help="i/n: this machine's share; join with `tagmoe merge`.")] = None,
    retry_rejects: Annotated[list[str] | None, typer.Option(help="Reject reason to try again; repeatable.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as vlm.sampling.seed=1.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be asked; ask nothing.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tag every record of a corpus with scope, types and preservation.

    Every record ends in exactly one of RUN/annotations or RUN/rejects. Killed or stopped, the same command goes on.

    Example: tagmoe annotate my-corpus --out runs/my-corpus
    """
    from ..schema.config import load_config
    from ..schema.configs.annotate import AnnotateConfig
    from .runner import annotate as run

    vlm = {"model": model, "server": {"endpoints": endpoint}, "sampling": {"votes": votes, "swap_test": swap_test}}
    spec = {
        "uri": corpus,
        "kind": kind,
        "columns": _mapping(columns),
        "preset": preset,
        "image_root": image_root,
        "task": task,
        "name": name,
    }
    options = {
        "corpus": spec,
        "annotator": annotator,
        "taxonomy": taxonomy,
        "weights": str(weights) if weights else None,
        "escalate": escalate,
        "below": below,
        "workers": workers,
        "executor": executor,
        "limit": limit,
        "vlm": vlm,
    }
    settings = load_config(AnnotateConfig, file=config, options=_given(options), sets=set_ or [])
    unknown = [reason for reason in retry_rejects or [] if reason not in REASONS]
    if unknown:
        raise ConfigError(f"--retry-rejects {unknown[0]}: not a reject reason (known: {', '.join(REASONS)})")
    if dry_run:
        from .dry_run import dry_run as show

        show(settings, json=json_)
        return
    info = run(settings, out=out, partition=parse_partition(partition), retry=retry_rejects or [], quiet=json_)
    _report(info, out, json=json_)


def merge(
    run: Annotated[Path, typer.Argument(help="Run folder that holds partition-*-of-* folders.")],
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Join the partitions of a run after checking that every part is there exactly once.

    Example: tagmoe merge runs/my-corpus
    """
    from .partitions import merge as join

    _report(join(run), run, json=json_)


def fit_local(
    corpora: Annotated[
        Path | None, typer.Argument(help="Folder of labelled corpora (manifest.jsonl + label_map.json each).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the weights go; default: the package's own.")] = None,
    gold: Annotated[
        list[Path] | None, typer.Option(help="Verdicts from review (gold JSONL) to learn from; repeatable.")
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option(help="Run that the gold is about, for its pixel evidence; repeatable.")
    ] = None,
    gold_weight: Annotated[
        float | None, typer.Option(min=0.1, max=100, help="Composed examples a verdict weighs as much as; default 8.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train the local annotator again; the same input gives the same bytes. Needs the extra `fit`.

    Without corpora, pixel model and calibration start from the shipped weights.

    Example: tagmoe fit-local --gold verdicts.jsonl --run runs/my-corpus --out weights.npz

    Then: tagmoe annotate my-corpus --out runs/again --weights weights.npz
    """
    from .local.fit import fit_command

    fit_command(corpora, out=out, gold=gold or [], runs=run or [], weight=gold_weight, json=json_)


def parse_partition(text: str | None) -> tuple[int, int] | None:
    """`i/n` as (i, n). Raises ConfigError unless 0 <= i < n."""
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--partition {text!r}: expected i/n with 0 <= i < n, such as 0/8")
    return int(index), int(count)


def _mapping(columns: list[str] | None) -> dict[str, str] | None:
    if not columns:
        return None
    mapping: dict[str, str] = {}
    for item in ",".join(columns).split(","):
        field, equals, column = item.partition("=")
        if not (field and equals):
            raise ConfigError(f"--columns {item!r}: expected FIELD=COLUMN, such as source=input_image (none: task=)")
        mapping[field.strip()] = column.strip()
    return mapping


def _given(options: Mapping[str, object]) -> dict[str, object]:
    """`options` without what was not given, at every depth."""
    nested = {key: _given(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def _report(info: RunInfo, out: Path, *, json: bool) -> None:
    seconds = info.timings.get("annotate", 0.0)
    tokens = [sum(part.tokens[i] for part in info.parts) for i in (0, 1)]
    result: dict[str, JsonValue] = {
        "run": str(out),
        "run_hash": info.run_hash,
        "annotator": info.annotator,
        "taxonomy": info.taxonomy,
        "records": info.rows,
        "annotated": info.accepted,
        "rejected": info.rejected,
        "rejects_by_reason": dict(info.rejects_by_reason),
        "warnings_by_name": dict(info.warnings_by_name),
        "tokens": {"prompt": tokens[0], "completion": tokens[1]},
        "seconds": seconds,
        "peak_memory_mib": peak_memory_mib(),
    }
    if json:
        print_json(result)
        return
    say(
        f"{info.accepted} annotated, {info.rejected} rejected of {info.accepted + info.rejected} records "
        f"by {info.annotator} in {seconds:.1f} s of work"
    )
    for reason, count in info.rejects_by_reason.items():
        say(f"  rejected {reason}: {count}")
    named = list(info.warnings_by_name.items())
    for warning, count in named[:_WARNINGS_SHOWN]:
        say(f"  warning {warning}: {count}")
    if len(named) > _WARNINGS_SHOWN:
        say(f"  and {len(named) - _WARNINGS_SHOWN} more kinds of warnings in run.json")
    if info.partition is not None:
        say(f"next: when all {info.partition[1]} partitions are done, tagmoe merge {relative(out)}")
    elif info.accepted:
        say(f"next: tagmoe audit {relative(out)} --out REPORT")
    else:
        say(f"nothing was annotated: {relative(out)}/rejects says why for each record")
