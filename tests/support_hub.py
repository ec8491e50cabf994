"""A hub in miniature: the HTTP that `huggingface_hub` speaks to read one data set, over a real socket."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from support_site import QuietHandler, listening

REPO = "someone/set"
SHA = "a" * 40


@dataclass
class Hub:
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    fail: int = 0
    """Answers of 503 to give next."""


@contextmanager
def hub(root: Path) -> Iterator[Hub]:
    """The files of `root` as data set `someone/set`, revision main."""
    state = Hub()

    def entry(path: Path) -> dict[str, object]:
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}

    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def answer(self, body: bytes) -> None:
            path = unquote(urlsplit(self.path).path)
            api = f"/api/datasets/{REPO}"
            if path in (api, f"{api}/revision/main"):
                self.say(
                    200, json.dumps({"id": REPO, "sha": SHA, "private": False, "tags": [], "downloads": 0}).encode()
                )
            elif path == f"{api}/paths-info/main":
                text = body.decode()
                wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
                found = [root / name for name in wanted if (root / name).exists()]
                self.say(200, json.dumps([entry(place) for place in found]).encode())
            elif path.startswith(f"{api}/tree/main"):
                folder = root / path.removeprefix(f"{api}/tree/main").strip("/")
                if folder.is_dir():
                    self.say(200, json.dumps([entry(place) for place in sorted(folder.iterdir())]).encode())
                else:
                    self.say(404, b"", {"X-Error-Code": "EntryNotFound"})
            elif path.startswith(f"/datasets/{REPO}/resolve/main/"):
                self.file(path.removeprefix(f"/datasets/{REPO}/resolve/main/"))
            else:
                self.say(404, b"")

        def file(self, name: str) -> None:
            state.asked[name] += 1
            path = root / name
            if state.fail:
                state.fail -= 1
                self.say(503, b"")
            elif not path.is_file():
                self.say(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                data, wanted = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                facts = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": SHA}
                if wanted:
                    state.ranges.append(name)
                    start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
                    self.say(206, data[start:stop], {**facts, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})
                else:
                    self.say(200, data, facts)

        def say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    with listening(Handler) as state.url:
        yield state
