"""`tagmoe gold`: records out to Label Studio, verified records back."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...schema import ConfigError, DataError, Run, load_taxonomy
from ...schema.files import atomic_file, write_text
from ...schema.report import load_report
from ...shards import console
from ...shards.corpus import ImageRejected, open_corpus
from .columns import Columns
from .details import Detail, read_details
from .gold import write_gold
from .label_studio import dump_tasks, labelling_interface, make_task, read_export
from .pictures import data_uri, thumbnail
from .reading import load_columns

_SIDE = 768


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records to hand out."""

    report: Path | None = None
    queue: str | None = None
    """A queue of the report, or None for its sampling plan; without a report, the run from its first row."""
    limit: int = 200


def export_tasks(
    run_path: Path, out: Path, *, selection: Selection, images: str = "embed", corpus: str | None = None
) -> int:
    """Write `out`/tasks.json and `out`/interface.xml for a Label Studio project; returns the number of tasks.

    Args:
        run_path: the run.
        out: folder.
        selection: which records.
        images: `embed` puts thumbnails into the tasks, `none` leaves them out; anything else is put before each
            picture's path (`https://server/corpus/`, `/data/local-files/?d=corpus/`).
        corpus: the corpus's new place, if it moved.

    Raises:
        ConfigError: unknown queue.
        DataError: the report is of another run.
    """
    run = Run.open(run_path)
    columns = load_columns(run)
    chosen = _choose(run, columns, selection)
    details = read_details(run, chosen)
    tasks = _tasks(run, columns, [details[i] for i in chosen], images=images, corpus=corpus)
    with atomic_file(out / "tasks.json") as stream:
        for piece in dump_tasks(tasks):
            stream.write(piece.encode("utf-8"))
    write_text(out / "interface.xml", labelling_interface(columns.taxonomy))
    return len(chosen)


def _choose(run: Run, columns: Columns, selection: Selection) -> list[int]:
    if selection.report is None:
        if selection.queue is not None:
            raise ConfigError("--queue needs --report: the folder that `tagmoe audit` wrote")
        return list(range(min(selection.limit, len(columns))))
    report = load_report(selection.report)
    if report.run_hash != (run.info.run_hash or run.hash_of_parts()):
        raise DataError(f"{selection.report} is about run {report.run_hash[:12]}, not about {run.root}: audit it again")
    if selection.queue is None:
        folder = selection.report if selection.report.is_dir() else selection.report.parent
        with (folder / report.sampling.list_file).open(encoding="utf-8", newline="") as stream:
            rows = [int(line["row"]) for line in csv.DictReader(stream)]
    else:
        queues = {queue.name: queue for queue in report.queues}
        if selection.queue not in queues:
            raise ConfigError(f"no queue {selection.queue!r} in the report: expected one of {', '.join(queues)}")
        rows = [entry.row for entry in queues[selection.queue].entries]
    return np.searchsorted(columns.row, rows[: selection.limit]).tolist()


def _tasks(
    run: Run, columns: Columns, details: Sequence[Detail], *, images: str, corpus: str | None
) -> Iterator[dict[str, Any]]:
    spec = run.info.corpus if corpus is None else run.info.corpus.model_copy(update={"uri": corpus})
    opened = open_corpus(spec) if images == "embed" and any(d.images for d in details) else None
    for detail in details:
        pictures: dict[str, str] = {}
        for image in detail.images:
            if opened is not None:
                try:
                    picture = thumbnail(opened, image, side=_SIDE, limits=spec.limits)
                except ImageRejected as error:
                    console.err.print(f"row {detail.row} {image['role']} is left out: {error.reason}", markup=False)
                    continue
                pictures[image["role"]] = data_uri(picture)
            elif images != "none":
                pictures[image["role"]] = images + image["uri"]
        names = columns.names(detail.index)
        yield make_task(detail, names, columns.taxonomy, pictures=pictures, model=run.info.annotator)


def import_tasks(export: Path, out: Path, *, taxonomy: str) -> int:
    """Write gold JSONL from a Label Studio export; returns the number of records.

    Raises:
        DataError: not an export, nothing annotated, or choices that are no tags.
    """
    records = list(read_export(export, taxonomy=load_taxonomy(taxonomy)))
    if not records:
        raise DataError(f"{export} holds no finished annotation: label its tasks and export the project again (JSON)")
    write_gold(out, records)
    return len(records)
