"""Megatron-Energon's reading path; a module of its own because its classes exist only where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron.energon import (
    Cooker,
    CrudeSample,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_train_dataset,
    stateless,
)


@edataclass
class Stored(Sample):
    """One sample, undecoded."""

    text: bytes
    pictures: list[bytes]


@stateless
def cook(sample: CrudeSample) -> Stored:
    """The members as they are stored."""
    pictures = [sample["source.jpg"], sample["target.jpg"]]
    return Stored(**basic_sample_keys(sample), text=sample["json"], pictures=pictures)


class Encoder(DefaultTaskEncoder):
    """Nothing is decoded; no batches are made."""

    decoder = None
    cookers = [Cooker(cook)]


def epoch(prepared: Path, *, buffer: int) -> Iterator[tuple[bytes, list[bytes]]]:
    """One shuffled pass in this process."""
    dataset = get_train_dataset(
        prepared,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=buffer,
        max_samples_per_sequence=100,
        task_encoder=Encoder(),
        repeat=False,
    )
    for sample in get_loader(dataset):
        yield sample.text, sample.pictures
