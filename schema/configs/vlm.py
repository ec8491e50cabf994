"""Configuration of the vision-language annotators: the model, its engine or endpoints, sampling and confidence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from ..config import Config

Engine = Literal["vllm", "server"]


class Sampling(Config):
    """How a reply is drawn and read."""

    votes: int = Field(default=1, ge=1, le=64)
    """Replies asked for each record. 1: the likeliest reply and its log-probabilities; more: shares of the votes."""
    vote_temperature: float = Field(default=0.7, gt=0, le=2)
    """Temperature of the votes; a single reply is always drawn at temperature 0."""
    seed: int = Field(default=0, ge=-1, lt=1 << 31)
    """Seed of the first vote; vote number k uses `seed + k`. -1 sends none: vLLM's CPU engine dies of a seed."""
    max_tokens: int = Field(default=320, ge=32, le=8192)
    """Longest reply; one that reaches it is rejected as `reply_too_long`."""
    top_logprobs: int = Field(default=5, ge=0, le=20)
    """Alternatives asked for at each token; 0 turns probabilities off."""
    reasks: int = Field(default=1, ge=0, le=3)
    """How often a reply that breaks a rule is asked for again, naming the violation."""
    swap_test: bool = False
    """Ask in both orders whether the instruction was carried out; a reversed pair becomes a warning."""


class Temperatures(Config):
    """Temperature scaling of probabilities: logits are divided by these; 1 leaves them alone."""

    name: str = Field(default="none", pattern=r"^[A-Za-z0-9@._:-]{1,64}$")
    """Recorded as `calibration` of every annotation; `none` while all temperatures are 1."""
    scope: float = Field(default=1.0, gt=0, le=100)
    types: float = Field(default=1.0, gt=0, le=100)
    preservation: float = Field(default=1.0, gt=0, le=100)

    @model_validator(mode="after")
    def _has_a_name(self) -> Temperatures:
        if (self.name == "none") != (self.scope == self.types == self.preservation == 1.0):
            raise ValueError(f"calibration.name = {self.name!r} must be `none` exactly when all temperatures are 1")
        return self


class Pictures(Config):
    """Bounds of the pictures a model is shown."""

    max_pixels: int = Field(default=1024 * 28 * 28, ge=32 * 32)
    """Larger pictures are scaled down to this many pixels (default 802,816: about 1,024 visual tokens)."""
    min_pixels: int = Field(default=4 * 28 * 28, ge=28 * 28)
    """Smaller pictures are scaled up by the model's own processor (engine `vllm` only)."""
    format: Literal["jpeg", "png", "webp"] = "jpeg"
    """How pictures travel to endpoints; `jpeg` is quality 95 without chroma subsampling, the others lossless."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Pictures:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"pictures.min_pixels ({self.min_pixels}) exceeds pictures.max_pixels ({self.max_pixels})")
        return self


class Server(Config):
    """Endpoints that speak OpenAI's chat completions, and how patient to be with them."""

    endpoints: tuple[str, ...] = ("http://localhost:8000/v1",)
    """Base URLs, each ending in the API's version; all serve the same model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; unset means no key. Keys never enter a configuration."""
    concurrency: int = Field(default=32, ge=1, le=1000)
    """Requests under way at each endpoint."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """A whole request, body included: a slow drip counts as a hang."""
    connect_seconds: float = Field(default=10.0, gt=0)
    attempts: int = Field(default=8, ge=1, le=100)
    """Tries of one request that meets faults while its endpoint answers a control request; then the record fails."""
    backoff_seconds: float = Field(default=0.5, gt=0)
    """First pause after a fault; it doubles up to `backoff_max_seconds`, each drawn between half and whole."""
    backoff_max_seconds: float = Field(default=30.0, gt=0)
    failures_to_leave: int = Field(default=5, ge=1)
    """Faults in a row after which an endpoint leaves the pool."""
    probe_seconds: float = Field(default=10.0, gt=0)
    """How often an endpoint outside the pool is tried with a control request; it returns when that succeeds."""
    patience_seconds: float = Field(default=600.0, gt=0)
    """The run stops (and can go on later) when no endpoint answered anything for this long."""
    constraint: Literal["response_format", "structured_outputs", "none"] = "response_format"
    """How the reply schema is sent: OpenAI's field, vLLM's own, or not at all (replies are checked either way)."""
    control_pictures: int = Field(default=2, ge=0, le=2)
    """Small pictures in the control request that tells a dead endpoint from a bad record; 0 for a text-only model."""
    also_answers_as: tuple[str, ...] = ()
    """Further model names that a response may carry, such as an alias's dated name."""
    extra_body: dict[str, JsonValue] = {}
    """Further fields of every request body."""

    @field_validator("endpoints")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one endpoint is needed, such as http://localhost:8000/v1")
        for url in value:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"endpoint {url!r} must start with http:// or https://")
        if len(set(value)) != len(value):
            raise ValueError("an endpoint is listed twice")
        return tuple(url.rstrip("/") for url in value)


class InProcess(Config):
    """vLLM inside this process."""

    chunk: int = Field(default=128, ge=1, le=4096)
    """Records handed to the engine at once; bounds the decoded pictures in memory."""
    dtype: str = "auto"
    tensor_parallel_size: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    max_model_len: int = Field(default=8192, ge=512)
    max_images: int = Field(default=4, ge=1, le=101)
    """Pictures one prompt may hold."""
    enforce_eager: bool = False
    engine_args: dict[str, JsonValue] = {}
    """Further keyword arguments of `vllm.LLM`; they win over the fields above. `trust_remote_code` is refused."""

    @field_validator("engine_args")
    @classmethod
    def _runs_no_code_of_a_model(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if "trust_remote_code" in value:
            raise ValueError(
                "trust_remote_code would run code that comes with a model: use a model vLLM supports itself"
            )
        return value


class VlmConfig(Config):
    """A vision-language annotator."""

    model: str = Field(default="Qwen/Qwen2.5-VL-7B-Instruct", min_length=1)
    """Name at the endpoint, or folder or hub name for the engine in process."""
    revision: str = ""
    """Revision of the model's weights; recorded with every annotation (and loaded by engine `vllm`)."""
    sampling: Sampling = Sampling()
    calibration: Temperatures = Temperatures()
    pictures: Pictures = Pictures()
    server: Server = Server()
    vllm: InProcess = InProcess()

    @model_validator(mode="after")
    def _votes_carry_no_temperatures(self) -> VlmConfig:
        if self.sampling.votes > 1 and self.calibration.name != "none":
            raise ValueError("calibration scales log-probabilities: it cannot be used with sampling.votes > 1")
        return self
