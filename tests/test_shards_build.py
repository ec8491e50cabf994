"""build-shards: every record in a shard or a named reject; appending changes no old shard."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from support_shards import Rec, build, files_of, make_run, mixed, picture
from tagmoe.schema import ConfigError, DataError
from tagmoe.schema.arrow import read_rejects
from tagmoe.schema.configs.shards import BuildConfig, StreamConfig
from tagmoe.schema.runs import Run
from tagmoe.shards.build import build_shards
from tagmoe.shards.index import index_rows
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.verify import verify_set


def rejects_of(root: Path, number: int = 1) -> dict[str, str]:
    return {reject.id: reject.reason for reject in read_rejects(root / "rejects" / f"{number:06d}.parquet")}


def rows_of(root: Path, result) -> dict[str, dict]:
    rows = {}
    for shard in result.snapshot.shards:
        for row in index_rows(root / "index" / f"{shard.name}.parquet"):
            rows[row["id"]] = {**row, "split": shard.split}
    return rows


def test_appending_makes_new_shards_and_changes_no_old_one(tmp_path):
    out = tmp_path / "shards"
    build(make_run(tmp_path / "one", mixed(20), name="one"), out, splits={"val": 0.3})
    before = files_of(out)
    second = make_run(tmp_path / "two", mixed(17, prefix="x"), name="two")
    result = build(second, out, splits={"val": 0.3})
    after = files_of(out)
    derived = {"manifest.json", "index.map", "README.md"}
    assert {name: after[name] for name in before if name not in derived} == {
        name: digest for name, digest in before.items() if name not in derived
    }
    assert (result.snapshot.number, result.snapshot.samples, result.added) == (2, 37, 17)
    assert verify_set(out, quiet=True).ok
    assert build(second, out, splits={"val": 0.3}).added == 0
    assert files_of(out) == after


def test_a_larger_run_over_the_same_corpus_appends_only_what_is_new(tmp_path):
    records = mixed(20)
    out = tmp_path / "shards"
    build(make_run(tmp_path / "one", records[:12]), out)
    result = build(make_run(tmp_path / "two", records), out)
    assert (result.added, result.already) == (8, 12)
    assert result.snapshot.samples == 20


def test_appending_needs_the_same_splits(tmp_path):
    out = tmp_path / "shards"
    build(make_run(tmp_path / "one", mixed(6)), out, splits={"val": 0.3})
    with pytest.raises(ConfigError, match=r"splits = \{'val': 0\.3\}, not \{\}"):
        build(make_run(tmp_path / "two", mixed(6, prefix="y")), out)


def reencoded(data: bytes, quality: int) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def test_near_duplicates_never_cross_splits(tmp_path):
    """Each source appears in three edits, once re-encoded; the chain must stay in one split."""
    records = []
    for i in range(60):
        source = picture(f"s{i}", size=(64, 64))
        for j in range(3):
            pictures = {
                "source": reencoded(source, 70) if j == 2 else source,
                "target": picture(f"t{i}-{j}", size=(64, 64)),
            }
            records.append(Rec(f"{i}-{j}", "edit", pictures))
    result = build(make_run(tmp_path, records), tmp_path / "shards", splits={"test": 0.2, "val": 0.2})
    rows = rows_of(tmp_path / "shards", result)
    assert len(rows) == 180
    for i in range(60):
        assert len({(rows[f"{i}-{j}"]["split"], rows[f"{i}-{j}"]["group"]) for j in range(3)}) == 1
    counts = Counter(row["split"] for row in rows.values())
    assert 15 <= counts["val"] <= 60
    assert 15 <= counts["test"] <= 60
    assert len({row["group"] for row in rows.values()}) == 60


def test_appended_duplicates_inherit_and_bridges_are_rejected(tmp_path):
    out = tmp_path / "shards"
    records = [Rec(f"g{i}", "generation", {"target": picture(f"g{i}", size=(64, 64))}) for i in range(40)]
    splits = {"val": 0.4}
    old = rows_of(out, build(make_run(tmp_path / "one", records), out, splits=splits))
    train = next(name for name, row in old.items() if row["split"] == "train")
    val = next(name for name, row in old.items() if row["split"] == "val")
    of = {rec.id: rec.pictures["target"] for rec in records}
    fresh = picture("fresh", size=(64, 64))
    more = [
        Rec("child-of-val", "edit", {"source": reencoded(of[val], 60), "target": fresh}),
        Rec("bridge", "edit", {"source": of[val], "target": of[train]}),
        Rec("child-of-child", "edit", {"source": fresh, "target": picture("fresh2", size=(64, 64))}),
        Rec("new", "generation", {"target": picture("fresh3", size=(64, 64))}),
    ]
    result = build(make_run(tmp_path / "two", more, name="two"), out, splits=splits)
    rows = rows_of(out, result)
    assert rejects_of(out, 2) == {"bridge": "duplicate_across_splits"}
    assert rows["child-of-val"]["split"] == rows["child-of-child"]["split"] == "val"
    assert rows["child-of-val"]["group"] == rows["child-of-child"]["group"] == old[val]["group"]
    assert {name: (row["split"], row["group"]) for name, row in rows.items() if name in old} == {
        name: (row["split"], row["group"]) for name, row in old.items()
    }


def test_a_bridge_made_of_several_new_records_is_rejected_whole(tmp_path):
    out = tmp_path / "shards"
    records = [Rec(f"g{i}", "generation", {"target": picture(f"g{i}", size=(64, 64))}) for i in range(40)]
    old = rows_of(out, build(make_run(tmp_path / "one", records), out, splits={"val": 0.4}))
    of = {rec.id: rec.pictures["target"] for rec in records}
    train, val = (next(n for n, row in old.items() if row["split"] == split) for split in ("train", "val"))
    middle = picture("middle", size=(64, 64))
    more = [
        Rec("left", "edit", {"source": of[train], "target": middle}),
        Rec("right", "edit", {"source": middle, "target": of[val]}),
        Rec("apart", "generation", {"target": picture("apart", size=(64, 64))}),
    ]
    build(make_run(tmp_path / "two", more, name="two"), out, splits={"val": 0.4})
    assert rejects_of(out, 2) == dict.fromkeys(("left", "right"), "duplicate_across_splits")


def test_plain_pictures_do_not_glue_records_together(tmp_path):
    white = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(white, "JPEG")
    records = [
        Rec(f"w{i}", "edit", {"source": white.getvalue(), "target": picture(i, size=(64, 64))}) for i in range(20)
    ]
    rows = rows_of(tmp_path / "shards", build(make_run(tmp_path, records), tmp_path / "shards"))
    assert len({row["group"] for row in rows.values()}) == 20


def test_every_record_is_stored_or_rejected_by_name(tmp_path):
    records = mixed(12)
    records[3].warnings = ["noop_pair_0.00"]
    records[6].probs = [0.55] * 18
    del records[9].pictures["source"]
    run = make_run(tmp_path, records)
    corpus = Path(run.info.corpus.uri)
    (corpus / "images" / "r0-source.jpeg").write_bytes(picture("another"))
    (corpus / "images" / "r1-target.jpeg").unlink()
    result = build(run, tmp_path / "shards", filters=["-warning:noop_pair", "confidence>=0.6"])
    assert rejects_of(tmp_path / "shards") == {
        "r0": "image_changed",
        "r1": "image_missing",
        "r3": "filtered",
        "r6": "filtered",
        "r9": "image_missing",
    }
    assert result.rejected == {"filtered": 2, "image_missing": 2, "image_changed": 1}
    assert len(rows_of(tmp_path / "shards", result)) == 7
    assert verify_set(tmp_path / "shards", quiet=True).ok


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("task:edit", {0, 3, 6}),
        ("-task:edit", {1, 2, 4, 5, 7, 8}),
        ("tag:image generation", {1, 4, 7}),
        ("p(image generation)>0.5", {1, 4, 7}),
        ("corpus:demo", set(range(9))),
    ],
)
def test_filters_keep_what_they_say(tmp_path, condition, kept):
    result = build(make_run(tmp_path, mixed(9)), tmp_path / "shards", filters=[condition])
    assert set(rows_of(tmp_path / "shards", result)) == {f"r{i}" for i in kept}


@pytest.mark.parametrize(
    "condition", ["tag:nonsense", "warning:nonsense", "task:nonsense", "speed>3", "p(nonsense)>1", ""]
)
def test_unknown_filters_are_refused(tmp_path, condition):
    with pytest.raises(ConfigError, match="--filter"):
        build(make_run(tmp_path, mixed(3)), tmp_path / "shards", filters=[condition])


def test_resize_and_format_are_asked_for_or_bytes_pass_through(tmp_path):
    records = [
        Rec("large", "generation", {"target": picture("l", size=(300, 200), kind="PNG")}),
        Rec("small", "generation", {"target": picture("s", size=(60, 40))}),
    ]
    run = make_run(tmp_path, records)
    build(run, tmp_path / "shards", max_side=100, format="jpg")
    stream = ShardStream(tmp_path / "shards", config=StreamConfig(batch_size=2))
    samples = {s.id: s for batch in stream.batches(stop=stream.batches_per_epoch) for s in batch.samples}
    assert samples["small"].images["target"] == records[1].pictures["target"]
    shrunk = Image.open(io.BytesIO(samples["large"].images["target"]))
    assert (shrunk.size, shrunk.format) == ((100, 67), "JPEG")
    assert samples["large"].signature == "tgt-jpg"


def test_buckets_follow_the_target_shape(tmp_path):
    shapes = {"square": (64, 64), "wide": (160, 90), "tall": (60, 90)}
    records = [Rec(name, "generation", {"target": picture(name, size=size)}) for name, size in shapes.items()]
    rows = rows_of(tmp_path / "shards", build(make_run(tmp_path, records), tmp_path / "shards"))
    assert {name: row["bucket"] for name, row in rows.items()} == {
        "square": "1024x1024",
        "wide": "1344x768",
        "tall": "832x1216",
    }


def test_text_only_runs_are_refused_in_one_line(tmp_path):
    run = make_run(tmp_path, [Rec(f"t{i}", "edit", {}) for i in range(4)])
    with pytest.raises(DataError, match="4 records of text alone: shards need pictures"):
        build(run, tmp_path / "shards")


def test_a_moved_corpus_is_found_by_its_new_place(tmp_path):
    run = make_run(tmp_path, mixed(3))
    corpus = Path(run.info.corpus.uri)
    corpus.rename(tmp_path / "moved")
    with pytest.raises((ConfigError, DataError), match="corpus"):
        build(run, tmp_path / "shards")
    config = BuildConfig()
    result = build_shards(
        run, tmp_path / "shards", config=config, corpus_uri=str(tmp_path / "moved"), workers=1, quiet=True
    )
    assert result.added == 3


def test_shard_bytes_aim_at_a_size(tmp_path):
    run = make_run(tmp_path, [r for r in mixed(240) if r.task == "edit"])
    config = BuildConfig(shard_bytes=100_000)
    result = build_shards(run, tmp_path / "shards", config=config, workers=1, quiet=True)
    assert len(result.snapshot.shards) > 1
    assert all(50_000 <= shard.bytes <= 150_000 for shard in result.snapshot.shards)


def test_card_escapes_hostile_text_and_counts_licences(tmp_path):
    records = mixed(6)
    records[0].extra = {"license": "CC-BY-4.0 | <script>alert(1)</script>\n# heading"}
    build(make_run(tmp_path, records), tmp_path / "shards")
    body = (tmp_path / "shards" / "README.md").read_text().split("\n---\n", 1)[1]
    assert "<script>" not in body.replace("\\<script\\>", "")
    assert not any(line.startswith("# heading") for line in body.splitlines())
    assert "not stated | 5" in body


def test_json_record_keeps_provenance(tmp_path):
    records = mixed(3)
    records[0].extra = {"licence": "MIT", "nested": {"a": [1, None]}}
    build(make_run(tmp_path, records), tmp_path / "shards")
    stream = ShardStream(tmp_path / "shards")
    samples = {s.id: s for batch in stream.batches(stop=stream.batches_per_epoch) for s in batch.samples}
    assert samples["r0"].extra == records[0].extra
    assert (samples["r0"].task, samples["r0"].tag_ids, samples["r0"].corpus) == ("edit", (0, 7, 14), "demo")


def test_an_unfinished_run_is_refused(tmp_path):
    run = make_run(tmp_path, mixed(3))
    path = run.root / "run.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(DataError, match="not finished"):
        build(Run.open(run.root), tmp_path / "shards")
