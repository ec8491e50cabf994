"""Tests on a real Ray cluster. They are collected only where Ray is installed: `make test-ray`, never `make test`."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

try:
    version("ray")
except PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]
else:
    # Read when ray is imported; the first makes every node of the test cluster speak over the loopback only.
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "500",
    }
