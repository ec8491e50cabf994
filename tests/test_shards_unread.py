"""A stream without pictures: the same samples in the same order, from the indexes alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_shards import Rec, build, make_run, mixed
from tagmoe.schema import DataError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.index import INDEX, write_index
from tagmoe.shards.manifest import load_snapshot
from tagmoe.shards.retag import retag
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.unread import UnreadSamples


def records(count: int, prefix: str) -> list[Rec]:
    made = mixed(count, prefix=prefix)
    for number, rec in enumerate(made):
        rec.warnings = ["noop_pair", "low_resolution"][: number % 3]
        rec.probs = [0.5 + (number * 7 + i) % 50 / 101 for i in range(18)] if number % 4 else None
        rec.extra = {"licence": "CC0"}
        rec.instruction = f"make it {number} \u7ea2, please"
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unread")
    build(make_run(folder, records(70, "r"), name="alpha"), folder / "shards", splits={"val": 0.2})
    build(make_run(folder / "more", records(31, "s"), name="beta"), folder / "shards", splits={"val": 0.2})
    other = records(40, "r")
    for rec in other[::2]:
        rec.tags = {"edit": ["global editing", "style transfer"]}.get(rec.task, rec.tags)
    retag(folder / "shards", make_run(folder / "other", other, name="alpha"), name="v2")
    return folder / "shards"


@pytest.fixture(scope="module")
def tarless(whole, tmp_path_factory) -> Path:
    """The set with every tar removed."""
    copy = Path(shutil.copytree(whole, tmp_path_factory.mktemp("tarless") / "shards"))
    for tar in copy.glob("*.tar"):
        tar.unlink()
    return copy


@given(
    start=st.integers(0, 200),
    chosen=st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 7),
            "seed": st.integers(0, 99),
            "ragged": st.sampled_from(["keep", "drop"]),
            "shuffle": st.booleans(),
            "overlay": st.sampled_from([None, "v2"]),
            "split": st.sampled_from(["train", "val"]),
            "weights": st.sampled_from([{}, {"corpus:beta": 2.0}, {"tag:style transfer": 3.0, "task:edit": 0.5}]),
            "block_samples": st.just(4),
            "window_blocks": st.just(2),
        }
    ),
)
@settings(max_examples=40, deadline=None)
def test_without_tars_every_batch_is_the_one_with_pictures(whole, tarless, start, chosen):
    if chosen["split"] == "val":
        chosen["ragged"] = "keep"
    config = StreamConfig.model_validate(chosen)
    read = ShardStream(whole, config=config)
    unread = ShardStream(tarless, config=config, pictures=False)
    assert unread.resume(read.state(start)) == start
    for position in range(start, start + 5):
        batch = read.batch(position, world=3, rank=position % 3)
        bare = tuple(replace(sample, images={}, extra={}) for sample in batch.samples)
        assert unread.batch(position, world=3, rank=position % 3) == replace(batch, samples=bare)


class Refusing:
    """Refuses some uids; sent to other processes with the stream."""

    def __init__(self, uids: set[str]) -> None:
        self.uids = uids

    def __call__(self, sample) -> str:
        return "not wanted" if sample.uid in self.uids else ""


def test_a_refused_sample_is_replaced_as_one_with_bad_bytes_is(whole, tarless, tmp_path):
    """The same replacement, whether the tar's bytes are bad or somebody refuses the sample."""
    hurt = Path(shutil.copytree(whole, tmp_path / "hurt"))
    tar = min(hurt.glob("edit-*-train-*.tar"))
    data = bytearray(tar.read_bytes())
    data[700] ^= 1  # in the first KEY.json
    tar.write_bytes(data)
    config = StreamConfig(batch_size=4)
    read = ShardStream(hurt, config=config)
    stop = 2 * read.batches_per_epoch
    wanted = [[s.uid for s in batch.samples] for batch in read.batches(stop=stop)]
    bad = {fault.key for fault in read.faults.faults}
    assert len(bad) == 1
    unread = ShardStream(tarless, config=config, pictures=False, refuse=Refusing(bad))
    batches = list(unread.batches(stop=stop, prefetch=0))
    assert [[s.uid for s in batch.samples] for batch in batches] == wanted
    assert [(f.key, f.reason) for batch in batches for f in batch.faults] == [(*bad, "not wanted")] * 2
    assert unread.faults.faults == [fault for batch in batches for fault in batch.faults]
    limited = ShardStream(tarless, config=config, pictures=False, refuse=Refusing(bad), max_corrupt=0)
    with pytest.raises(DataError, match=r"1 samples could not be read \(limit 0\).*not wanted"):
        list(limited.batches(stop=stop, prefetch=0))


def test_a_pickled_stream_keeps_both_choices(tarless):
    import pickle

    first = ShardStream(tarless, pictures=False).batch(0)
    refused = {sample.uid for sample in first.samples[:1]}
    copy = pickle.loads(pickle.dumps(ShardStream(tarless, pictures=False, refuse=Refusing(refused))))
    assert {fault.key for fault in copy.batch(0).faults} == refused


@pytest.mark.parametrize("change", ["flip", "cut", "swap", "remove"])
def test_an_index_that_is_not_the_manifests_is_named(tarless, tmp_path, change):
    """index.map is whole, so only the stream without pictures needs the index, and trusts no other."""
    copy = Path(shutil.copytree(tarless, tmp_path / "shards"))
    first, second, *_ = sorted((copy / "index").glob("edit-*-train-*.parquet"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "flip": lambda: first.write_bytes(data),
        "cut": lambda: first.write_bytes(data[:-100]),
        "swap": lambda: shutil.copy(second, first),
        "remove": first.unlink,
    }[change]()
    stream = ShardStream(copy, pictures=False)
    named = "is missing" if change == "remove" else "is not the index that snapshot 2 names"
    with pytest.raises(DataError, match=named):
        list(stream.batches(stop=stream.batches_per_epoch))


def test_rows_of_large_indexes_are_found_with_little_held(whole, tmp_path):
    """Three row groups of which one fits: every row, in an order that visits them in turn."""
    base = load_snapshot(whole)
    count = 9000
    row = {field.name: [] for field in INDEX}
    row |= {
        "key": "",
        "id": "",
        "corpus": "c",
        "row": 0,
        "task": "edit",
        "group": "",
        "width": 1,
        "height": 1,
        "crc32": 0,
    }
    row |= {"scope": "local editing", "confidence": 0.75, "bucket": "64x48", "size": 512}
    rows = [
        {**row, "key": f"{n:032x}", "id": f"n{n}", "instruction": f"do {n}", "offset": n * 1024} for n in range(count)
    ]
    write_index(tmp_path / "a.parquet", rows, tar_sha256="0" * 64)
    import hashlib

    digest = hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()
    shard = base.shards[0].model_copy(update={"samples": count, "index_sha256": digest})
    snapshot = base.model_copy(update={"shards": (shard,)})
    found = UnreadSamples(lambda relative: tmp_path / "a.parquet", snapshot, held_bytes=1)
    for n in [0, 4095, 4096, 8191, 8192, 8999, 5, 8000, 1]:
        sample = found.sample(0, offset=n * 1024, tag_ids=(1, 2))
        assert (sample.id, sample.instruction, sample.bucket, sample.tag_ids) == (f"n{n}", f"do {n}", (64, 48), (1, 2))
        assert len(found._tables) == 1
    for offset in (1, 1023, count * 1024):
        with pytest.raises(DataError, match=f"no sample at byte {offset}"):
            found.sample(0, offset=offset, tag_ids=())
