"""The `tagmoe` command line: each floor brings its commands, this file assembles them and speaks to the user."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from .annotate import commands as annotate_commands
from .annotate.audit import commands as audit_commands
from .schema import TagmoeError, Task, load_taxonomy, reply_schema
from .shards import commands as shards_commands
from .shards.console import err, print_json, printable, say
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-out"),
    steps: Annotated[int | None, typer.Option(help="Training steps; fewer are faster and show less.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Another manifest corpus than the shipped sample.")] = None,
) -> None:
    """Take the sample corpus the whole way: annotate, audit, build-shards, verify, train.

    Example: tagmoe demo --out demo-out
    """
    from .demo import run_demo

    run_demo(out=out, steps=steps, corpus=corpus)


def _task(text: str | None) -> Task | None:
    match text:
        case None | "edit" | "generation" | "customization":
            return text
        case _:
            raise typer.BadParameter(f"{text!r} is not edit, generation or customization")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. Errors are one line with the way out; `--debug` shows the traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except TagmoeError as error:
        if os.environ.get("TAGMOE_DEBUG"):
            raise
        err.print(f"tagmoe: {printable(str(error))}", markup=False, style="red")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("tagmoe: stopped. Nothing finished is lost: the same command goes on.", markup=False)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
