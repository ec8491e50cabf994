"""Run every benchmark, one after the other, and join their summaries into RESULTS.md.

python benchmarks/run_all.py            run all
python benchmarks/run_all.py loader     run some
python benchmarks/run_all.py --join     only join what results/ holds
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-bench" / "bin" / "python"
"""Where `make bench-env` put the peers that these compare with."""
WITH_PEERS = {"loader", "build_shards"}


def join() -> None:
    sections = [path.read_text("utf-8").strip() for path in sorted((HERE / "results").glob("*.md"))]
    head = (
        "# Measured\n\nWritten by `python benchmarks/run_all.py`; each section by the script it names, with the machine"
        " and the versions in `results/*.json`. Speeds are ratios against a peer or a limit in the same run.\n\n"
    )
    (HERE / "RESULTS.md").write_text(head + "\n\n".join(sections) + "\n", "utf-8")


def main(names: list[str]) -> int:
    failed = []
    if names != ["--join"]:
        scripts = [path for path in sorted(HERE.glob("*.py")) if not path.name.startswith(("_", "run_all"))]
        for script in scripts:
            if names and script.stem not in names:
                continue
            print(f"== {script.name}", file=sys.stderr, flush=True)
            python = str(PEERS) if script.stem in WITH_PEERS and PEERS.exists() else sys.executable
            if subprocess.run([python, str(script)], check=False).returncode:
                failed.append(script.name)
    join()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
