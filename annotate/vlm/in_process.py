"""The `vllm` annotator: vLLM inside this process, asked in bounded chunks through `LLM.chat`."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pydantic import JsonValue

from ...schema import ConfigError, StoppedError, Taxonomy
from ...schema.configs.vlm import VlmConfig
from ..base import Failure, Labels, Prepared
from .confidence import Token
from .control import control_record
from .dialogue import Answer, Dialogue, Reply, Request, dialogue, first_request
from .settings import provenance_of
from .wire import Message, messages


class VllmAnnotator:
    """Labels records with a model that runs in this process."""

    embedded = False
    sees_pixels = True
    parallel_batches = 1

    def __init__(self, config: VlmConfig, *, taxonomy: Taxonomy) -> None:
        """Load the model and ask it one control request.

        Raises:
            ConfigError: vLLM is not installed, or cannot load or run the model with these settings.
        """
        try:
            vllm = import_module("vllm")
        except ImportError as error:
            raise ConfigError("annotator=vllm needs vLLM: pip install 'tagmoe[vllm]' (or use server)") from error
        self.provenance = provenance_of("vllm", config=config, taxonomy=taxonomy)
        self.max_pixels = config.pictures.max_pixels
        self.batch_size = config.vllm.chunk
        self._config = config
        self._taxonomy = taxonomy
        self._lock = threading.Lock()
        self._dead: type[Exception] = import_module("vllm.v1.engine.exceptions").EngineDeadError
        try:
            self._llm = vllm.LLM(**engine_args(config))
        except (ValueError, OSError, RuntimeError) as error:
            raise ConfigError(f"vLLM cannot load {config.model}: {_line(error)}") from error
        self._try_out()

    def annotate(self, batch: Sequence[Prepared]) -> Sequence[Labels | Failure]:
        """Results in the order of `batch`, one each. All open questions of a batch go to the engine together.

        Raises:
            StoppedError: the engine died.
        """
        with self._lock:
            talks = [dialogue(record, taxonomy=self._taxonomy, config=self._config) for record in batch]
            results: dict[int, Labels | Failure] = {}
            open_requests = {i: next(talk) for i, talk in enumerate(talks)}
            while open_requests:
                flat = [request for requests in open_requests.values() for request in requests]
                answers = iter(self._chat(flat))
                round_of = {i: [next(answers) for _ in requests] for i, requests in open_requests.items()}
                open_requests = {}
                for i, replies in round_of.items():
                    _advance(talks[i], replies, i, open_requests=open_requests, results=results)
            return [results[i] for i in range(len(batch))]

    def close(self) -> None:
        """Stop the engine and its processes."""
        engine = getattr(self._llm, "llm_engine", None)
        core = getattr(engine, "engine_core", None)
        if core is not None:
            core.shutdown()

    def _try_out(self) -> None:
        control = first_request(control_record(2), taxonomy=self._taxonomy, config=self._config)
        try:
            [trial] = self._chat([control])
        except StoppedError as error:
            trial = Failure("annotator_failed", str(error))
        if isinstance(trial, Failure):
            self.close()
            raise ConfigError(f"vLLM loaded {self._config.model} but cannot run a plain request: {trial.detail}")

    def _chat(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in order.

        vLLM fails a whole call for one bad prompt, so a failed call is halved; a request that fails alone is that
        record's failure.
        """
        try:
            outputs = self._llm.chat(
                [messages(request, picture=_picture_of(request)) for request in requests],
                sampling_params=[sampling_params(request) for request in requests],
                use_tqdm=False,
            )
        except Exception as error:  # whatever an engine of any version raises belongs to the record, unless it died
            if isinstance(error, self._dead):
                raise StoppedError(f"the vLLM engine died ({_line(error)}): run the same command again") from error
            if len(requests) == 1:
                return [Failure("annotator_failed", f"vLLM: {_line(error)}")]
            middle = len(requests) // 2
            return self._chat(requests[:middle]) + self._chat(requests[middle:])
        return [_reply(output) for output in outputs]


def engine_args(config: VlmConfig) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`."""
    engine, pictures = config.vllm, config.pictures
    arguments: dict[str, Any] = {
        "model": config.model,
        "revision": config.revision or None,
        "dtype": engine.dtype,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "max_model_len": engine.max_model_len,
        "enforce_eager": engine.enforce_eager,
        "trust_remote_code": False,
        "limit_mm_per_prompt": {"image": engine.max_images, "video": 0},
        "mm_processor_kwargs": {"size": {"shortest_edge": pictures.min_pixels, "longest_edge": pictures.max_pixels}},
        # Free white space lets a small model spend its whole budget on it; only the engine's configuration forbids it.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "max_logprobs": 20,
    }
    return arguments | engine.engine_args


def sampling_params(request: Request) -> Any:
    """The engine's `SamplingParams` of one request."""
    parameters = import_module("vllm.sampling_params")
    return parameters.SamplingParams(
        temperature=request.temperature,
        seed=request.seed if request.temperature > 0 else None,
        max_tokens=request.max_tokens,
        logprobs=request.top_logprobs or None,
        structured_outputs=parameters.StructuredOutputsParams(json=dict(request.schema)),
    )


def _picture_of(request: Request) -> Any:
    record = request.record

    def part(index: int) -> Message:
        picture, info = record.pixels[index], record.images[index]
        uuid = f"{info.sha256}-{picture.width}x{picture.height}"
        content: Mapping[str, Any] = {"type": "image_pil", "image_pil": picture, "uuid": uuid}
        return dict[str, JsonValue](content)

    return part


def _reply(output: Any) -> Reply:
    completion = output.outputs[0]
    prompt_tokens = len(output.prompt_token_ids or ())
    tokens = None
    if completion.logprobs:
        tokens = tuple(
            _token(token_id, places) for token_id, places in zip(completion.token_ids, completion.logprobs, strict=True)
        )
    return Reply(
        text=completion.text,
        finish=completion.finish_reason or "none",
        tokens=tokens,
        usage=(prompt_tokens, len(completion.token_ids)),
    )


def _token(token_id: int, places: Mapping[int, Any]) -> Token:
    spelled = {i: (place.decoded_token or "").encode("utf-8", "surrogatepass") for i, place in places.items()}
    return Token(spelled[token_id], tuple((spelled[i], place.logprob) for i, place in places.items()))


def _advance(
    talk: Dialogue,
    replies: Sequence[Answer],
    index: int,
    *,
    open_requests: dict[int, Sequence[Request]],
    results: dict[int, Labels | Failure],
) -> None:
    try:
        open_requests[index] = talk.send(replies)
    except StopIteration as end:
        results[index] = end.value


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
