"""Configuration of `tagmoe train`: what is built, what it learns from, and how the engine runs. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..config import Config

Kernel = Literal["auto", "reference", "looped", "grouped", "megablocks"]
Layout = Literal["native", "released"]
Upcycle = Literal["none", "copy", "scaled", "exact"]


class MoEConfig(Config):
    """The image-stream FFN of the last `layers` blocks."""

    ffn: Literal["moe", "dense", "wide"] = "moe"
    """`moe` experts; `dense` keeps the FFN (equal active size); `wide` is one FFN `experts` times as wide (equal total)."""
    layers: int = Field(default=10, ge=0)
    experts: int = Field(default=4, ge=2)
    top_k: int = Field(default=1, ge=1)
    layout: Layout = "native"
    """`native` has inner biases and can hold an exact copy of the FFN; `released` is what the published weights hold."""
    kernel: Kernel = "auto"
    """`auto`: `looped` on CPUs, `grouped` on GPUs (`looped` too may be fast there with few large experts)."""
    router: Literal["linear", "mlp2"] = "linear"
    router_input: Literal["modulated", "unmodulated", "unmodulated+timestep"] = "modulated"
    gate: Literal["raw", "straight_through"] = "raw"
    """`raw` multiplies by the probability; `straight_through` by 1, with the gradient of log probability."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Router input times uniform(1 - jitter, 1 + jitter) while training."""
    selection_bias_rate: float = Field(default=0.0, ge=0)
    """Step of the auxiliary-loss-free bias that is added to the scores for selection only; 0 is off."""
    upcycle: Upcycle = "none"
    """How experts start from the dense FFN: `exact` needs `native` and `straight_through`."""

    @model_validator(mode="after")
    def _fits(self) -> MoEConfig:
        if self.top_k > self.experts:
            raise ValueError(f"moe.top_k ({self.top_k}) exceeds moe.experts ({self.experts}): lower top_k")
        if self.upcycle == "exact" and (self.layout != "native" or self.gate != "straight_through"):
            raise ValueError(
                f"moe.upcycle=exact needs moe.layout=native and moe.gate=straight_through, got {self.layout} and "
                f"{self.gate}: set both, or use upcycle=scaled"
            )
        if self.upcycle == "exact" and self.top_k != 1:
            raise ValueError(f"moe.upcycle=exact needs moe.top_k=1, got {self.top_k}: use upcycle=scaled")
        if self.kernel == "megablocks" and self.layout != "released":
            raise ValueError("moe.kernel=megablocks has no inner biases: set moe.layout=released or kernel=grouped")
        return self


class ModelConfig(Config):
    """Shape of the Qwen-Image transformer."""

    num_layers: int = Field(default=60, ge=1)
    attention_head_dim: int = Field(default=128, ge=4)
    num_attention_heads: int = Field(default=24, ge=1)
    joint_attention_dim: int = Field(default=3584, ge=8)
    in_channels: int = Field(default=64, ge=4)
    out_channels: int = Field(default=16, ge=1)
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
    pretrained: str | None = None
    """Folder of a diffusers transformer (dense Qwen-Image or an export of ours) to start from."""

    @model_validator(mode="after")
    def _rope_fills_the_head(self) -> ModelConfig:
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"model.axes_dims_rope {self.axes_dims_rope} sum to {sum(self.axes_dims_rope)}, expected "
                f"model.attention_head_dim ({self.attention_head_dim})"
            )
        if any(axis % 2 for axis in self.axes_dims_rope):
            raise ValueError(f"model.axes_dims_rope {self.axes_dims_rope}: every axis must be even")
        return self


class AlignmentConfig(Config):
    """The loss that ties the aggregated routing signature to the sample's tags."""

    weight: float = Field(default=1.0, ge=0)
    """0 is the control `off`; the loss is still measured."""
    control: Literal["none", "shuffled", "no_text"] = "none"
    """`shuffled` permutes tags between samples; `no_text` removes the instruction, so tokens carry less of the task."""
    embedding: Literal["learnable", "orthogonal", "stop_gradient"] = "learnable"
    signature: Literal["mean", "per_layer"] = "mean"
    objective: Literal["cosine", "contrastive"] = "cosine"
    temperature: float = Field(default=0.1, gt=0)
    """Of the contrastive objective."""
    gradient: Literal["all", "router"] = "all"
    """`router` stops the alignment gradient at the router's input."""
    tokens: Literal["target", "image"] = "target"
    """Tokens averaged into the signature: target only, or condition tokens too (the released code)."""
    dim: int = Field(default=512, ge=4)
    hidden: int = Field(default=256, ge=4)


