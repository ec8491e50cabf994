"""A run of 100,000 records over real picture files, audited, checked and opened: time, memory, the page in a browser."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _machine import spread
from tagmoe.schema import CorpusSpec, Evidence, RunInfo, load_taxonomy, make_uid
from tagmoe.schema.arrow import ANNOTATIONS, REJECTS, write_part
from tagmoe.schema.runs import PART_ROWS, PartInfo, hash_part, part_name, save_run_info

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


def write_large_run(root: Path, records: int, pictures: Sequence[Path], *, seed: int = 0) -> None:
    """A run with distinct instructions, probabilities and evidence, and two files a record that are links to `pictures`."""
    rng = np.random.default_rng(seed)
    corpus = root / "corpus"
    files = _link(corpus, records, pictures)
    root = root / "run"
    parts: list[PartInfo] = []
    for part, start in enumerate(range(0, records, PART_ROWS)):
        rows = np.arange(start, min(start + PART_ROWS, records))
        path = root / "annotations" / part_name(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_table(rows, rng, files), path, compression="zstd", row_group_size=4096)
        write_part(root / "rejects" / part_name(part), [], schema=REJECTS)
        parts.append(PartInfo(part=part, annotations=len(rows), rejects=0, sha256=hash_part(root, part)))
    info = RunInfo(
        complete=True, run_hash="1" * 64, taxonomy=TAXONOMY.ref, annotator="server@1", corpus_name="large",
        corpus=CorpusSpec(uri=str(corpus)), fingerprint="0" * 64, rows=records, parts=parts,
    )  # fmt: skip
    save_run_info(root, info)


def _link(corpus: Path, records: int, pictures: Sequence[Path]) -> list[str]:
    """Two pictures a record under names of their own; returns the sha256 of each of `pictures`."""
    kept = []
    (corpus / "kept").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        kept.append(corpus / f"kept/{number}.jpg")
        kept[-1].write_bytes(picture.read_bytes())
    for row in range(records):
        folder = corpus / f"images/{row // 1000}"
        folder.mkdir(parents=True, exist_ok=True)
        for place, role in enumerate(("source", "target")):
            (folder / f"{row}_{role}.jpg").hardlink_to(kept[(2 * row + place) % len(kept)])
    first = {
        "id": "r0",
        "task": "edit",
        "instruction": "x",
        "source": "images/0/0_source.jpg",
        "target": "images/0/0_target.jpg",
    }
    (corpus / "manifest.jsonl").write_text(json.dumps(first) + "\n", "utf-8")
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in kept]


def _table(rows: np.ndarray, rng: np.random.Generator, files: Sequence[str]) -> pa.Table:
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
            sha = files[(2 * row + (role == "target")) % len(files)]
            hashes = int(rng.integers(0, 1 << 63)) if row % 10 or place == 0 else images[-2]["phash"]
            images.append({"role": role, "uri": f"images/{row // 1000}/{row}_{role}.jpg", "member": None, "row": None, "column": None,
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


_AUDIT = """
import json, sys, time
from pathlib import Path
import tagmoe.annotate.audit.build as b
from tagmoe.schema.configs.audit import AuditConfig
base, start = peak(), time.monotonic()
b.audit(b.Inputs(run=Path(sys.argv[1])), Path(sys.argv[2]), config=AuditConfig(), quiet=True)
print(json.dumps({"seconds": time.monotonic() - start, "peak_mib": peak(), "imports_mib": base}))
"""
_CHECK = """
import json, sys, time
from pathlib import Path
from tagmoe.annotate.audit.integrity import check_pictures
from tagmoe.annotate.audit.reading import load_columns
from tagmoe.schema import Run
from tagmoe.schema.configs.audit import AuditConfig
from tagmoe.shards.corpus import open_corpus
run = Run.open(Path(sys.argv[1]))
columns, corpus = load_columns(run), open_corpus(run.info.corpus)
base, start = peak(), time.monotonic()
found = check_pictures(run, columns, corpus, seen={}, config=AuditConfig(check_pictures="all"), out=Path(sys.argv[2]), quiet=True)
seconds = time.monotonic() - start
print(json.dumps({"pictures": found.checked, "changed": found.changed, "unreadable": found.unreadable,
                  "named": sum(1 for _ in (Path(sys.argv[2]) / found.list_file).open()) - 1,
                  "seconds": seconds, "per_second": found.checked / seconds, "peak_mib": peak(), "before_mib": base}))
"""


_PEAK = """
def peak():  # not ru_maxrss, which a process inherits from the one that started it
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
"""


def _alone(code: str, *arguments: Path) -> dict[str, float]:
    """The result of `code` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def time_audits(pictures: Sequence[Path], *, records: int, rounds: int) -> list[dict[str, object]]:
    """Audits of a tenth of `records` and of all, in turn: wall time and peak memory of each process."""
    sizes = sorted({records // 10, records})
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for size in sizes:
            write_large_run(root / str(size), size, pictures)
        for _ in range(rounds):
            for size in sizes:
                found[size].append(_alone(_AUDIT, root / str(size) / "run", root / str(size) / "report"))
        page = {size: (root / str(size) / "report/report.html").stat().st_size / 2**20 for size in sizes}
    return [
        {"records": size, "seconds": spread([row["seconds"] for row in rows]),
         "peak_mib": max(row["peak_mib"] for row in rows), "imports_mib": rows[0]["imports_mib"],
         "page_mib": round(page[size], 1)}
        for size, rows in found.items()
    ]  # fmt: skip


def check_all(pictures: Sequence[Path], *, records: int) -> dict[str, object]:
    """Every picture of a run read again and compared, after one in a thousand was changed and one in a thousand deleted."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_large_run(root, records, pictures)
        for row in range(0, records, 1000):
            changed = root / f"corpus/images/{row // 1000}/{row}_target.jpg"
            changed.unlink()
            changed.write_bytes(pictures[0].read_bytes() + b"x")
            (root / f"corpus/images/{row // 1000}/{row}_source.jpg").unlink()
        return dict(_alone(_CHECK, root / "run", root / "out"))


def open_page(pictures: Sequence[Path], *, records: int, rounds: int) -> dict[str, object]:
    """Seconds until the load event of the page over `records` records, in headless Chromium, from a file."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support_chromium import Browser

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        write_large_run(root, records, pictures)
        _alone(_AUDIT, root / "run", root / "report")
        page = root / "report/report.html"
        browser = Browser(root / "profile", downloads=root)
        try:
            version = browser.call("Browser.getVersion")["product"]
            browser.screen(1360, 900)
            seconds = [browser.open(page) for _ in range(rounds)]
            cards = browser.run("CARDS.length")
            pictured = browser.run("CARDS.filter((card) => card.pictured).length")
            problems = browser.problems()
        finally:
            browser.close()
        return {"records": records, "browser": version, "seconds": spread(seconds), "cards": cards, "pictured": pictured,
                "page_mib": round(page.stat().st_size / 2**20, 1), "problems": problems}  # fmt: skip
