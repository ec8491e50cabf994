"""A chat-completions server for tests: OpenAI's protocol over real HTTP on a loopback port, with faults on demand.

A script decides, for each request, what happens: `script(body, number)` gets the parsed JSON body and the count of
earlier requests, and returns an `Act`. Nothing of the code under test is patched.
"""

from __future__ import annotations

import base64
import io
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image
from tagmoe.annotate.base import Prepared
from tagmoe.schema import ImageInfo, Pair, load_taxonomy
from tagmoe.schema.configs.vlm import VlmConfig

MODEL = "test-vlm"
TAXONOMY = load_taxonomy()


@dataclass(frozen=True)
class Act:
    """What the server does with one request."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """The whole response body instead of a completion."""
    model: str = MODEL
    finish: str = "stop"
    choices: int = 1
    hang_seconds: float = 0.0
    drip_seconds: float = 0.0
    """Pause between single bytes of the body."""
    cut_after: int | None = None
    """Bytes of the body that are sent before the connection is closed."""
    reset: bool = False
    """Close the connection with a TCP reset before any answer."""
    logprobs: list[dict[str, object]] | None = None
    refusal: str | None = None


Script = Callable[[dict, int], Act]


def reply_of(tags: Iterable[str]) -> str:
    """The compact JSON reply that marks `tags`."""
    marked = set(tags)
    [scope] = [tag.name for tag in TAXONOMY.tier("scope") if tag.name in marked]
    body = {
        "scope": scope,
        "types": {tag.name: tag.name in marked for tag in TAXONOMY.tier("type")},
        "preservation": {tag.name: tag.name in marked for tag in TAXONOMY.tier("preservation")},
    }
    return json.dumps(body, separators=(",", ":"))


GOOD = ("local editing", "attribute editing", "background preservation", "identity preservation", "style preservation")
GOOD_IDS = TAXONOMY.ids(GOOD)
GOOD_REPLY = reply_of(GOOD)
BROKEN_REPLY = reply_of(("local editing", "background editing", "background preservation"))
"""Breaks `background_editing_excludes_background_preservation`."""


def good(_body: dict, _number: int) -> Act:
    return Act(content=GOOD_REPLY)


def is_control(body: dict) -> bool:
    return "Make it red." in json.dumps(body["messages"])


def text_of(body: dict) -> str:
    """All text parts of the user's first turn."""
    content = body["messages"][1]["content"]
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def pictures_of(body: dict) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


class FaultServer:
    """A running server; `bodies` are the parsed requests in order of arrival."""

    def __init__(self, script: Script = good, *, port: int = 0) -> None:
        self.script = script
        self.bodies: list[dict] = []
        self.peak = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", port), _handler_for(self))
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def records(self) -> list[dict]:
        """Bodies without the control requests."""
        return [body for body in self.bodies if not is_control(body)]

    def stop(self) -> None:
        """Close the port; connections are dropped."""
        self._http.shutdown()
        self._http.drop()
        self._http.server_close()
        self._thread.join()

    def enter(self, body: dict) -> int:
        with self._lock:
            self.bodies.append(body)
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
            return len(self.bodies) - 1

    def leave(self) -> None:
        with self._lock:
            self._under_way -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *args: object) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)  # type: ignore[arg-type]

    def process_request(self, request, client_address) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def drop(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def handle_error(self, request, client_address) -> None:
        """Clients that hang up are part of the tests."""


def _handler_for(server: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            number = server.enter(body)
            try:
                self._act(server.script(body, number))
            finally:
                server.leave()

        def _act(self, act: Act) -> None:
            if act.reset:
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()
                return
            time.sleep(act.hang_seconds)
            data = act.raw if act.raw is not None else _completion(act)
            self.send_response(act.status)
            for name, value in act.headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if act.cut_after is not None:
                self.wfile.write(data[: act.cut_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if act.drip_seconds:
                for i in range(len(data)):
                    self.wfile.write(data[i : i + 1])
                    self.wfile.flush()
                    time.sleep(act.drip_seconds)
                return
            self.wfile.write(data)

    return Handler


def _completion(act: Act) -> bytes:
    if act.status != 200:
        return json.dumps({"error": {"message": act.content or "injected", "type": "x", "code": act.status}}).encode()
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": act.content, "refusal": act.refusal},
        "finish_reason": act.finish,
        "logprobs": {"content": act.logprobs} if act.logprobs is not None else None,
    }
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": act.model,
            "choices": [choice] * act.choices,
            "usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140},
        }
    ).encode()


@contextmanager
def serving(*scripts: Script):
    """One FaultServer a script."""
    servers = [FaultServer(script) for script in scripts]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


def config_for(*servers: FaultServer | str, **changes: object) -> VlmConfig:
    """A configuration with short pauses and long patience; `changes` go to `server`, or to a section by `section__field`."""
    urls = [server if isinstance(server, str) else server.url for server in servers]
    sections: dict[str, dict[str, object]] = {
        "server": {
            "endpoints": urls,
            "concurrency": 8,
            "timeout_seconds": 60.0,
            "connect_seconds": 60.0,
            "attempts": 4,
            "backoff_seconds": 0.005,
            "backoff_max_seconds": 0.02,
            "failures_to_leave": 3,
            "probe_seconds": 0.05,
            "patience_seconds": 60.0,
        },
        "sampling": {},
        "pictures": {},
    }
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        sections[section or "server"][key] = value
    return VlmConfig.model_validate({"model": MODEL, **sections})


def record(
    row: int = 0,
    *,
    instruction: str | None = None,
    task: str = "edit",
    roles: Sequence[str] = ("source", "target"),
    size: tuple[int, int] = (40, 32),
) -> Prepared:
    """A prepared pair whose pictures have the colours of their place."""
    infos = tuple(
        ImageInfo(
            role=role, uri=f"{row}", sha256=f"{row:063x}{i:x}", phash=0, width=size[0], height=size[1], format="png"
        )
        for i, role in enumerate(roles)
    )
    colours = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))
    pixels = tuple(Image.new("RGB", size, colours[i % 4]) for i in range(len(roles)))
    text = f"Paint thing number {row} blue." if instruction is None else instruction
    refs = tuple({"role": role, "uri": f"{row}"} for role in roles)
    pair = Pair.model_validate(
        {"corpus": "t", "row": row, "id": f"r{row}", "task": task, "instruction": text, "images": refs}
    )
    return Prepared(pair=pair, images=infos, pixels=pixels)


def logprobs_of(text: str, *, at: dict[int, dict[str, float]], size: int = 1) -> list[dict[str, object]]:
    """OpenAI's `logprobs.content` for `text` cut into tokens of `size` characters; `at` gives P of the alternatives
    of the token that starts at a character (the token itself included), every other token is certain."""
    content: list[dict[str, object]] = []
    position = 0
    while position < len(text):
        listed = at.get(position)
        token = text[position : position + size]
        if listed is not None:
            token = max((t for t in listed if text.startswith(t, position)), key=len)
        listed = listed or {token: 1.0}
        content.append(_entry(token, listed[token]) | {"top_logprobs": [_entry(t, p) for t, p in listed.items()]})
        position += len(token)
    return content


def _entry(token: str, p: float) -> dict[str, object]:
    return {"token": token, "bytes": list(token.encode()), "logprob": math.log(p) if p else -9999.0}
