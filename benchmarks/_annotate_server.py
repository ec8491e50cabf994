"""`tagmoe annotate --annotator server` beside a bare asyncio client of the same endpoint."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _annotate_stub import Stub, annotate_config, bare_request, compared, make_corpus, workspace
from _machine import machine, save


def bare_client(corpus: Path, *, url: str, concurrency: int) -> None:
    """What a careful person writes in an afternoon: asyncio, a semaphore, the openai client; pictures in threads."""
    import openai
    from tagmoe.annotate.vlm.wire import chat_body, data_url
    from tagmoe.schema import load_taxonomy, parse_reply

    taxonomy = load_taxonomy()
    config = annotate_config(corpus, url=url, concurrency=concurrency).vlm

    def body_of(row: int, line: str) -> Any:
        request = bare_request(corpus, row, line, config=config)
        pictures = [data_url(picture, encoding="jpeg") for picture in request.record.pixels]
        return chat_body(request, pictures=pictures, config=config)

    async def run() -> None:
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        seats = asyncio.Semaphore(concurrency)
        ahead = asyncio.Semaphore(2 * concurrency)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(os.cpu_count()) as threads, (corpus / "manifest.jsonl").open() as lines:

            async def one(row: int, line: str) -> None:
                try:
                    body = await loop.run_in_executor(threads, body_of, row, line)
                    async with seats:
                        completion = await client.chat.completions.create(**body)
                    parse_reply(taxonomy, completion.choices[0].message.content or "")
                finally:
                    ahead.release()

            async with asyncio.TaskGroup() as tasks:
                for row, line in enumerate(lines):
                    await ahead.acquire()
                    tasks.create_task(one(row, line))
        await client.close()

    asyncio.run(run())


def bench_server(*, records: int, side: int, concurrency: int, latency: float, repeats: int) -> None:
    from tagmoe.annotate.runner import annotate

    rates: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    walls: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=records, side=side)
        stub = Stub(latency)
        for repeat in range(repeats):
            for arm in ("bare", "tagmoe") if repeat % 2 == 0 else ("tagmoe", "bare"):
                started = time.perf_counter()
                if arm == "bare":
                    bare_client(corpus, url=stub.url, concurrency=concurrency)
                else:
                    config = annotate_config(corpus, url=stub.url, concurrency=concurrency)
                    annotate(config, out=folder / f"run{repeat}", quiet=True)
                walls[arm].append(time.perf_counter() - started)
                times = stub.answered()[-records:]  # the control request comes first
                rates[arm].append(len(times) / (max(answer for _, answer in times) - times[0][0]))
        stub.stop()
    limit = concurrency / latency
    result = {
        "machine": machine("tagmoe", "openai", "pillow"),
        "records": records,
        "side": side,
        "concurrency": concurrency,
        "latency_seconds": latency,
        "limit_records_per_second": limit,
        **compared(rates, walls),
    }
    save("annotate_server", result, summary=_server_summary(result))


def _server_summary(result: dict[str, Any]) -> str:
    rate, wall = result["records_per_second"], result["wall_seconds"]
    rows = [
        f"| {name} | {rate[arm]['median']:.1f} ({rate[arm]['min']:.1f} to {rate[arm]['max']:.1f}) | {wall[arm]['median']:.1f} |"
        for arm, name in (("bare", "bare asyncio client"), ("tagmoe", "`tagmoe annotate --annotator server`"))
    ]
    return "\n".join(
        [
            f"### annotate: server, {result['records']} records of two {result['side']} px JPEGs, concurrency "
            f"{result['concurrency']}, {result['latency_seconds']} s an answer",
            "",
            "| arm | records/s, median (range) | wall s |",
            "|---|---|---|",
            *rows,
            f"| the stub's limit | {result['limit_records_per_second']:.1f} | |",
            "",
            f"Ratio {result['ratio_of_medians']} (load average {result['load_average']:.1f}). "
            "Command: `python benchmarks/annotate.py server`. The bare client neither "
            "hashes nor measures pictures, checks rules, retries nor keeps a ledger.",
        ]
    )
