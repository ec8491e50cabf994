"""A real HTTP server with range requests, and faults on demand; `python support_site.py FOLDER` serves a folder."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Site:
    """What the server does, and what it was asked."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    fail: dict[str, list[int]] = field(default_factory=dict)
    """Status codes to answer the next requests for a suffix with."""
    cut: int = 0
    """Answers to send only half of before closing the connection."""
    ranges: bool = True
    delay: float = 0.0


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server in a thread of its own, gone when the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def served(root: Path) -> Iterator[Site]:
    site = Site()

    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = root / unquote(self.path.lstrip("/"))
            site.asked[path.name] += body
            time.sleep(site.delay)
            planned = next((codes for suffix, codes in site.fail.items() if path.name.endswith(suffix) and codes), None)
            if planned or not path.is_file():
                self.send_response(planned.pop(0) if planned else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted and site.ranges:
                start, stop = int(wanted[1]), int(wanted[2]) + 1
                with path.open("rb") as stream:
                    stream.seek(start)
                    data = stream.read(stop - start)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{path.stat().st_size}")
            else:
                data = path.read_bytes()
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                if site.cut > 0:
                    site.cut -= 1
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(data)

    with listening(Handler) as site.url:
        yield site


if __name__ == "__main__":
    with served(Path(sys.argv[1])) as running:
        sys.stdout.write(running.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()
