"""Shard sets behind URLs: a real HTTP server with range requests, faults on the way, and a bounded shared cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support_shards import build, make_run, mixed
from support_site import served
from tagmoe.schema import ConfigError, DataError, StoppedError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards import remote
from tagmoe.shards.cache import PieceCache
from tagmoe.shards.stream import ShardStream


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(remote, "_WAITS", (0.01, 0.02))
    monkeypatch.setattr(remote, "CHUNK_BYTES", 16 << 10)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    build(make_run(folder, mixed(60)), folder / "shards", shard_samples=10)
    return folder / "shards"


def stream_of(url: str | Path, cache: Path, **options) -> ShardStream:
    return ShardStream(url, config=StreamConfig(batch_size=4), cache=cache, **options)


def epoch(stream: ShardStream, **options) -> list:
    return [batch.samples for batch in stream.batches(stop=stream.batches_per_epoch, **options)]


def test_http_gives_what_the_folder_gives_and_the_second_epoch_asks_nothing(shards, tmp_path):
    with served(shards) as site:
        stream = stream_of(site.url, tmp_path)
        assert epoch(stream) == epoch(stream_of(shards, tmp_path))
        asked = site.asked.total()
        epoch(stream)
        assert site.asked.total() == asked
        again = stream_of(site.url, tmp_path)
        epoch(again)
        assert site.asked.total() == asked + 1  # the manifest, to learn whether there is a newer snapshot
    pieces = sum(-(-path.stat().st_size // (16 << 10)) for path in shards.glob("*.tar"))
    assert sum(count for name, count in site.asked.items() if name.endswith(".tar")) <= pieces


def test_concurrent_readers_fetch_each_piece_once(shards, tmp_path):
    with served(shards) as site:
        site.delay = 0.005
        streams = [stream_of(site.url, tmp_path) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda s: epoch(s, prefetch=3), streams))
        assert all(result == results[0] for result in results)
        pieces = sum(-(-path.stat().st_size // (16 << 10)) for path in shards.glob("*.tar"))
        asked = sum(count for name, count in site.asked.items() if name.endswith(".tar"))
        assert asked <= pieces * 1.25


def test_passing_faults_are_tried_again(shards, tmp_path):
    with served(shards) as site:
        site.fail = {".tar": [503], "manifest.json": [502, 500]}
        stream = stream_of(site.url, tmp_path)
        site.cut = 1
        assert epoch(stream, prefetch=0) == epoch(stream_of(shards, tmp_path))
        assert not stream.faults.faults


def test_lasting_faults_stop_the_run_and_replace_no_sample(shards, tmp_path):
    with served(shards) as site:
        stream = stream_of(site.url, tmp_path)
        site.fail = {".tar": [500] * 1000}
        with pytest.raises(StoppedError, match="resume from the last checkpoint"):
            epoch(stream)
        assert not stream.faults.faults


def test_refusals_are_named(shards, tmp_path):
    with served(shards) as site:
        site.fail = {"manifest.json": [403]}
        with pytest.raises(ConfigError, match="answers 403"):
            stream_of(site.url, tmp_path)
        with pytest.raises(DataError, match="is this a shard set"):
            stream_of(f"{site.url}/nothing", tmp_path)
        stream = stream_of(site.url, tmp_path)
        site.ranges = False
        with pytest.raises(ConfigError, match="does not serve ranges"):
            epoch(stream)
    with pytest.raises(ConfigError, match="nosuch"):
        stream_of("nosuch://place", tmp_path)


def test_bad_bytes_in_the_cache_are_fetched_again(shards, tmp_path):
    with served(shards) as site:
        stream = stream_of(site.url, tmp_path)
        wanted = epoch(stream)
        for path in (tmp_path / "chunks" / "pieces").glob("*/*"):
            path.write_bytes(b"\0" * path.stat().st_size)
        assert epoch(stream) == wanted
        assert not stream.faults.faults


def test_bad_bytes_at_the_source_are_faults(shards, tmp_path):
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    tar = sorted(copy.glob("*.tar"))[0]
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    with served(copy) as site:
        stream = stream_of(site.url, tmp_path / "cache")
        epoch(stream, prefetch=0)
        assert len(stream.faults.faults) == 1
        sorted(copy.glob("*.tar"))[1].unlink()
        other = stream_of(site.url, tmp_path / "cache2", max_corrupt=1)
        with pytest.raises(DataError, match=r"\d samples could not be read \(limit 1\)"):
            epoch(other)


def test_the_cache_stays_within_its_bound(shards, tmp_path):
    total = sum(path.stat().st_size for path in shards.glob("*.tar"))
    bound = total // 4
    with served(shards) as site:
        stream = stream_of(site.url, tmp_path, cache_bytes=bound)
        wanted = epoch(stream_of(shards, tmp_path))
        for _ in range(2):
            assert epoch(stream) == wanted
            used = sum(path.stat().st_size for path in (tmp_path / "chunks" / "pieces").glob("*/*"))
            assert used <= bound * 1.25


def test_an_older_snapshot_over_http(shards, tmp_path):
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    build(make_run(tmp_path / "more", mixed(9, prefix="m"), name="more"), copy)
    with served(copy) as site:
        old = ShardStream(site.url, config=StreamConfig(batch_size=4, snapshot=1), cache=tmp_path / "cache")
        new = ShardStream(site.url, config=StreamConfig(batch_size=4), cache=tmp_path / "cache")
        assert (old.samples_per_epoch, new.samples_per_epoch) == (60, 69)
        assert sum(map(len, epoch(old))) == 60


_CHILD = """
import sys
from pathlib import Path
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards import remote
from tagmoe.shards.stream import ShardStream
remote.CHUNK_BYTES = 16 << 10
stream = ShardStream(sys.argv[1], config=StreamConfig(batch_size=1), cache=Path(sys.argv[2]))
for batch in stream.batches():
    print(batch.position, flush=True)
"""


def test_the_cache_survives_killed_readers(shards, tmp_path):
    with served(shards) as site:
        site.delay = 0.01
        children = [
            subprocess.Popen([sys.executable, "-c", _CHILD, site.url, str(tmp_path)], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        for number, child in enumerate(children):
            for _ in range(3 + 5 * number):
                assert child.stdout.readline()
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            child.stdout.close()
        site.delay = 0.0
        assert epoch(stream_of(site.url, tmp_path)) == epoch(stream_of(shards, tmp_path))


def test_memory_file_system(shards, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/set", recursive=True)
    try:
        assert epoch(stream_of("memory://set", tmp_path)) == epoch(stream_of(shards, tmp_path))
    finally:
        memory.rm("/set", recursive=True)


def test_pieces_go_by_last_use_and_half_written_ones_after_an_hour(tmp_path):
    cache = PieceCache(tmp_path, limit=1000)
    for number in range(9):
        cache.put(f"p{number}", bytes(100))
        os.utime(next(tmp_path.glob(f"pieces/*/p{number}")), (number + 1, number + 1))
    torn = tmp_path / "pieces" / "00" / ".old.1.2.tmp"
    torn.parent.mkdir(exist_ok=True)
    torn.write_bytes(b"x")
    os.utime(torn, (1, 1))
    assert cache.get("p0") == bytes(100)  # touched: now the youngest
    for number in range(9, 12):
        cache.put(f"p{number}", bytes(100))
    kept = {path.name for path in tmp_path.glob("pieces/*/*")}
    assert "p0" in kept
    assert "p1" not in kept
    assert torn.name not in kept
    assert sum(path.stat().st_size for path in tmp_path.glob("pieces/*/*")) <= 1000
    cache.put("large", bytes(2000))
    assert cache.get("large") is None
