"""The `tagmoe` command line: each floor brings its commands, this file assembles them and speaks to the user."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from .annotate import commands as annotate_commands
from .annotate.audit import commands as audit_commands
from .annotate.vlm import commands as vlm_commands
from .schema import ConfigError, TagmoeError, Task, load_taxonomy, reply_schema
from .shards import commands as shards_commands
from .shards.console import err, peak_memory_mib, print_json, printable, relative, say
from .train import commands as train_commands

app = typer.Typer(
    help="From raw image-edit corpora to trustworthy task tags, streamable shards and a task-aware mixture of experts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
taxonomy_app = typer.Typer(help="Show and apply the versioned tag taxonomy.", no_args_is_help=True)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["TAGMOE_DEBUG"] = "1"


annotate_commands.register(app)
vlm_commands.register(app)
audit_commands.register(app)
shards_commands.register(app)
train_commands.register(app)
app.add_typer(taxonomy_app, name="taxonomy")

TaxonomyRef = Annotated[str, typer.Option("--taxonomy", help="NAME@VERSION or a TOML file.")]


@taxonomy_app.command()
def show(
    taxonomy: TaxonomyRef = "tagmoe-18@1",
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print the tags with their definitions, and the rules.

    Example: tagmoe taxonomy show
    """
    loaded = load_taxonomy(taxonomy)
    if json_:
        print_json(loaded.model_dump(mode="json"))
        return
    say(f"{loaded.ref}: {len(loaded.tags)} tags, {len(loaded.rules)} rules")
    for tag in loaded.tags:
        say(f"{tag.id:3d}  {tag.tier:<12}  {tag.name}: {tag.definition}")
    for rule in loaded.rules:
        say(f"rule {rule.name} ({rule.severity}): {rule.text}")


@taxonomy_app.command("json-schema")
def json_schema(
    taxonomy: TaxonomyRef = "tagmoe-18@1",
    task: Annotated[str | None, typer.Option(help="edit, generation or customization: restricts the scope.")] = None,
) -> None:
    """Print the JSON schema that constrains a model's reply.

    Example: tagmoe taxonomy json-schema --task edit
    """
    print_json(reply_schema(load_taxonomy(taxonomy), task=_task(task)))


@taxonomy_app.command()
def validate(
    tags: Annotated[list[str], typer.Argument(help="Tag names or ids.")],
    taxonomy: TaxonomyRef = "tagmoe-18@1",
    task: Annotated[str | None, typer.Option(help="edit, generation or customization.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the violations as JSON.")] = False,
) -> None:
    """Check a tag set against the rules; exit 1 names each broken one.

    Example: tagmoe taxonomy validate "local editing" "object editing" "identity preservation"
    """
    loaded = load_taxonomy(taxonomy)
    ids = {int(tag) for tag in tags if tag.isdecimal()} | set(loaded.ids(tag for tag in tags if not tag.isdecimal()))
    violations = loaded.check(ids, task=_task(task))
    if json_:
        print_json([violation.model_dump(mode="json") for violation in violations])
    else:
        for violation in violations:
            say(f"{violation.severity}: {violation.rule}: {violation.message}")
        if not violations:
            say(f"valid: {', '.join(loaded.names(ids))}")
    if any(violation.severity == "error" for violation in violations):
        raise typer.Exit(1)


