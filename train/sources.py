"""What a configuration means by data: the encoder, the source, and the shuffled control."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..schema import ConfigError
from ..schema.configs.train import TrainConfig
from .data import BatchSource, Encoder, Sample
from .data.patch import PatchEncoder
from .data.shards import ShardSource
from .seeding import key

POOL = 512


def open_source(config: TrainConfig, *, shards: str | None, split: str) -> BatchSource:
    """The samples of `split`.

    Raises:
        ConfigError: no shards given, a split they do not have, or tensors made with other settings.
        DataError: tensors that are not finished or damaged.
    """
    if shards is None:
        raise ConfigError("train needs shards: tagmoe train SHARDS --out RUN")
    if config.data.encoder != "precomputed":
        return ShardSource(shards, config=config, split=split)
    from .precompute.encoder import stored_tensors

    return ShardSource(shards, config=config, split=split, stored=stored_tensors(shards, config=config))


def make_encoder(config: TrainConfig, *, shards: str | None) -> Encoder:
    """The frozen encoders that `data.encoder` names."""
    if config.data.encoder == "patch":
        return PatchEncoder(
            area=config.data.area,
            text_dim=config.model.joint_attention_dim,
            max_text_tokens=config.data.max_text_tokens,
            max_references=config.data.max_references,
        )
    from .precompute.encoder import make_encoder as make_real_encoder

    return make_real_encoder(config, shards=shards)


def shuffled_tags(source: BatchSource, *, seed: int) -> Callable[[Sample], Sequence[int]]:
    """The control: every sample gets, for good, the tags of another one drawn by its uid."""
    pool: list[Sequence[int]] = []
    number = 0
    while len(pool) < POOL and number < POOL:
        pool.extend(sample.tag_ids for sample in source.batch(number)[1])
        number += 1
    return lambda sample: pool[key(seed, sample.uid, "shuffled") % len(pool)]
