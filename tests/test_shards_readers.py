"""The tars read unchanged by plain webdataset and by Hugging Face datasets, and by our own stream."""

from __future__ import annotations

import gc
import io
import json
import tarfile
import warnings
from collections import Counter

import pytest
from PIL import Image
from support_shards import build, make_run, mixed
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.stream import ShardStream


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    records = mixed(36, kinds=("JPEG", "PNG"))
    run = make_run(folder, records)
    result = build(run, folder / "shards", splits={"val": 0.2})
    return folder / "shards", {rec.id: rec for rec in records}, result.snapshot


def test_plain_tarfile_sees_only_plain_uniform_members(built):
    root, records, snapshot = built
    seen = Counter()
    for shard in snapshot.shards:
        with tarfile.open(root / f"{shard.name}.tar") as tar:
            members = tar.getmembers()
        assert all(member.isreg() and member.mtime == 0 and member.mode == 0o444 for member in members)
        kinds = {}
        for member in members:
            key, _, suffix = member.name.partition(".")
            kinds.setdefault(key, []).append(suffix)
        assert len(set(map(tuple, kinds.values()))) == 1
        seen[shard.task] += len(kinds)
    assert seen == Counter(rec.task for rec in records.values())


def test_webdataset_reads_every_sample(built):
    import webdataset as wds

    root, records, snapshot = built
    urls = [str(root / f"{shard.name}.tar") for shard in snapshot.shards]
    seen = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        samples = list(wds.WebDataset(urls, shardshuffle=False))
        gc.collect()
    for sample in samples:
        record = json.loads(sample["json"])
        assert sample["__key__"] == record["uid"]
        stored = {suffix.split(".")[0]: data for suffix, data in sample.items() if "." in suffix}
        assert stored == records[record["id"]].pictures
        seen[record["id"]] = record
    assert seen.keys() == records.keys()
    assert seen["r0"]["instruction"] == "instruction 0, with a comma"


def test_hugging_face_reads_tars_by_data_files(built, tmp_path):
    from datasets import load_dataset

    root, records, snapshot = built
    shards = [s for s in snapshot.shards if s.task == "edit" and s.signature == "src-jpg+tgt-jpg"]
    files = {"train": [str(root / f"{s.name}.tar") for s in shards]}
    table = load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(table) == sum(s.samples for s in shards)
    for row in table:
        record = row["json"]
        assert row["source.jpg"].size == Image.open(io.BytesIO(records[record["id"]].pictures["source"])).size
        assert record["tag_ids"] == [0, 7, 14]
        assert json.loads(record["extra"]) == {}


def test_hugging_face_reads_the_folder_through_its_card(built, tmp_path):
    from datasets import get_dataset_config_names, load_dataset

    root, _, snapshot = built
    names = get_dataset_config_names(str(root))
    assert sorted(names) == sorted({f"{s.task}-{s.signature}" for s in snapshot.shards})
    total = 0
    for name in names:
        for split, table in load_dataset(str(root), name, cache_dir=str(tmp_path)).items():
            wanted = sum(s.samples for s in snapshot.shards if f"{s.task}-{s.signature}" == name and s.split == split)
            assert len(table) == wanted
            assert table[0]["json"]["task"] == name.split("-")[0]
            total += len(table)
    assert total == snapshot.samples


def test_stream_gives_every_sample_once(built):
    root, records, snapshot = built
    seen = []
    for split in snapshot.splits:
        stream = ShardStream(root, config=StreamConfig(batch_size=4, split=split))
        for batch in stream.batches(stop=stream.batches_per_epoch):
            assert {(s.task, s.signature, s.bucket) for s in batch.samples} == {
                (batch.task, batch.signature, batch.bucket)
            }
            for sample in batch.samples:
                assert sample.images == records[sample.id].pictures
                assert sample.split == split
                seen.append(sample.id)
    assert sorted(seen) == sorted(records)
