"""Peak memory of `tagmoe annotate` against corpus size."""

from __future__ import annotations

import multiprocessing
import resource
import time
from typing import Any

from _annotate_stub import Stub, annotate_config, make_corpus, workspace
from _machine import machine, save


def bench_memory(sizes: list[int]) -> None:
    """Peak memory of one process that annotates corpora of growing size; each size in its own process."""
    context = multiprocessing.get_context("spawn")
    found = []
    for size in sizes:
        answers = context.Queue()
        process = context.Process(target=_memory_of, args=(size, answers))
        process.start()
        found.append(answers.get(timeout=3600))
        process.join()
    result = {"machine": machine("tagmoe", "openai"), "runs": found}
    rows = [f"| {run['records']:,} | {run['peak_mib']} | {run['seconds']} |" for run in found]
    table = ["| records | peak MiB of the main process | seconds |", "|---|---|---|", *rows]
    note = "Finished records of the part in progress lie on disk; memory holds their places. "
    summary = ["### annotate: memory against corpus size (server, two 64 px JPEGs a record)", "", *table, ""]
    command = "Command: `python benchmarks/annotate.py memory`."
    save("annotate_memory", result, summary="\n".join([*summary, note + command]))


def _memory_of(size: int, answers: Any) -> None:
    from tagmoe.annotate.runner import annotate

    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=size, side=64)
        stub = Stub(0.0)
        started = time.perf_counter()
        annotate(annotate_config(corpus, url=stub.url, concurrency=16), out=folder / "run", quiet=True)
        seconds = round(time.perf_counter() - started, 1)
        stub.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    answers.put({"records": size, "peak_mib": peak, "seconds": seconds})
