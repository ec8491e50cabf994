"""Are the corpus's pictures still the ones that were annotated? Every one, or a random draw and all that are shown."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schema import Run
from ...schema.configs.audit import AuditConfig
from ...schema.report import Estimate, PictureCheck, PictureFault
from ...shards.console import progress
from ...shards.corpus.rejected import ImageRejected
from .columns import Columns
from .lists import write_faults
from .pictures import ReadsImages, read_recorded
from .statistics import NOTHING, wilson

LIST_FILE = "lists/changed_pictures.csv"
CHANGED = "image_changed"
_KEPT = 500
"""Faults that report.json holds; the list holds every one."""
_NAMED = 5

Seen = Mapping[tuple[int, str], str]
"""(row, role) -> "" for a picture that was just read and is the recorded one, else `reason: detail`."""


@dataclass(slots=True)
class _Tally:
    """What is counted while the pictures go by, so that none of them has to be kept."""

    checked: int = 0
    drawn_faults: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    kept: list[PictureFault] = field(default_factory=list)


def check_pictures(
    run: Run, columns: Columns, corpus: ReadsImages | None, *, seen: Seen, config: AuditConfig, out: Path, quiet: bool
) -> PictureCheck:
    """Read pictures again, compare their sha256 with the recorded one, and name each that differs in `out`/LIST_FILE.

    Which: all, or those `seen` (shown in the page) and `config.check_pictures` of the run's pictures drawn at random.
    Memory does not depend on how many: names go to the list as they are found. Time is that of reading the files.
    """
    recorded = len(columns.pictures.record)
    drawn = _draw(recorded, config)
    chosen = drawn | _at(columns, seen)
    empty = PictureCheck(asked=str(config.check_pictures), recorded=recorded)
    if corpus is None or not chosen.any():
        return empty
    tally = _Tally()
    with progress("checking pictures", total=int(chosen.sum()), quiet=quiet) as meter:
        faults = _faults(run, chosen, drawn, corpus, seen, tally, meter.update)
        first = list(itertools.islice(faults, 1))
        if first:
            write_faults(out / LIST_FILE, itertools.chain(first, faults))
    changed = tally.reasons[CHANGED]
    return empty.model_copy(
        update={
            "checked": tally.checked,
            "changed": changed,
            "unreadable": tally.reasons.total() - changed,
            "reasons": dict(sorted(tally.reasons.items())),
            "share": _share(tally.drawn_faults, int(drawn.sum()), recorded, level=config.confidence_level),
            "faults": tally.kept,
            "list_file": LIST_FILE if first else "",
        }
    )


def _draw(recorded: int, config: AuditConfig) -> NDArray[np.bool_]:
    """[M], the pictures to read whatever is shown."""
    if config.check_pictures == "all":
        return np.ones(recorded, bool)
    drawn = np.zeros(recorded, bool)
    if config.check_pictures != "shown":
        count = min(config.check_pictures, recorded)
        drawn[np.random.default_rng(config.seed).choice(recorded, count, replace=False, shuffle=False)] = True
    return drawn


def _at(columns: Columns, seen: Seen) -> NDArray[np.bool_]:
    """[M], all pictures of the records of which some were seen."""
    rows = np.fromiter({row for row, _ in seen}, np.int64)
    return np.isin(columns.row[columns.pictures.record], rows)


def _share(faults: int, drawn: int, recorded: int, *, level: float) -> Estimate:
    """Exact when all were drawn, with Wilson's interval when some were, unknown when none were."""
    if drawn < recorded or not drawn:
        return wilson(faults, drawn, level=level) if drawn else NOTHING
    return Estimate(value=faults / drawn, low=faults / drawn, high=faults / drawn, n=drawn)


def _faults(
    run: Run, chosen: NDArray[np.bool_], drawn: NDArray[np.bool_], corpus: ReadsImages, seen: Seen, tally: _Tally,
    moved: Any,
) -> Iterator[PictureFault]:  # fmt: skip
    def look(place: tuple[int, dict[str, Any]]) -> str:
        row, image = place
        known = seen.get((row, image["role"]))
        if known is not None:
            return known
        try:
            read_recorded(corpus, image)
        except ImageRejected as error:
            return str(error)
        return ""

    # threads, because reading and hashing release the interpreter's lock
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for records, position in _chosen_images(run, chosen):
            places = [(row, image) for row, _, image in records]
            for (row, name, image), said, was_drawn in zip(
                records, pool.map(look, places), drawn[position], strict=True
            ):
                tally.checked += 1
                moved()
                if said:
                    reason, _, detail = said.partition(": ")
                    fault = PictureFault(
                        row=row, id=name, role=image["role"], uri=image["uri"], member=image["member"], reason=reason,
                        detail=detail,
                    )  # fmt: skip
                    tally.reasons[reason] += 1
                    tally.drawn_faults += bool(was_drawn)
                    if len(tally.kept) < _KEPT:
                        tally.kept.append(fault)
                    yield fault


def _chosen_images(
    run: Run, chosen: NDArray[np.bool_]
) -> Iterator[tuple[Sequence[tuple[int, str, dict[str, Any]]], NDArray[np.int64]]]:
    """The chosen pictures of one batch of records after the other, with their positions among all pictures."""
    start = 0
    for batch in run.tables(["row", "id", "images"]):
        images = batch.column("images")
        lengths = np.diff(images.offsets.to_numpy())
        mine = np.flatnonzero(chosen[start : start + int(lengths.sum())])
        record = np.repeat(np.arange(len(lengths)), lengths)[mine]
        rows, names = batch.column("row").take(record).to_pylist(), batch.column("id").take(record).to_pylist()
        pictures = images.flatten().take(mine).to_pylist()
        yield list(zip(rows, names, pictures, strict=True)), mine + start
        start += int(lengths.sum())


def in_words(check: PictureCheck) -> list[str]:
    """Notes about what was found, by reason; none when all is well."""
    found: list[str] = []
    for reason, count in check.reasons.items():
        places = [f"row {fault.row} {fault.role}" for fault in check.faults if fault.reason == reason][:_NAMED]
        more = f" and {count - len(places)} more" if count > len(places) else ""
        found.append(
            f"{count} of the {check.checked} pictures checked: {reason} ({', '.join(places)}{more}); "
            f"each is named in {check.list_file}"
        )
    if found and check.checked < check.recorded:
        found.append(
            f"{check.recorded - check.checked} of {check.recorded} pictures were not checked: --check-pictures all"
        )
    return found
