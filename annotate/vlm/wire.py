"""OpenAI's chat completions, as this project speaks them: requests to JSON bodies, response bodies to replies."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from PIL import Image
from pydantic import BaseModel, Field, JsonValue, ValidationError

from ...schema.configs.vlm import VlmConfig
from ..base import Failure
from .confidence import Token
from .dialogue import Answer, Reply, Request

Message = dict[str, JsonValue]

_SAVING: dict[str, dict[str, int | bool]] = {
    "jpeg": {"quality": 95, "subsampling": 0},
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 0},
}


class MalformedBody(ValueError):
    """A response that is not a chat completion with at least one choice."""


class _Alternative(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None

    def spelled(self) -> bytes:
        return bytes(self.bytes) if self.bytes is not None else self.token.encode("utf-8", "surrogatepass")


class _TokenLogprob(_Alternative):
    top_logprobs: list[_Alternative] = []


class _Logprobs(BaseModel):
    content: list[_TokenLogprob] | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(BaseModel):
    """The parts of a chat completion that are used."""

    object: Literal["chat.completion"]
    model: str
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None

    def answer(self) -> Answer:
        """The first choice as a reply, or the Failure of a model that refused."""
        choice = self.choices[0]
        if choice.message.refusal:
            return Failure("refused_by_endpoint", f"the model refused: {choice.message.refusal[:300]}")
        used = self.usage or _Usage()
        return Reply(
            text=choice.message.content or "",
            finish=choice.finish_reason or "none",
            tokens=_tokens(choice.logprobs),
            usage=(used.prompt_tokens, used.completion_tokens),
        )


def read_completion(body: bytes) -> Completion:
    """Read a response body.

    Raises:
        MalformedBody: not JSON, cut off, or of another shape; names the place.
    """
    try:
        return Completion.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise MalformedBody(f"{place}: {first['msg']}") from error


def messages(request: Request, *, picture: Callable[[int], Message]) -> list[Message]:
    """The chat messages of `request`; `picture` makes the content part of the picture at an index."""
    parts: list[JsonValue] = [
        picture(part) if isinstance(part, int) else {"type": "text", "text": part} for part in request.prompt.user
    ]
    turns: list[Message] = [{"role": "system", "content": request.prompt.system}, {"role": "user", "content": parts}]
    for said, objection in request.history:
        turns.append({"role": "assistant", "content": said})
        turns.append({"role": "user", "content": objection})
    return turns


def chat_body(request: Request, *, pictures: Sequence[str], config: VlmConfig) -> Mapping[str, JsonValue]:
    """Keyword arguments of `chat.completions.create` for `request`, its pictures given as data URLs."""
    server = config.server
    extra: dict[str, JsonValue] = dict(server.extra_body)
    body: dict[str, JsonValue] = {
        "model": config.model,
        "messages": [*messages(request, picture=lambda i: {"type": "image_url", "image_url": {"url": pictures[i]}})],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if server.constraint == "response_format":
        shape: dict[str, JsonValue] = {"name": "reply", "strict": True, "schema": dict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    elif server.constraint == "structured_outputs":
        extra["structured_outputs"] = {"json": dict(request.schema)}
    if extra:
        body["extra_body"] = extra
    return body


def data_url(picture: Image.Image, *, encoding: Literal["jpeg", "png", "webp"]) -> str:
    """`picture` as a base64 data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, format=encoding, **_SAVING[encoding])
    return f"data:image/{encoding};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _tokens(logprobs: _Logprobs | None) -> tuple[Token, ...] | None:
    if logprobs is None or not logprobs.content:
        return None
    return tuple(_token(item) for item in logprobs.content)


def _token(item: _TokenLogprob) -> Token:
    own = (item.spelled(), item.logprob)
    listed = tuple((other.spelled(), other.logprob) for other in item.top_logprobs)
    return Token(own[0], listed if own in listed else (own, *listed))
