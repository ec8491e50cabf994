"""The audit: planted faults found, and 100,000 records audited: time, memory, and the page's size.

python -m benchmarks.audit [--corpora ../shared/corpora] [--records 100000]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tagmoe.schema import CorpusSpec, Evidence, RunInfo, load_taxonomy, make_uid
from tagmoe.schema.arrow import ANNOTATIONS, REJECTS, write_part
from tagmoe.schema.runs import PART_ROWS, PartInfo, hash_part, part_name, save_run_info

sys.path.insert(0, str(Path(__file__).parent))
from _audit_faults import measure as measure_faults
from _machine import machine, save

TAXONOMY = load_taxonomy()
SETS = (
    ("local editing", "object editing", "background preservation", "identity preservation", "style preservation"),
    ("local editing", "attribute editing", "background preservation", "identity preservation", "style preservation"),
    ("global editing", "style transfer", "structure preservation", "identity preservation"),
    ("global editing", "background editing", "identity preservation", "style preservation"),
    ("global editing", "illumination editing", "structure preservation", "identity preservation", "style preservation"),
    ("viewpoint editing", "identity preservation", "style preservation"),
)
VERBS = ("add a {} to the table", "make the {} red", "turn the photo of a {} into a painting",
         "put the {} on a beach", "light the {} from the left", "show the {} from behind")  # fmt: skip


def write_large_run(root: Path, records: int, *, seed: int = 0) -> None:
    """A run with distinct instructions, probabilities, evidence and pictures, written column by column."""
    rng = np.random.default_rng(seed)
    parts: list[PartInfo] = []
    for part, start in enumerate(range(0, records, PART_ROWS)):
        rows = np.arange(start, min(start + PART_ROWS, records))
        path = root / "annotations" / part_name(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_table(rows, rng), path, compression="zstd", row_group_size=4096)
        write_part(root / "rejects" / part_name(part), [], schema=REJECTS)
        parts.append(PartInfo(part=part, annotations=len(rows), rejects=0, sha256=hash_part(root, part)))
    info = RunInfo(
        complete=True, run_hash="1" * 64, taxonomy=TAXONOMY.ref, annotator="server@1", corpus_name="large",
        corpus=CorpusSpec(uri=str(root / "no-corpus")), fingerprint="0" * 64, rows=records, parts=parts,
    )  # fmt: skip
    save_run_info(root, info)


def _table(rows: np.ndarray, rng: np.random.Generator) -> pa.Table:
    count = len(rows)
    kind = rng.integers(0, len(SETS), count)
    ids = [TAXONOMY.ids(SETS[k]) for k in kind]
    probs = np.full((count, 18), 0.0, np.float32)
    for place, tags in enumerate(ids):
        probs[place, list(tags)] = 1
    probs = np.clip(np.abs(probs - rng.beta(1, 8, probs.shape)), 0.01, 0.99).astype(np.float32)
    fields = list(Evidence.model_fields)
    evidence = rng.normal(0.3, 0.2, (count, len(fields))).astype(np.float32).clip(0.001, 1)
    evidence[:, fields.index("changed_fraction")] = np.where(kind < 2, 0.1, 0.7) * rng.uniform(0.2, 1.3, count)
    evidence[:, fields.index("scale")] = 1
    words = rng.integers(0, 5000, (count, 2))
    names = [f"r{row}" for row in rows]
    images = []
    for place, row in enumerate(rows.tolist()):
        for role in ("source", "target"):
            sha = f"{row:x}{role[0].encode().hex()}".rjust(64, "0")
            hashes = int(rng.integers(0, 1 << 63)) if row % 10 or place == 0 else images[-2]["phash"]
            images.append({"role": role, "uri": f"images/{row}_{role}.jpg", "member": None, "row": None, "column": None,
                           "sha256": sha, "phash": hashes, "width": 512, "height": 512, "format": "jpeg"})  # fmt: skip
    image_type = ANNOTATIONS.field("images").type
    two = pa.array(np.arange(0, 2 * count + 1, 2), pa.int32())
    columns = {
        "corpus": ["large"] * count, "row": rows, "uid": [make_uid("large", n) for n in names], "id": names,
        "task": ["edit"] * count,
        "instruction": [f"{VERBS[k].format(f'thing{a}')} near item{b}" for k, (a, b) in zip(kind, words, strict=True)],
        "scope": [TAXONOMY.names(t, tier="scope")[0] for t in ids],
        "types": [list(TAXONOMY.names(t, tier="type")) for t in ids],
        "preservation": [list(TAXONOMY.names(t, tier="preservation")) for t in ids],
        "tag_ids": ids, "tag_probs": probs.tolist(), "tag_probs_raw": probs.tolist(), "calibration": ["none"] * count,
        "annotator": ["server@1"] * count, "model": ["m"] * count, "model_revision": [""] * count,
        "prompt_version": ["1"] * count, "taxonomy": [TAXONOMY.ref] * count,
        "evidence": pa.StructArray.from_arrays([pa.array(c) for c in evidence.T], names=fields),
        "images": pa.ListArray.from_arrays(two, pa.array(images, image_type.value_type)),
        "warnings": [["scope_unsure_0.55"] if row % 20 == 0 else [] for row in rows.tolist()],
        "reasons": [[] for _ in range(count)], "extra": ["{}"] * count,
    }  # fmt: skip
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, type=ANNOTATIONS.field(n).type) for n, c in columns.items()]
    return pa.Table.from_arrays(arrays, schema=ANNOTATIONS)


def time_audit(records: int) -> dict[str, object]:
    """Wall time and peak memory of `tagmoe audit` in a process of its own."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_large_run(root / "run", records)
        code = (
            "import json, resource, sys, time; from pathlib import Path\n"
            "import tagmoe.annotate.audit.build as b\n"
            "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024; start = time.monotonic()\n"
            f"b.audit(b.Inputs(run=Path({str(root / 'run')!r})), Path({str(root / 'out')!r}), quiet=True)\n"
            "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
            "print(json.dumps({'seconds': time.monotonic() - start, 'peak_mib': peak, 'imports_mib': base}))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        result: dict[str, object] = json.loads(done.stdout)
        result["records"] = records
        result["page_mib"] = round((root / "out" / "report.html").stat().st_size / 2**20, 2)
    return result


def _summary(faults: dict[str, dict[str, object]], scale: list[dict[str, object]]) -> str:
    lines = ["### Audit", "", "Planted faults in the real pairs of the sample corpora, AUROC of the queue [95 %]:", ""]
    lines += ["| fault | queue | planted | AUROC |", "|---|---|---|---|"]
    for name, row in faults.items():
        if name != "real mismatches":
            lines.append(
                f"| {name} | {row['queue']} | {row['planted']} | {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] |"
            )
    lines += [
        "",
        "The embedded annotator never trained on these pairs, but the few numbers that join its text with its pixels were "
        "fitted on their verified tags; the rows with the consensus alone are free of that. Intervals draw whole pairs.",
    ]
    lines += ["", "Real mismatches marked by reviewers (0.5 is chance):", "", "| queue | AUROC |", "|---|---|"]
    for name, row in faults["real mismatches"].items():
        lines.append(f"| {name} | {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] |")  # type: ignore[index]
    lines += ["", "| records | seconds | peak MiB | page MiB |", "|---|---|---|---|"]
    lines += [f"| {row['records']:,} | {row['seconds']:.1f} | {row['peak_mib']} | {row['page_mib']} |" for row in scale]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, default=Path(__file__).parents[2] / "shared" / "corpora")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    started = time.monotonic()
    scale = [time_audit(count) for count in sorted({arguments.records // 10, arguments.records})]
    faults = measure_faults(arguments.corpora, seeds=arguments.seeds)
    result: dict[str, object] = {
        "machine": machine("numpy", "pyarrow", "pillow", "tagmoe"), "faults": faults, "scale": scale,
        "seconds": round(time.monotonic() - started, 1), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip
    save("audit", result, summary=_summary(faults, scale))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
