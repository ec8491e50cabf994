"""Tests against real servers of object stores; collected where what they need is installed.

S3: `s3fs`, `moto[s3]`, `flask`, `flask-cors`. Google Cloud Storage: `gcsfs`, `gcp-storage-emulator`.
"""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = {
    "test_shards_s3.py": ("s3fs", "moto", "flask", "flask_cors"),
    "test_shards_gs.py": ("gcsfs", "gcp_storage_emulator"),
}
collect_ignore = [test for test, names in _NEEDED.items() if any(find_spec(name) is None for name in names)]