@taxonomy_app.command()
def migrate(
    run: Annotated[Path, typer.Argument(help="Run folder; it is only read.")],
    to: Annotated[str, typer.Option(help="The new taxonomy: NAME@VERSION or a TOML file.")],
    changes: Annotated[Path, typer.Option(help="TOML with [[changes]]: kind (rename, merge, split, drop), old, new.")],
    out: Annotated[Path | None, typer.Option(help="Write the migrated run here; without it, only show.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show what a taxonomy change does to a run, and with --out do it.

    Ambiguous records become rejects; `tagmoe annotate --retry-rejects ambiguous_migration` asks for exactly those.

    Example: tagmoe taxonomy migrate runs/demo --to mine@2.toml --changes changes.toml
    """
    from .annotate.migrate import migrate as run_migration

    seen = run_migration(run, to=to, changes=changes, out=out)
    if json_:
        print_json({**asdict(seen), "transitions": dict(seen.transitions.most_common())})
        return
    say(f"{seen.unchanged} records keep their tags, {seen.changed} change, {seen.ambiguous} are ambiguous")
    for transition, count in seen.transitions.most_common(10):
        say(f"  {count:6d}  {transition}")
    if out is None:
        say("nothing written: give --out to do it")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-out"),
    steps: Annotated[int | None, typer.Option(help="Training steps; fewer are faster and show less.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Another manifest corpus than the shipped sample.")] = None,
) -> None:
    """Take the sample corpus the whole way: annotate, audit, build-shards, verify, train.

    Every stage is an ordinary command, printed before it runs, with its time and peak memory after.

    Example: tagmoe demo --out demo-out
    """
    pairs = corpus or Path(__file__).parent / "examples" / "demo-corpus"
    if not pairs.exists():
        raise ConfigError(f"{pairs} does not exist: the sample corpus comes with the repository, or give --corpus")
    gold = pairs / "gold.jsonl"
    run, report, shards, trained = (out / name for name in ("run", "report", "shards", "train"))
    stages = [
        ["annotate", str(pairs), "--out", str(run)],
        ["audit", str(run), "--out", str(report), *(["--gold", str(gold)] if gold.is_file() else [])],
        ["build-shards", str(run), "--out", str(shards)],
        ["verify", str(shards)],
        ["train", str(shards), "--out", str(trained), "--preset", "tiny"],
    ]
    if steps is not None:
        stages[-1] += ["--set", f"steps={steps}"]
    measured = [_run_stage(stage) for stage in stages]
    say("\nstage          seconds  peak MiB")
    for stage, (seconds, mebibytes) in zip(stages, measured, strict=True):
        say(f"{stage[0]:<14} {seconds:7.1f}  {mebibytes:8d}")
    say("\nmade")
    for line in _key_numbers(run, report, shards, trained):
        say(f"  {line}")
    say("\nlook at")
    for path, what in (
        (report / "report.html", "tag quality: open it in a browser; keys 1-9 and arrows review records"),
        (shards / "README.md", "dataset card; the tars open with webdataset and datasets"),
        (trained / "routing", "which expert serves which tag, and whether that is more than chance"),
        (trained / "tensorboard", f"losses: tensorboard --logdir {relative(trained / 'tensorboard')}"),
    ):
        say(f"  {relative(path)}  {what}")


def _key_numbers(run: Path, report: Path, shards: Path, trained: Path) -> Iterator[str]:
    """One line a stage, from the files the stages wrote."""

    def read(path: Path) -> Any:
        return json.loads(path.read_text("utf-8"))

    info, audit, manifest = read(run / "run.json"), read(report / "report.json"), read(shards / "manifest.json")
    records = sum(part["annotations"] for part in info["parts"])
    yield f"{records} annotated records, {info['rows'] - records} rejected, by {info['annotator']}"
    if audit["gold"] is not None:
        scope, tags = audit["gold"]["scope_accuracy"], audit["gold"]["micro_f1"]
        yield (
            f"tags against {audit['gold']['records']} gold records (the calibration has seen them): scope accuracy {scope['value']:.2f}, "
            f"micro F1 {tags['value']:.2f} [{tags['low']:.2f}, {tags['high']:.2f}]"
        )
    yield f"{sum(s['samples'] for s in manifest['shards'])} samples in {len(manifest['shards'])} shards, every byte verified"
    [routing, *_] = read(trained / "routing" / "report.json")["splits"].values()
    for number, layer in enumerate(routing["layers"]):
        scope, edits = layer["scope"], layer["scope_of_edits"]
        yield (
            f"MoE layer {number}: normalised mutual information of scope and expert {scope['nmi']:.2f} (tags shuffled "
            f"{scope['nmi_shuffled']:.2f}), among edits alone {edits['nmi']:.2f} ({edits['nmi_shuffled']:.2f})"
        )


def _run_stage(arguments: list[str]) -> tuple[float, int]:
    """Run one command in a process of its own; seconds and peak MiB of it or its largest child."""
    say(f"\n$ tagmoe {shlex.join(arguments)}")
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "tagmoe.cli", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise typer.Exit(process.returncode)
    return time.monotonic() - started, usage.ru_maxrss // 1024


def _task(text: str | None) -> Task | None:
    match text:
        case None | "edit" | "generation" | "customization":
            return text
        case _:
            raise typer.BadParameter(f"{text!r} is not edit, generation or customization")


class _Stopped(BaseException):
    """SIGINT or SIGTERM. No KeyboardInterrupt: typer would end the process on one without a word on how to go on."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


_STAGES = ("annotate", "merge", "audit", "build-shards", "verify", "precompute", "train")
_EXTRA_OF = {
    "torch": "train",
    "diffusers": "train",
    "transformers": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "matplotlib": "train",
    "peft": "lora",
    "sklearn": "fit",
}


def main() -> None:
    """Run the command line. Errors are one line with the way out; `--debug` shows the traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    started = time.monotonic()
    try:
        app()
    except SystemExit as done:
        if done.code in (0, 1, None) and sys.argv[1:2] and sys.argv[1] in _STAGES and "--help" not in sys.argv:
            seconds = time.monotonic() - started
            err.print(f"{sys.argv[1]}: {seconds:.1f} s, peak memory {peak_memory_mib()} MiB", markup=False)
        raise
    except TagmoeError as error:
        if os.environ.get("TAGMOE_DEBUG"):
            raise
        err.print(f"tagmoe: {printable(str(error))}", markup=False, style="red")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in _EXTRA_OF or os.environ.get("TAGMOE_DEBUG"):
            raise
        err.print(
            f"tagmoe: this command needs {name}: pip install 'tagmoe[{_EXTRA_OF[name]}]'", markup=False, style="red"
        )
        sys.exit(2)
    except _Stopped:
        err.print("tagmoe: stopped. Nothing finished is lost: the same command goes on.", markup=False)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
