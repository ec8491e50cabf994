"""What a person or a machine sees: a progress bar on a terminal, plain lines elsewhere, JSON when asked."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_PLAIN_EVERY_SECONDS = 10.0


def say(text: str = "") -> None:
    """Print one plain line to standard output; markup and control characters of data are not interpreted."""
    out.print(printable(text), markup=False)


def printable(text: str) -> str:
    """`text` without terminal control characters: a record's text cannot move the cursor or change colours."""
    return "".join(c if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160) else "\ufffd" for c in text)


def print_json(value: JsonValue) -> None:
    """Print a result for machines: one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@dataclass(slots=True)
class Meter:
    """A running count; `update` moves it on and may change the trailing note."""

    total: int | None
    title: str
    unit: str
    done: int = 0
    note: str = ""
    _bar: Progress | None = None
    _task: TaskID | None = None
    _started: float = field(default_factory=time.monotonic)
    _already: int = 0
    _last: float = field(default_factory=time.monotonic)
    _quiet: bool = False

    def update(self, advance: int = 1, *, note: str | None = None) -> None:
        """Count `advance` more items."""
        self.done += advance
        if note is not None:
            self.note = note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=printable(self.note), rate=self._rate())
        elif not self._quiet and time.monotonic() - self._last >= _PLAIN_EVERY_SECONDS:
            self._last = time.monotonic()
            err.print(self._line(), markup=False)

    def skip(self, count: int) -> None:
        """Count items that an earlier session finished: they do not enter the rate."""
        self._already += count
        self.update(count)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-6)
        return f"{(self.done - self._already) / seconds:,.1f} {self.unit}/s"

    def _line(self) -> str:
        of = f"/{self.total}" if self.total is not None else ""
        return f"{self.title} {self.done}{of} {self._rate()} {printable(self.note)}".rstrip()


@contextmanager
def progress(title: str, *, total: int | None, unit: str = "records", quiet: bool = False) -> Iterator[Meter]:
    """A Meter shown as a bar with rate and ETA on a terminal, as a plain line every 10 s elsewhere."""
    if quiet or not err.is_terminal:
        yield Meter(total=total, title=title, unit=unit, _quiet=quiet)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=err,
    )
    with bar:
        task = bar.add_task(title, total=total, note="", rate="")
        yield Meter(total=total, title=title, unit=unit, _bar=bar, _task=task)


def peak_memory_mib() -> int:
    """Peak resident memory of this process and of its largest finished child, MiB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, child) // 1024


def relative(path: Path) -> str:
    """`path` relative to the working folder where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
