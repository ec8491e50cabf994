"""Print what an installed package requires here, without some packages: `requirements_of.py NAME [WITHOUT ...]`."""

from __future__ import annotations

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement


def wanted(name: str, *, without: set[str]) -> list[str]:
    """Requirement lines of `name` whose markers hold on this machine with no extra chosen."""
    lines = [Requirement(line) for line in requires(name) or ()]
    chosen = (line for line in lines if line.name not in without)
    return [
        f"{line.name}{line.specifier}"
        if not line.extras
        else f"{line.name}[{','.join(sorted(line.extras))}]{line.specifier}"
        for line in chosen
        if line.marker is None or line.marker.evaluate({"extra": ""})
    ]


if __name__ == "__main__":
    print("\n".join(wanted(sys.argv[1], without=set(sys.argv[2:]))))
