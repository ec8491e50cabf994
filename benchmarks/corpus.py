"""Reading corpora: records against a bare JSON loop, memory against size, decoding and hashing against bare Pillow.

python benchmarks/corpus.py [--pictures ../shared/corpora/comfy-template-pairs] [--rows 1000000]
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from tagmoe.schema import CorpusSpec, Pair
from tagmoe.shards.corpus import Corpus, open_corpus, open_image, phash

sys.path.insert(0, str(Path(__file__).parent))
from _machine import machine, save, spread

ROUNDS = 7
PART = 16_384


def write_manifest(folder: Path, rows: int) -> Path:
    folder.mkdir(parents=True)
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as stream:
        for i in range(rows):
            record = {
                "id": f"rec-{i}", "task": "edit", "instruction": f"make thing number {i} look red and shiny",
                "source": f"images/{i}_s.jpg", "target": f"images/{i}_t.jpg", "references": [], "label": "x",
            }  # fmt: skip
            stream.write(json.dumps(record) + "\n")
    return folder


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def bare_json(path: Path, offset: int, rows: int) -> list[object]:
    """The limit: the same lines through json.loads, nothing checked and nothing built."""
    with path.open("rb") as stream:
        stream.seek(offset)
        stream.readline()
        return [json.loads(stream.readline()) for _ in range(rows)]


def records(folder: Path, rows: int) -> dict[str, object]:
    corpus = open_corpus(CorpusSpec(uri=str(folder)))
    index = seconds(lambda: corpus.rows)
    ids = seconds(lambda: next(iter(corpus.records(0, 1))))
    manifest = folder / "manifest.jsonl"
    ours: list[float] = []
    bare: list[float] = []
    first: list[float] = []
    last: list[float] = []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: list(corpus.records(rows - PART, rows))))
        bare.append(seconds(lambda: bare_json(manifest, manifest.stat().st_size * 9 // 10, PART // 2)) * 2)
        first.append(seconds(lambda: list(corpus.records(0, 100))))
        last.append(seconds(lambda: list(corpus.records(rows - 100, rows))))
    return {
        "rows": rows,
        "index_seconds": index,
        "repeated_ids_seconds": ids,
        "records_per_second": spread([PART / s for s in ours]),
        "bare_json_per_second": spread([PART / s for s in bare]),
        "ours_over_bare_time": min(ours) / min(bare),
        "start_at_first_row_ms": spread([1e3 * s for s in first]),
        "start_at_last_row_ms": spread([1e3 * s for s in last]),
    }


def memory(folder: Path) -> int:
    """Peak resident MiB of a process that reads one part of the corpus, ids checked."""
    code = (
        "import sys; from tagmoe.schema import CorpusSpec; from tagmoe.shards.corpus import open_corpus\n"
        f"c = open_corpus(CorpusSpec(uri=sys.argv[1])); n = sum(1 for _ in c.records(0, {PART}))\n"
        # not getrusage: its peak is inherited from the process that forked this one
        "print(next(int(l.split()[1]) // 1024 for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout)


def bare_decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def pictures(corpus: Corpus) -> dict[str, object]:
    pairs = [item for item in corpus.records() if isinstance(item, Pair)]
    blobs = [corpus.read_image(ref) for pair in pairs for ref in pair.images]
    decoded = [open_image(blob).image for blob in blobs]
    arms: dict[str, Callable[[], object]] = {
        "bare_pillow": lambda: [bare_decode(blob) for blob in blobs],
        "open_image": lambda: [open_image(blob) for blob in blobs],
        "open_image_and_phash": lambda: [phash(open_image(blob).image) for blob in blobs],
        "draft_64_and_phash": lambda: [phash(open_image(blob, draft=64).image) for blob in blobs],
        "phash_alone": lambda: [phash(image) for image in decoded],
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, action in arms.items():
            times[name].append(seconds(action))
    result: dict[str, object] = {"pictures": len(blobs)}
    result |= {f"{name}_per_second": spread([len(blobs) / s for s in runs]) for name, runs in times.items()}
    result["open_image_over_bare_time"] = min(times["open_image"]) / min(times["bare_pillow"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).parents[1]
    shared = root.parent / "shared/corpora/comfy-template-pairs"
    shipped = root / "examples/demo-corpus/comfy-template-pairs"
    parser.add_argument("--pictures", type=Path, default=shared if shared.is_dir() else shipped)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        small = write_manifest(Path(scratch) / "small", PART)
        large = write_manifest(Path(scratch) / "large", options.rows)
        found = records(large, options.rows)
        peaks = {"rows_16384_mib": memory(small), f"rows_{options.rows}_mib": memory(large)}
    growth = (peaks[f"rows_{options.rows}_mib"] - peaks["rows_16384_mib"]) * 2**20 / (options.rows - PART)
    seen = pictures(open_corpus(CorpusSpec(uri=str(options.pictures))))
    result: dict[str, object] = {
        "machine": machine("pillow", "numpy", "pydantic"),
        "records": found,
        "memory": {**peaks, "bytes_a_row": growth},
        "pictures": seen,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    save("corpus", result, summary=_summary(found, peaks, growth, seen))


def _summary(found: dict[str, object], peaks: dict[str, int], growth: float, seen: dict[str, object]) -> str:
    def best(part: dict[str, object], name: str) -> float:
        return part[name]["max"]  # type: ignore[index]

    rows = found["rows"]
    lines = [
        (
            f"records a second, validated, from a manifest of {rows:,} lines",
            f"{best(found, 'records_per_second'):,.0f} ({found['ours_over_bare_time']:.1f} times the time of a bare "
            "`json.loads` loop)",
        ),
        (
            "finding the lines; finding repeated ids (once a run)",
            f"{found['index_seconds']:.1f} s; {found['repeated_ids_seconds']:.1f} s",
        ),
        (
            "100 records from the first row; from the last",
            f"{found['start_at_first_row_ms']['min']:.1f} ms; {found['start_at_last_row_ms']['min']:.1f} ms",
        ),
        (
            f"peak memory of a process at 16,384 rows; at {rows:,}",
            f"{peaks['rows_16384_mib']} MiB; {peaks[f'rows_{rows}_mib']} MiB ({growth:.0f} bytes a row)",
        ),
        (
            f"decoding {seen['pictures']} pictures of up to 512 px, a second",
            f"{best(seen, 'open_image_per_second'):,.0f} (bare Pillow {best(seen, 'bare_pillow_per_second'):,.0f}; "
            f"{seen['open_image_over_bare_time']:.2f} times its time)",
        ),
        (
            "perceptual hash alone; with draft decoding, a second",
            f"{best(seen, 'phash_alone_per_second'):,.0f}; {best(seen, 'draft_64_and_phash_per_second'):,.0f}",
        ),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in lines)
    return f"## Corpora (`benchmarks/corpus.py`)\n\n| what | measured |\n|---|---|\n{table}\n"


if __name__ == "__main__":
    main()
