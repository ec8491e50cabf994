"""Write docs/cli.md from the commands' own help; a test fails when the two differ.

python docs/make_cli_reference.py
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parent / "cli.md"


def commands() -> list[list[str]]:
    """Every command and sub-command, as words after `tagmoe`."""
    import typer.main
    from tagmoe.cli import app

    found: list[list[str]] = []

    def walk(command: object, path: list[str]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found.append(path)
            return
        for name in sorted(inner):
            walk(inner[name], [*path, name])

    walk(typer.main.get_command(app), [])
    return found


def help_of(path: list[str]) -> str:
    """The help text as a user sees it on a terminal of 100 columns."""
    from tagmoe.cli import app
    from typer.testing import CliRunner

    environment = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "TERM": "dumb", "NO_COLOR": "1"}
    shown = CliRunner().invoke(app, [*path, "--help"], prog_name="tagmoe", env=environment)
    assert shown.exit_code == 0, shown.output
    return "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())


def render() -> str:
    """The whole reference."""
    parts = ["# Commands\n\nMade by `make docs` from the commands' own help. Exit codes: see decision 0003."]
    for path in [[], *commands()]:
        title = " ".join(["tagmoe", *path])
        parts.append(f"## {title}\n\n```text\n{help_of(path)}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.write_text(render(), "utf-8")
