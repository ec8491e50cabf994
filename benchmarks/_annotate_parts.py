"""What one record costs a processor core, step by step: the figures that docs/scaling.md plans with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from _annotate_stub import make_corpus, workspace
from _machine import machine, save

SIDES = (512, 1024)


def bench_parts(*, records: int, repeats: int) -> None:
    """Milliseconds a record: preparing and encoding its pictures (workers), and the driver's own share."""
    costs: dict[str, list[float]] = {}
    with workspace() as folder:
        for side in SIDES:
            prepared = _pictures(
                make_corpus(folder / f"corpus-{side}", records=records, side=side), repeats, side, costs
            )
        _driver(prepared, folder, repeats, costs)
    found = {what: {"median": statistics.median(times), "min": min(times)} for what, times in costs.items()}
    rows = [f"| {what} | {value['median']:.2f} ({value['min']:.2f}) |" for what, value in found.items()]
    summary = [
        "### annotate: one core's milliseconds a record",
        "",
        "| step | median (minimum) |",
        "|---|---|",
        *rows,
        "",
        f"{records} records, {repeats} rounds, processor time of one process. Command: `python benchmarks/annotate.py parts`.",
    ]
    save("annotate_parts", {"machine": machine("tagmoe", "pillow", "pyarrow"), "ms": found}, summary="\n".join(summary))


def _timed(what: str, records: int, action: Callable[[], Any], costs: dict[str, list[float]]) -> Any:
    started = time.process_time()
    result = action()
    costs.setdefault(what, []).append(1000 * (time.process_time() - started) / records)
    return result


def _pictures(corpus_path: Path, repeats: int, side: int, costs: dict[str, list[float]]) -> list[Any]:
    from tagmoe.annotate.prepare import prepare
    from tagmoe.annotate.vlm.wire import data_url
    from tagmoe.schema import CorpusSpec
    from tagmoe.schema.configs.vlm import Pictures
    from tagmoe.shards.corpus import open_corpus

    corpus = open_corpus(CorpusSpec(uri=str(corpus_path)))
    pairs = list(corpus.records(0, corpus.rows))
    bound = Pictures().max_pixels
    for _ in range(repeats):
        prepared = _timed(
            f"workers: read, hash, decode and measure two {side} px JPEGs",
            len(pairs),
            lambda: [prepare(pair, corpus, max_pixels=bound) for pair in pairs],
            costs,
        )
        _timed(
            f"main process: encode two {side} px pictures for the request",
            len(pairs),
            lambda found=prepared: [data_url(p, encoding="jpeg") for item in found for p in item.pixels],
            costs,
        )
    return prepared


def _driver(prepared: list[Any], folder: Path, repeats: int, costs: dict[str, list[float]]) -> None:
    from tagmoe.annotate.base import Labels, Provenance
    from tagmoe.annotate.ledger import RECORDS, REPLIES, Ledger, content_key
    from tagmoe.annotate.outcome import to_outcome
    from tagmoe.schema import load_taxonomy
    from tagmoe.schema.runs import save_part

    taxonomy, provenance = load_taxonomy(), Provenance(annotator="bench@1")
    probs = tuple(i / 17 for i in range(18))
    reply = Labels(tag_ids=(0, 7, 14), tag_probs=probs, tag_probs_raw=probs, usage=(3000, 67))

    def log_all(replies: Any, records: Any) -> None:
        for item in prepared:
            key = content_key(item.pair, {image.role: image.sha256 for image in item.images}, provenance)
            replies.append(key, reply)
            outcome = to_outcome(item, reply, provenance=provenance, taxonomy=taxonomy)
            records.append(str(outcome.row), outcome)
            for log in (replies, records):
                if log.due:
                    log.commit()
        for log in (replies, records):
            log.commit()

    for repeat in range(repeats):
        place = folder / f"run{repeat}"
        with (
            closing(Ledger(place / "part.log", REPLIES)) as replies,
            closing(Ledger(place / "part.rows.log", RECORDS)) as records,
        ):
            _timed("driver: key, both logs, record", len(prepared), lambda a=replies, b=records: log_all(a, b), costs)
            _timed(
                "driver: write the part from its log",
                len(prepared),
                lambda place=place, log=records: save_part(place, 0, log.values()),
                costs,
            )
        _timed(
            "driver: read a log again after a kill",
            len(prepared),
            lambda path=place / "part.rows.log": Ledger(path, RECORDS).close(),
            costs,
        )
