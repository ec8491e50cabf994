"""Shards over gs:// against gcp-storage-emulator in a process of its own: real HTTP in Google's JSON API."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# gcsfs asks by gRPC for the kind of a bucket, which no emulator answers; ordinary buckets do without.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import gcsfs
import pytest
from support_shards import build, make_run, mixed
from tagmoe.schema import ConfigError, DataError, StoppedError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards import remote
from tagmoe.shards.stream import ShardStream

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

EMULATOR = """
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_address[1], flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gs")
    build(make_run(folder, mixed(60)), folder / "shards", shard_samples=10)
    return folder / "shards"


@contextmanager
def emulator() -> Iterator[str]:
    command = [sys.executable, "-c", EMULATOR]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.stdin.close()


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[str]:
    with emulator() as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield url


@pytest.fixture
def bucket(endpoint, shards) -> gcsfs.GCSFileSystem:
    system = gcsfs.GCSFileSystem(project="test", skip_instance_cache=True)
    system.mkdir("bucket")
    system.put(str(shards), "bucket/set", recursive=True)
    return system


def epoch(stream: ShardStream) -> list:
    return [batch.samples for batch in stream.batches(stop=stream.batches_per_epoch)]


def test_gs_gives_what_the_folder_gives_in_any_stretches(bucket, shards, tmp_path, monkeypatch):
    config = StreamConfig(batch_size=4)
    wanted = epoch(ShardStream(shards, config=config))
    for chunk in (4 << 20, 4096, 1 << 10):
        monkeypatch.setattr(remote, "CHUNK_BYTES", chunk)
        stream = ShardStream("gs://bucket/set", config=config, cache=tmp_path / str(chunk))
        assert epoch(stream) == wanted
        assert not stream.faults.faults


def test_the_cache_is_used_again(bucket, tmp_path):
    config = StreamConfig(batch_size=4)
    wanted = epoch(ShardStream("gs://bucket/set", config=config, cache=tmp_path))
    bucket.rm([name for name in bucket.ls("bucket/set") if name.endswith(".tar")])
    assert epoch(ShardStream("gs://bucket/set", config=config, cache=tmp_path)) == wanted
    stream = ShardStream("gs://bucket/set", config=config, cache=tmp_path / "other", max_corrupt=0)
    with pytest.raises(DataError, match="does not exist"):
        epoch(stream)


@pytest.mark.parametrize("url", ["gs://bucket/nothing", "gs://nobucket/set"])
def test_a_missing_set_is_named(bucket, tmp_path, url):
    with pytest.raises(DataError, match="is this a shard set"):
        ShardStream(url, cache=tmp_path)


def test_changed_bytes_are_replaced_and_named(bucket, shards, tmp_path):
    name = "edit-src-jpg+tgt-jpg-train-000000.tar"
    data = bytearray((shards / name).read_bytes())
    data[700] ^= 1
    bucket.pipe_file(f"bucket/set/{name}", bytes(data))
    stream = ShardStream("gs://bucket/set", config=StreamConfig(batch_size=4), cache=tmp_path)
    assert sum(map(len, epoch(stream))) == 60
    assert {(fault.shard, fault.reason[:5]) for fault in stream.faults.faults} == {(name[:-4], "crc32")}


def test_a_server_that_is_gone_stops_the_run(tmp_path, monkeypatch):
    """After gcsfs's own half minute of attempts, not after six of these."""
    with emulator() as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    with pytest.raises(StoppedError, match="resume from the last checkpoint"):
        ShardStream("gs://bucket/set", cache=tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_named_at_once(tmp_path, monkeypatch, status):
    asked = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(status)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(ConfigError, match=f"the server answers {status}"):
            ShardStream("gs://bucket/set", cache=tmp_path)
        server.shutdown()
    assert len(asked) == 1