class LossConfig(Config):
    """Weights of the router's auxiliary losses."""

    load_balance: float = Field(default=0.01, ge=0)
    load_balance_scope: Literal["global", "micro"] = "global"
    z: float = Field(default=0.0, ge=0)


class FlowConfig(Config):
    """Distribution of the noise level sigma."""

    distribution: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    shift: Literal["none", "dynamic"] = "dynamic"
    """`dynamic` is Qwen-Image's: mu grows with the number of target tokens."""


class DataConfig(Config):
    """From shards to micro-batches."""

    split: str = "train"
    val_split: str = "val"
    snapshot: int | None = Field(default=None, ge=1)
    """Of the shards; None begins with the newest and keeps to it when the run goes on after records were appended."""
    tags: str | None = None
    """Name of a tag overlay; the tags of the shards otherwise."""
    taxonomy: str = "tagmoe-18@1"
    encoder: Literal["patch", "precomputed", "online"] = "patch"
    """`patch`: frozen toy encoders, no download. `precomputed`: tensors of `tagmoe precompute`. `online`: encoders."""
    encoder_path: str | None = None
    """Folder of a Qwen-Image pipeline (vae, text_encoder, tokenizer) for `online`."""
    tensors: str = "qwen-image"
    """Name of the precomputed tensors."""
    area: int = Field(default=1024 * 1024, ge=256)
    """Pixels of a bucket, height times width."""
    max_references: int = Field(default=3, ge=0)
    max_text_tokens: int = Field(default=1024, ge=1)
    instruction_dropout: float = Field(default=0.1, ge=0, lt=1)
    cache_mb: int = Field(default=256, ge=0)
    """Encoded samples kept in memory (patch encoder)."""
    prefetch: int = Field(default=2, ge=0)


class OptimizerConfig(Config):
    """AdamW; no weight decay on routers, embeddings, norms and biases."""

    lr: float = Field(default=1e-4, gt=0)
    router_lr_scale: float = Field(default=1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: int = Field(default=0, ge=0)
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)


class LoraConfig(Config):
    """Adapters on the attention of every block; the experts stay full."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=16.0, gt=0)


class EngineConfig(Config):
    """How the same model runs on this hardware."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Of parameters and activations in forward and backward; master weights are float32 (float64 for checks)."""
    shard_group: int | None = Field(default=None, ge=1)
    """HSDP: ranks that share one copy of the weights; default all."""
    activation_checkpointing: bool = False
    accumulate: Literal["sharded", "local"] = "sharded"
    """`sharded` reduces gradients after every micro-batch; `local` once a step, but keeps them whole on each rank."""
    compile: bool = False
    train: Literal["all", "moe", "lora"] = "all"
    """`moe` freezes everything but experts, routers and alignment; `lora` adds adapters elsewhere."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)
    max_loss: float = Field(default=1e4, gt=0)
    """A larger or non-finite loss stops the run and names the records."""


class LogConfig(Config):
    """What is written, how often."""

    every: int = Field(default=10, ge=1)
    routing_every: int = Field(default=0, ge=0)
    """Steps between routing statistics on the held-out samples; 0 only at the end."""
    routing_samples: int = Field(default=256, ge=8)
    samples: int = Field(default=0, ge=0)
    """Fixed samples drawn as pictures with every routing report; needs an encoder that can decode."""
    sample_steps: int = Field(default=30, ge=1)
    guidance: float = Field(default=4.0, ge=1)
    peak_tflops: float | None = Field(default=None, gt=0)
    """Of one device in engine.dtype, such as 989 for an H100; MFU is logged against it."""
    tensorboard: bool = True
    wandb_project: str | None = None
    mlflow_experiment: str | None = None


class TrainConfig(Config):
    """Everything `tagmoe train` does, resolved into RUN/config.json."""

    preset: str = "qwen-image"
    seed: int = Field(default=0, ge=0, lt=2**31)
    steps: int = Field(default=10_000, ge=1)
    micro_batch: int = Field(default=1, ge=1)
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches of one rank in one step; the global batch is micro_batch * accumulation * ranks."""
    model: ModelConfig = ModelConfig()
    moe: MoEConfig = MoEConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    loss: LossConfig = LossConfig()
    flow: FlowConfig = FlowConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()
    engine: EngineConfig = EngineConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.moe.ffn != "dense" and not 0 < self.moe.layers <= self.model.num_layers:
            raise ValueError(
                f"moe.layers ({self.moe.layers}) must be 1 to model.num_layers ({self.model.num_layers}); for a "
                "dense model set moe.ffn=dense"
            )
        if self.moe.ffn != "moe" and self.engine.train == "moe":
            raise ValueError(f"engine.train=moe trains experts, but moe.ffn={self.moe.ffn} has none: use train=all")
        if self.model.in_channels != 4 * self.model.out_channels:
            raise ValueError(
                f"model.in_channels ({self.model.in_channels}) must be 4 * model.out_channels "
                f"({self.model.out_channels}): latents are packed 2 x 2"
            )
        if self.engine.dtype == "float64" and self.moe.kernel not in ("auto", "reference", "looped"):
            raise ValueError(f"engine.dtype=float64 needs moe.kernel=looped or reference, got {self.moe.kernel}")
        if self.data.encoder == "patch" and self.model.out_channels != 16:
            raise ValueError(
                f"data.encoder=patch makes 16 latent channels, but model.out_channels is {self.model.out_channels}"
            )
        return self


