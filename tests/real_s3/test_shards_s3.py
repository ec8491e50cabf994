"""Shards over s3:// against moto's server: a real HTTP endpoint that speaks S3."""

from __future__ import annotations

import logging
import shutil
import urllib.request
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from support_shards import build, make_run, mixed
from tagmoe.schema import DataError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.stream import ShardStream

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("s3")
    build(make_run(folder, mixed(60)), folder / "shards", shard_samples=10)
    return folder / "shards"


@pytest.fixture(scope="module")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, shards, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    # moto keeps its state for the whole process, s3fs its listings.
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir("bucket")
    system.put(str(shards), "bucket/set", recursive=True)
    return system


def epoch(stream: ShardStream) -> list:
    return [batch.samples for batch in stream.batches(stop=stream.batches_per_epoch)]


def test_s3_gives_what_the_folder_gives(bucket, shards, tmp_path):
    config = StreamConfig(batch_size=4)
    remote = ShardStream("s3://bucket/set", config=config, cache=tmp_path)
    assert epoch(remote) == epoch(ShardStream(shards, config=config))
    assert not remote.faults.faults


def test_a_missing_set_and_a_missing_tar_are_named(bucket, shards, tmp_path):
    with pytest.raises(DataError, match="is this a shard set"):
        ShardStream("s3://bucket/nothing", cache=tmp_path)
    stream = ShardStream("s3://bucket/set", cache=tmp_path, max_corrupt=0)
    bucket.rm("bucket/set/edit-src-jpg+tgt-jpg-train-000000.tar")
    with pytest.raises(DataError, match="does not exist"):
        epoch(stream)


def test_the_cache_is_used_again(bucket, shards, tmp_path):
    config = StreamConfig(batch_size=4)
    wanted = epoch(ShardStream("s3://bucket/set", config=config, cache=tmp_path))
    names = [name for name in bucket.ls("bucket/set") if name.endswith(".tar")]
    for name in names:
        bucket.rm(name)
    assert epoch(ShardStream("s3://bucket/set", config=config, cache=tmp_path)) == wanted
    shutil.rmtree(tmp_path / "chunks")
    with pytest.raises(DataError):
        epoch(ShardStream("s3://bucket/set", config=config, cache=tmp_path, max_corrupt=0))
