"""Tests in a real Chromium. They are collected only where one is installed: `make test-browser`, never `make test`."""

from __future__ import annotations

import os

from support_chromium import find_chromium

try:
    find_chromium()
except FileNotFoundError:
    collect_ignore_glob = ["test_*.py"]
else:
    if os.environ.get("TAGMOE_BROWSER_TESTS") != "1":
        collect_ignore_glob = ["test_*.py"]
