"""Speed of the local annotator against decoding alone, with one and two workers, and its memory."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _machine import spread
from PIL import Image
from tagmoe.annotate.base import Prepared
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.annotate.prepare import prepare_all
from tagmoe.schema import Pair
from tagmoe.schema.corpus import CorpusSpec
from tagmoe.shards.corpus import open_corpus

ROUNDS = 7


def picture_paths(root: Path) -> list[tuple[Path, Path, str]]:
    """Source, target and instruction of every edit pair with both pictures."""
    out: list[tuple[Path, Path, str]] = []
    for name in ("comfy-template-pairs", "magicbrush-sample", "demo-pairs"):
        for line in (root / name / "manifest.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            if record["task"] == "edit" and record["source"] and record["target"]:
                out.append((root / name / record["source"], root / name / record["target"], record["instruction"]))
    return out


def make_corpus(folder: Path, pairs: list[tuple[Path, Path, str]], *, records: int, pictures: bool = True) -> Path:
    """A manifest of `records` rows that repeats the pairs; every row reads its pictures again."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[tuple[str, str]] = []
    for i, (source, target, _) in enumerate(pairs):
        shutil.copy(source, folder / f"{i}.source.jpg")
        shutil.copy(target, folder / f"{i}.target.jpg")
        names.append((f"{i}.source.jpg", f"{i}.target.jpg"))
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as out:
        for row in range(records):
            source, target = names[row % len(names)] if pictures else (None, None)
            text = pairs[row % len(pairs)][2]
            out.write(
                json.dumps({"id": f"r{row}", "task": "edit", "instruction": text, "source": source, "target": target})
                + "\n"
            )
    return folder


def enlarged(pairs: list[tuple[Path, Path, str]], folder: Path) -> list[tuple[Path, Path, str]]:
    """The same pairs at 1024 pixels on the long side."""
    folder.mkdir(parents=True)
    out: list[tuple[Path, Path, str]] = []
    for i, (source, target, text) in enumerate(pairs):
        made = [folder / f"{i}.{role}.jpg" for role in ("source", "target")]
        for path, name in zip((source, target), made, strict=True):
            with Image.open(path) as image:
                scale = 1024 / max(image.size)
                size = (round(image.width * scale), round(image.height * scale))
                image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(name, quality=92)
        out.append((made[0], made[1], text))
    return out


def against_decoding(corpus: Path) -> dict[str, object]:
    """Rounds of decoding alone and of the whole record, interleaved, one core."""
    opened = open_corpus(CorpusSpec(uri=str(corpus)))
    pairs = [item for item in opened.records() if isinstance(item, Pair)]
    annotator = LocalAnnotator()
    gc.freeze()  # as a worker does
    files = sorted(corpus.glob("*.jpg"))
    seconds: dict[str, list[float]] = {"decode": [], "annotate": [], "label_only": []}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for path in files:
            with Image.open(path) as image:
                np.asarray(image.convert("RGB"))
        seconds["decode"].append((time.perf_counter() - started) / len(pairs) * 1e3)
        started = time.perf_counter()
        ready = prepare_all(pairs, opened, max_pixels=None)
        annotator.annotate([item for item in ready if isinstance(item, Prepared)])
        seconds["annotate"].append((time.perf_counter() - started) / len(pairs) * 1e3)
        started = time.perf_counter()
        annotator.annotate([item for item in ready if isinstance(item, Prepared)])
        seconds["label_only"].append((time.perf_counter() - started) / len(pairs) * 1e3)
    ratios = [d / a for d, a in zip(seconds["decode"], seconds["annotate"], strict=True)]
    return {
        "records": len(pairs),
        "ms_a_record": {name: spread(values) for name, values in seconds.items()},
        "rate_against_decoding": spread(ratios),
        "rate_of_best_rounds": round(min(seconds["decode"]) / min(seconds["annotate"]), 3),
    }


def run_command(corpus: Path, out: Path, *, workers: int) -> dict[str, float]:
    """One `tagmoe annotate`; records a second of its own clock and its peak memory."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "tagmoe.cli",
        "annotate",
        str(corpus),
        "--out",
        str(out),
        "--workers",
        str(workers),
        "--json",
    ]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    result = json.loads(done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": float(result["seconds"]),
        "wall": time.perf_counter() - started,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "records": float(result["records"]),
        "peak_memory_mib": float(result["peak_memory_mib"]),
    }


def workers(corpus: Path, work: Path) -> dict[str, object]:
    """The same corpus with one and with two workers, interleaved."""
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(2):
        for count in runs:
            runs[count].append(run_command(corpus, work / "run", workers=count))
    best = {count: min(done, key=lambda run: run["seconds"]) for count, done in runs.items()}
    return {
        "runs": {str(count): done for count, done in runs.items()},
        "speedup_of_two": round(best[1]["seconds"] / best[2]["seconds"], 2),
        "cores_had_by_two": round(best[2]["cpu"] / best[2]["wall"], 2),
        "cpu_of_two_against_one": round(best[2]["cpu"] / best[1]["cpu"], 2),
        "load_average": os.getloadavg()[0],
    }


def memory(pairs: list[tuple[Path, Path, str]], work: Path) -> dict[str, Any]:
    """Peak memory with 10,000 and with 100,000 records without pictures, one worker."""
    peaks = {}
    for records in (10_000, 100_000):
        corpus = make_corpus(work / f"text-{records}", pairs[:1], records=records, pictures=False)
        peaks[records] = run_command(corpus, work / "run", workers=1)["peak_memory_mib"]
    return {
        "peak_memory_mib": {str(n): value for n, value in peaks.items()},
        "growth": round(peaks[100_000] / peaks[10_000], 3),
    }
