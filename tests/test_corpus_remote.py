"""Corpora behind fsspec URLs: memory, and real HTTP with and without ranges, faults and hostile names."""

from __future__ import annotations

import pickle
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_corpus import edit, encode, opened, picture, split, write_manifest, write_pictures
from tagmoe.schema import ConfigError, DataError, ImageRef, StoppedError
from tagmoe.shards.corpus import ImageRejected


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; answers the statuses in `faults` first, and byte ranges if `ranges`."""

    faults: ClassVar[dict[str, list[int]]] = {}
    asked: ClassVar[Counter[str]] = Counter()
    ranges: ClassVar[bool] = True

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.asked[self.path] += 1
        if self.faults.get(self.path):
            self.send_error(self.faults[self.path].pop(0))
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.ranges else None
        if match:
            start, end = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[start : end + 1]
        else:
            self.send_response(200)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(root: Path, *, ranges: bool = True) -> Iterator[str]:
    Handler.faults.clear()
    Handler.asked.clear()
    Handler.ranges = ranges
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagmoe.shards.corpus.remote._WAITS", (0.01, 0.02))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "site/c", 3)
    write_manifest(tmp_path / "site/c", [edit(i) for i in range(3)])
    return tmp_path / "site"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("tail", ["/c", "/c/manifest.jsonl"])
def test_http_equals_local(root: Path, ranges: bool, tail: str) -> None:
    local = opened(root / "c")
    with served(root, ranges=ranges) as url:
        corpus = opened(url + tail)
        assert (corpus.name, corpus.spec.kind, corpus.rows) == ("c", "manifest", 3)
        assert list(corpus.records()) == list(local.records())
        assert corpus.fingerprint == local.fingerprint
        again = pickle.loads(pickle.dumps(corpus))
        for pair in split(local.records())[0]:
            assert [again.read_image(ref) for ref in pair.images] == [local.read_image(ref) for ref in pair.images]


def test_parquet_over_http(tmp_path: Path) -> None:
    blobs = [encode(picture(seed=i)) for i in range(6)]
    table = pa.table({"instruction": [f"i{i}" for i in range(6)], "target": blobs})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    with served(tmp_path) as url:
        corpus = opened(f"{url}/a.parquet")
        pairs, _ = split(corpus.records())
        assert [corpus.read_image(pair.images[0]) for pair in pairs] == blobs
        assert corpus.fingerprint == opened(tmp_path / "a.parquet").fingerprint


def test_passing_faults_are_tried_again(root: Path) -> None:
    with served(root) as url:
        corpus = opened(f"{url}/c")
        (pair, *_), _ = split(corpus.records())
        Handler.faults["/c/images/0_s.jpg"] = [503, 429]
        assert corpus.read_image(pair.images[0]) == (root / "c/images/0_s.jpg").read_bytes()


def test_lasting_faults_stop_and_are_no_rejects(root: Path) -> None:
    with served(root) as url:
        corpus = opened(f"{url}/c")
        (pair, *_), _ = split(corpus.records())
        Handler.faults["/c/images/0_s.jpg"] = [503] * 99
        with pytest.raises(StoppedError, match="run the same command again"):
            corpus.read_image(pair.images[0])
    with pytest.raises(StoppedError):
        corpus.read_image(pair.images[1])  # the server is gone


def test_refusals_are_rejects(root: Path) -> None:
    with served(root) as url:
        corpus = opened(f"{url}/c", limits={"max_image_bytes": 50})
        for uri, reason in [
            ("images/gone.jpg", "missing_image"),
            ("images/0_t.jpg", "image_too_large_bytes"),
            ("../x.jpg", "path_outside_root"),
            ("http://elsewhere/x.jpg", "path_outside_root"),
        ]:
            with pytest.raises(ImageRejected) as caught:
                corpus.read_image(ImageRef(role="source", uri=uri))
            assert caught.value.reason == reason
        Handler.faults["/c/images/0_s.jpg"] = [403] * 9
        with pytest.raises(ImageRejected, match="403") as caught:
            corpus.read_image(ImageRef(role="source", uri="images/0_s.jpg"))
        assert caught.value.reason == "unreadable_file"


def test_encoded_dots_do_not_climb(root: Path) -> None:
    (root / "secret.jpg").write_bytes(b"secret")
    (root / "c/a b?#%.jpg").write_bytes(b"odd name")
    with served(root) as url:
        corpus = opened(f"{url}/c")
        for uri in ("%2e%2e/secret.jpg", "images/%2e%2e/%2e%2e/%2e%2e/secret.jpg"):
            with pytest.raises(ImageRejected) as caught:
                corpus.read_image(ImageRef(role="source", uri=uri))
            assert caught.value.reason == "missing_image"
        assert corpus.read_image(ImageRef(role="source", uri="a b?#%.jpg")) == b"odd name"


def test_nothing_at_the_url(root: Path) -> None:
    with served(root) as url, pytest.raises((ConfigError, DataError)):
        opened(f"{url}/c/gone.jsonl")
    with pytest.raises(ConfigError, match="cannot open nosuch://x"):
        opened("nosuch://x/manifest.jsonl")


def test_memory_folder(root: Path) -> None:
    system = fsspec.filesystem("memory")
    system.put(str(root / "c"), "/bucket/c", recursive=True)
    try:
        corpus = opened("memory://bucket/c")
        assert list(corpus.records()) == list(opened(root / "c").records())
        assert corpus.read_image(ImageRef(role="source", uri="images/1_s.jpg"))
        system.rm("/bucket/c/manifest.jsonl")
        for name in ("x/b.jsonl", "a.jsonl", ".h/c.jsonl"):
            system.pipe(f"/bucket/c/{name}", f'{{"instruction": "{name}"}}\n'.encode())
        nested = opened("memory://bucket/c")
        assert nested.spec.kind == "jsonl"
        assert [pair.instruction for pair in split(nested.records())[0]] == ["a.jsonl", "x/b.jsonl"]
    finally:
        system.rm("/bucket", recursive=True)


def test_image_root_at_a_url(root: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "labels", [edit(0)])
    with served(root) as url:
        corpus = opened(tmp_path / "labels", image_root=f"{url}/c")
        (pair,), _ = split(corpus.records())
        assert corpus.read_image(pair.images[0]) == (root / "c/images/0_s.jpg").read_bytes()
