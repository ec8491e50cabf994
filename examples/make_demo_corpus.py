"""Build examples/demo-corpus from the labelled corpora this project was given: real pairs under permissive licences.

python examples/make_demo_corpus.py ../shared/corpora

Pictures are copied byte for byte; the manifest keeps every field of the origin and adds its licence; gold.jsonl holds
the full tag sets of those records that have one. magicbrush-sample is left out: its authors ask that it not be
published further.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

SETS = {
    "comfy-template-pairs": "MIT",
    "demo-pairs": "Apache-2.0",
    "uno-subject-demos": "Apache-2.0",
    "gpt4o-generations": "CC-BY-4.0",
}


def main(corpora: Path) -> None:
    out = Path(__file__).parent / "demo-corpus"
    for name in SETS:
        shutil.rmtree(out / name, ignore_errors=True)
    lines: list[str] = []
    for name, licence in SETS.items():
        for line in (corpora / name / "manifest.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            for field in ("source", "target"):
                record[field] = copy(record[field], corpora / name, out, name)
            record["references"] = [copy(path, corpora / name, out, name) for path in record["references"]]
            lines.append(json.dumps({**record, "set": name, "licence": licence}, ensure_ascii=False))
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    gold = [json.loads(line) for line in (corpora / "gold-pairs" / "gold.jsonl").read_text("utf-8").splitlines()]
    kept = [json.dumps({**entry, "set": "demo-corpus"}, ensure_ascii=False) for entry in gold if entry["set"] in SETS]
    (out / "gold.jsonl").write_text("\n".join(kept) + "\n", "utf-8")
    print(f"{len(lines)} records in {out}")


def copy(path: str | None, root: Path, out: Path, name: str) -> str | None:
    if path is None:
        return None
    target = out / name / Path(path).name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / path, target)
    return str(target.relative_to(out))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/corpora"))
