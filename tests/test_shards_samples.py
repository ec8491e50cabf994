"""Pictures that go straight from their files into the tar, and all that must take the careful way instead."""

from __future__ import annotations

import os
from concurrent.futures import Future

import pytest
from support_shards import Rec, build, make_run, mixed, picture
from tagmoe.schema.runs import Run
from tagmoe.shards.corpus import open_corpus
from tagmoe.shards.pool import _taken_back
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.verify import verify_set


def pictures_of(shards) -> dict[str, dict[str, bytes]]:
    stream = ShardStream(shards)
    batches = stream.batches(stop=stream.batches_per_epoch)
    return {sample.id: sample.images for batch in batches for sample in batch.samples}


def edits(count: int) -> list[Rec]:
    return [Rec(f"r{n}", "edit", {role: picture(f"{n}{role}") for role in ("source", "target")}) for n in range(count)]


def test_links_inside_the_corpus_are_stored_as_what_they_lead_to(tmp_path):
    records = edits(4)
    run = make_run(tmp_path, records)
    images = tmp_path / "corpus" / "images"
    (images / "r1-source.jpeg").rename(images / "elsewhere.jpeg")
    (images / "r1-source.jpeg").symlink_to("elsewhere.jpeg")
    assert build(run, tmp_path / "shards").rejected == {}
    assert pictures_of(tmp_path / "shards") == {record.id: record.pictures for record in records}


def test_what_is_no_longer_the_picture_is_named(tmp_path):
    run = make_run(tmp_path, edits(9))
    images = tmp_path / "corpus" / "images"
    (images / "r0-target.jpeg").write_bytes(picture("another"))
    (images / "r1-target.jpeg").unlink()
    (images / "r2-source.jpeg").unlink()
    (images / "r2-source.jpeg").symlink_to("/etc/hostname")
    (images / "r3-source.jpeg").unlink()
    (images / "r3-source.jpeg").mkdir()
    (images / "r4-source.jpeg").unlink()
    os.mkfifo(images / "r4-source.jpeg")
    (images / "r5-source.jpeg").write_bytes(b"")
    result = build(run, tmp_path / "shards")
    assert result.rejected == {"image_changed": 2, "image_missing": 4}
    assert set(pictures_of(tmp_path / "shards")) == {"r6", "r7", "r8"}
    assert verify_set(tmp_path / "shards", quiet=True).ok


def test_pictures_larger_than_a_block_are_stored_whole(tmp_path):
    noise = Rec("big", "edit", {"source": big_picture(), "target": picture("small")})
    records = [*edits(2), noise, *[Rec("last", "edit", {role: picture(f"l{role}") for role in ("source", "target")})]]
    assert len(noise.pictures["source"]) > 5 << 20
    build(make_run(tmp_path, records), tmp_path / "shards")
    assert pictures_of(tmp_path / "shards") == {record.id: record.pictures for record in records}


def big_picture() -> bytes:
    import io

    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG", compress_level=0)
    return out.getvalue()


def test_reading_into_memory_gives_no_reasons(tmp_path):
    run = make_run(tmp_path, edits(1))
    read = open_corpus(Run.open(run.root).info.corpus).file_reader()
    assert read is not None
    data = (tmp_path / "corpus" / "images" / "r0-source.jpeg").read_bytes()
    room = memoryview(bytearray(len(data) + 1))
    assert read("images/r0-source.jpeg", room) == len(data)
    assert room[:-1] == data
    paths = ["images/gone.jpeg", "images", "../corpus/images/r0-source.jpeg", "/etc/hostname", "", "a\0b"]
    assert [read(path, room) for path in paths] == [-1] * len(paths)
    assert read("images/r0-source.jpeg", room[:-1]) == -1, "whether it fits exactly cannot be told from its start"


def test_shards_are_taken_back_from_the_end_and_a_failure_is_raised_at_once():
    futures: dict[Future[None], str] = {Future(): name for name in "abcd"}
    first, second = list(futures)[:2]
    assert first.set_running_or_notify_cancel()
    taken = _taken_back(futures)
    assert next(taken) == "d"
    first.set_result(None)
    assert second.set_running_or_notify_cancel()
    assert next(taken) == "c"
    second.set_exception(OSError("the disk is gone"))
    with pytest.raises(OSError, match="the disk is gone"):
        next(taken)
    assert list(futures.values()) == ["a", "b"]


def test_all_shards_that_were_not_begun_are_taken_back():
    futures: dict[Future[None], str] = {Future(): str(n) for n in range(5000)}
    assert list(_taken_back(futures)) == [str(n) for n in reversed(range(5000))]
    assert not futures


def test_pictures_of_every_task_arrive(tmp_path):
    records = mixed(12, kinds=("JPEG", "PNG"))
    build(make_run(tmp_path, records), tmp_path / "shards")
    assert pictures_of(tmp_path / "shards") == {record.id: record.pictures for record in records}
