"""What a measurement ran on, and how repeated measurements are summed up; shared by every benchmark."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine(*packages: str) -> dict[str, object]:
    """Processor, cores and the versions of `packages`."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {"cpu": model, "cores": os.cpu_count(), "versions": versions}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "runs": len(values)}


def save(name: str, result: dict[str, object], *, summary: str) -> None:
    """Print the result as JSON and keep it: results/NAME.json, and `summary` (Markdown) in results/NAME.md."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", "utf-8")
    (RESULTS / f"{name}.md").write_text(summary.strip() + "\n", "utf-8")
    sys.stdout.write(text + "\n")
