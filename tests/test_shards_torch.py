from __future__ import annotations

import pytest
from support_shards import build, make_run, mixed
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.torch_adapter import make_loader

# The machine that runs the tests may have fewer cores than a test wants workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> ShardStream:
    folder = tmp_path_factory.mktemp("torch")
    build(make_run(folder, mixed(50)), folder / "shards", shard_samples=20)
    return ShardStream(folder / "shards", config=StreamConfig(batch_size=4))


def uids(batches) -> list[list[str]]:
    return [[sample.uid for sample in batch.samples] for batch in batches]


@pytest.mark.parametrize(("workers", "context"), [(0, "spawn"), (2, "spawn"), (3, "fork")])
def test_loader_workers_keep_the_order(stream, workers, context):
    stop = stream.batches_per_epoch
    loaded = make_loader(stream, stop=stop, workers=workers, context=context)
    assert uids(loaded) == uids(stream.batches(stop=stop))


def test_two_ranks_share_an_epoch_and_resume_in_another_world(stream):
    stop = stream.batches_per_epoch
    seen = []
    for rank in range(2):
        for batch, _ in zip(make_loader(stream, rank=rank, world=2, stop=stop), range(2), strict=False):
            seen.append(batch)
    start = stream.resume(stream.state(seen[-1].next_start))
    assert start == 4
    seen += list(make_loader(stream, rank=0, world=1, start=start, stop=stop))
    assert sorted(u for batch in uids(seen) for u in batch) == sorted(
        u for batch in uids(stream.batches(stop=stop)) for u in batch
    )