TINY: dict[str, object] = {
    "preset": "tiny",
    "steps": 500,
    "micro_batch": 8,
    "accumulation": 4,
    "model": {
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": 64,
        "in_channels": 64,
        "out_channels": 16,
        "axes_dims_rope": [4, 6, 6],
    },
    "moe": {"layers": 2},
    "alignment": {"dim": 64, "hidden": 64, "embedding": "orthogonal"},
    "flow": {"shift": "none"},
    "data": {"area": 64 * 64, "max_text_tokens": 48},
    "optimizer": {"lr": 2e-3, "warmup": 20, "schedule": "cosine", "min_lr_ratio": 0.1},
    "engine": {"ema": 0.99, "checkpoint_every": 200},
    "log": {"every": 10, "routing_every": 250, "samples": 6, "sample_steps": 12, "guidance": 2.0},
}

QWEN_IMAGE: dict[str, object] = {
    "preset": "qwen-image",
    "micro_batch": 1,
    "accumulation": 4,
    "moe": {"layout": "native", "gate": "straight_through", "upcycle": "exact", "router_input": "unmodulated+timestep"},
    "data": {"encoder": "precomputed"},
    "optimizer": {"lr": 1e-5, "warmup": 500},
    "engine": {"dtype": "bfloat16", "activation_checkpointing": True, "ema": 0.9999},
    "log": {"routing_every": 500},
}


def _variant(base: dict[str, object], name: str, moe: dict[str, object], engine: dict[str, object] | None = None):
    old_moe, old_engine = base.get("moe", {}), base.get("engine", {})
    assert isinstance(old_moe, dict)
    assert isinstance(old_engine, dict)
    return {**base, "preset": name, "moe": {**old_moe, **moe}, "engine": {**old_engine, **(engine or {})}}


_RELEASED: dict[str, object] = {
    "layout": "released",
    "gate": "raw",
    "upcycle": "scaled",
    "router": "linear",
    "router_input": "modulated",
}

PRESETS: dict[str, dict[str, object]] = {
    "tiny": TINY,
    "tiny-dense": _variant(TINY, "tiny-dense", {"ffn": "dense"}),
    "tiny-wide": _variant(TINY, "tiny-wide", {"ffn": "wide"}),
    "qwen-image": QWEN_IMAGE,
    "qwen-image-released": _variant(QWEN_IMAGE, "qwen-image-released", _RELEASED),
    "qwen-image-experts": _variant(QWEN_IMAGE, "qwen-image-experts", {}, {"train": "moe"}),
    "qwen-image-dense": _variant(QWEN_IMAGE, "qwen-image-dense", {"ffn": "dense", "upcycle": "none"}),
    "qwen-image-wide": _variant(QWEN_IMAGE, "qwen-image-wide", {"ffn": "wide", "upcycle": "none"}),
}
"""`-dense` has equal active size, `-wide` equal total size; `-released` trains what the released code can load."""
