"""Tests against a real S3-compatible server; collected where `s3fs`, `moto[s3]`, `flask`, `flask-cors` are installed."""

from __future__ import annotations

from importlib.util import find_spec

if any(find_spec(name) is None for name in ("s3fs", "moto", "flask", "flask_cors")):
    collect_ignore_glob = ["test_*.py"]
