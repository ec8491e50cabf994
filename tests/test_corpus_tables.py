"""Tables: JSON lines, CSV, Parquet with paths and with embedded pictures."""

from __future__ import annotations

import csv
import datetime
import io
import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_corpus import encode, opened, picture, split, write_pictures
from tagmoe.schema import ConfigError, DataError, ImageRef, Pair
from tagmoe.shards.corpus import ImageRejected, open_image
from tagmoe.shards.corpus.footer import null_counts
from tagmoe.shards.corpus.presets import PRESETS

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def cells(count: int, *, seed: int = 0) -> list[bytes]:
    return [encode(picture(40, 32, seed=seed + i)) for i in range(count)]


def write_embedded(path: Path, count: int, *, group: int = 7, offset: int = 0) -> tuple[list[bytes], list[bytes]]:
    """A Parquet file as `datasets` writes it: struct cells; every third source null."""
    sources, targets = cells(count, seed=offset), cells(count, seed=1000 + offset)
    table = pa.table(
        {
            "source": pa.array(
                [None if i % 3 == 2 else {"bytes": b, "path": f"{i}.jpg"} for i, b in enumerate(sources)], IMAGE
            ),
            "instruction": [f"do {offset + i}" for i in range(count)],
            "target": pa.array([{"bytes": b, "path": None} for b in targets], IMAGE),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return sources, targets


def test_parquet_with_embedded_pictures(tmp_path: Path) -> None:
    sources, targets = write_embedded(tmp_path / "c/data/a.parquet", 20)
    corpus = opened(tmp_path / "c")
    assert (corpus.spec.kind, corpus.rows) == ("parquet", 20)
    pairs, rejects = split(corpus.records())
    assert rejects == []
    for i, pair in enumerate(pairs):
        assert (pair.row, pair.id, pair.instruction) == (i, f"{i:09d}", f"do {i}")
        assert pair.task == ("generation" if i % 3 == 2 else "edit")
        assert pair.roles == (("target",) if i % 3 == 2 else ("source", "target"))
        assert corpus.read_image(pair.images[-1]) == targets[i]
        if i % 3 < 2:
            assert pair.images[0] == ImageRef(role="source", uri="data/a.parquet", row=i, column="source")
            assert corpus.read_image(pair.images[0]) == sources[i]
        assert pair.extra == {}


def test_parquet_pictures_in_any_order_and_from_threads(tmp_path: Path) -> None:
    _, targets = write_embedded(tmp_path / "a.parquet", 100, group=40)
    corpus = opened(tmp_path)
    refs = [pair.images[-1] for pair in split(corpus.records())[0]]
    order = np.random.default_rng(0).permutation(100).tolist()
    assert [corpus.read_image(refs[i]) for i in order] == [targets[i] for i in order]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(corpus.read_image, refs)) == targets


def test_several_files_are_one_corpus_in_name_order(tmp_path: Path) -> None:
    for name, offset in (("b.parquet", 10), ("a/z.parquet", 0), (".cache/x.parquet", 99)):
        write_embedded(tmp_path / name, 10, offset=offset)
    corpus = opened(tmp_path)
    whole = list(corpus.records())
    assert [pair.instruction for pair in split(whole)[0]] == [f"do {i}" for i in range(20)]
    for start in range(0, 21, 3):
        for stop in range(start, 21, 4):
            assert list(corpus.records(start, stop)) == whole[start:stop]
    last = whole[19]
    assert isinstance(last, Pair)
    assert last.images[-1].uri == "b.parquet"
    assert last.images[-1].row == 9


def test_plain_binary_lists_and_paths(tmp_path: Path) -> None:
    blobs = cells(5)
    write_pictures(tmp_path / "c/sub", 1)
    table = pa.table(
        {
            "id": pa.array([5, 6, 7], pa.int32()),
            "instruction": ["a", "b", "c"],
            "target": pa.array([blobs[0], None, blobs[1]], pa.large_binary()),
            "source": ["images/0_s.jpg", None, "images/0_t.jpg"],
            "references": pa.array([[blobs[2], blobs[3]], [], None], pa.list_(pa.binary())),
            "mask": pa.array([b"1", b"2", b"3"]),
            "when": [datetime.date(2024, 1, 2)] * 3,
            "price": [Decimal("1.50")] * 3,
            "score": [float("nan"), 1.0, None],
        }
    )
    pq.write_table(table, tmp_path / "c/sub/t.parquet")
    corpus = opened(tmp_path / "c")
    (one, two, three), _ = split(corpus.records())
    assert one.id == "5"
    assert one.roles == ("source", "target", "ref0", "ref1")
    assert one.images[0].uri == "sub/images/0_s.jpg"
    assert corpus.read_image(one.images[0]) == (tmp_path / "c/sub/images/0_s.jpg").read_bytes()
    assert [corpus.read_image(ref) for ref in one.images[1:]] == [blobs[0], blobs[2], blobs[3]]
    assert (two.roles, two.task) == ((), "generation")
    assert corpus.read_image(three.images[1]) == blobs[1]
    assert one.extra == {"when": "2024-01-02", "price": "1.50", "score": None}


def test_parquet_reads_bounded_and_named(tmp_path: Path) -> None:
    write_embedded(tmp_path / "a.parquet", 3)
    corpus = opened(tmp_path, limits={"max_image_bytes": 100})
    for ref, reason in [
        (ImageRef(role="target", uri="a.parquet", row=0, column="target"), "image_too_large_bytes"),
        (ImageRef(role="target", uri="a.parquet", row=2, column="source"), "missing_image"),
        (ImageRef(role="target", uri="a.parquet", row=3, column="target"), "missing_image"),
        (ImageRef(role="target", uri="a.parquet", row=0, column="gone"), "missing_image"),
        (ImageRef(role="target", uri="b.parquet", row=0, column="target"), "missing_image"),
        (ImageRef(role="target", uri="../b.parquet", row=0, column="target"), "missing_image"),
    ]:
        with pytest.raises(ImageRejected) as caught:
            corpus.read_image(ref)
        assert caught.value.reason == reason


def test_parquet_without_statistics_is_read_cell_by_cell(tmp_path: Path) -> None:
    blobs = cells(3)
    table = pa.table({"instruction": ["a", "b", "c"], "target": pa.array([blobs[0], None, blobs[2]])})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    corpus = opened(tmp_path)
    pairs, _ = split(corpus.records())
    assert [pair.roles for pair in pairs] == [("target",), (), ("target",)]
    assert corpus.read_image(pairs[2].images[0]) == blobs[2]


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"instruction": [f"{i} {'x' * 200}" for i in range(90)]})
    pq.write_table(table, path, row_group_size=30, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[middle : middle + 40] = b"\xff" * 40
    path.write_bytes(data)
    items = list(opened(path).records())
    assert [item.row for item in items] == list(range(90))
    reasons = [getattr(item, "reason", None) for item in items]
    assert reasons == [None] * 30 + ["unreadable_file"] * 30 + [None] * 30
    path.write_bytes(data[:-5])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        opened(path)


def test_null_counts_are_those_pyarrow_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_embedded(path, 50)
    metadata = pq.ParquetFile(path).metadata
    expected = []
    for group in range(metadata.num_row_groups):
        columns = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        expected.append({column.path_in_schema: column.statistics.null_count for column in columns})
    with path.open("rb") as stream:
        assert null_counts(stream) == expected
    assert len(expected) == 8
    assert null_counts(io.BytesIO(b"")) == null_counts(io.BytesIO(b"PAR1" * 9)) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_parquet_never_crashes(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.parquet"
    write_embedded(path, 8)
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 6))):
        first = data.draw(st.sampled_from([0, footer]))
        content[data.draw(st.integers(first, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        corpus = opened(path)
        items = list(corpus.records())
    except (ConfigError, DataError):
        return
    assert [item.row for item in items] == list(range(corpus.rows))
    for ref in (ref for item in items if isinstance(item, Pair) for ref in item.images):
        try:
            corpus.read_image(ref)
        except ImageRejected as error:
            assert error.stage == "read"


def test_repeated_ids_across_files_without_reading_pictures(tmp_path: Path) -> None:
    for name, ids in (("a", ["1", "2"]), ("b", ["2", "3"])):
        cell = {"bytes": encode(picture()), "path": None}
        references = pa.array([[cell]] * 2, pa.list_(IMAGE))
        meta = [{"key": key} for key in ids]
        table = pa.table({"meta": meta, "instruction": ["x", "y"], "references": references})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    corpus = opened(tmp_path, columns={"id": "meta.key"})
    assert [getattr(item, "reason", item.id) for item in corpus.records()] == ["1", "2", "duplicate_id", "3"]


def test_a_crop_box_cuts_a_pair_out_of_one_picture(tmp_path: Path) -> None:
    left, right = picture(32, 32, seed=1), picture(32, 32, seed=2)
    both = picture(80, 40, seed=3)
    both.paste(left, (4, 4))
    both.paste(right, (44, 4))
    image = {"bytes": encode(both, "PNG"), "path": None}
    pq.write_table(pa.table({"text": ["t"], "image": pa.array([image], IMAGE)}), tmp_path / "a.parquet")
    columns = {"instruction": "text", "references": "image@4:4:32:32", "target": "image@44:4:32:32"}
    corpus = opened(tmp_path, columns=columns)
    (pair,), _ = split(corpus.records())
    assert (pair.roles, pair.task) == (("target", "ref0"), "customization")
    target, reference = (corpus.read_image(ref) for ref in pair.images)
    assert np.array_equal(np.asarray(open_image(target).image), np.asarray(right))
    assert np.array_equal(np.asarray(open_image(reference).image), np.asarray(left))
    assert corpus.read_image(pair.images[0]) == target
    outside = opened(tmp_path, columns={"instruction": "text", "target": "image@60:4:32:32"})
    (pair,), _ = split(outside.records())
    with pytest.raises(ImageRejected, match="leaves the picture of 80x40"):
        outside.read_image(pair.images[0])


def test_jsonl_needs_no_ids(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/list.jsonl").write_text("".join(json.dumps({"instruction": f"i{i}"}) + "\n" for i in range(3)))
    corpus = opened(tmp_path)
    assert corpus.spec.kind == "jsonl"
    assert [(pair.id, pair.task) for pair in split(corpus.records())[0]] == [
        ("000000000", "generation"),
        ("000000001", "generation"),
        ("000000002", "generation"),
    ]


def write_csv(path: Path, rows: list[list[str]], *, delimiter: str = ",", ending: str = "\r\n") -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator=ending).writerows(rows)
    return path


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv(tmp_path: Path, name: str, delimiter: str, ending: str) -> None:
    rows = [
        ["id", "instruction", "source", "references", "note"],
        ["1", 'say "hi",\tthen\nwave', "a.jpg", '["x.jpg", "y.jpg"]', ""],
        ["2", "plain", "", "z.jpg", "n"],
        ["3", "ünï", "", "", "n"],
    ]
    corpus = opened(write_csv(tmp_path / name, rows, delimiter=delimiter, ending=ending))
    pairs, rejects = split(corpus.records())
    assert rejects == []
    assert [pair.instruction for pair in pairs] == ['say "hi",\tthen\nwave', "plain", "ünï"]
    assert [pair.roles for pair in pairs] == [("source", "ref0", "ref1"), ("ref0",), ()]
    assert pairs[0].extra == {"note": None}
    for start in range(4):
        assert list(corpus.records(start, 3)) == pairs[start:]


def test_csv_with_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    endless = b'4,"' + b"x" * 200_000 + b"\n"
    path.write_bytes(b"\xef\xbb\xbfid,instruction\n1,a\n2,b,c\n3,\xff\n\n" + endless + b"5,e\n6\n")
    items = list(opened(path).records())
    assert [(item.row, getattr(item, "reason", item.id)) for item in items] == [
        (0, "1"),
        (1, "bad_record"),
        (2, "bad_record"),
        (3, "bad_record"),
        (4, "5"),
        (5, "missing_field"),
    ]


def test_csv_without_a_sound_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,id\n1,2\n")
    with pytest.raises(ConfigError, match="no column 'instruction'"):
        opened(path)
    path.write_text("instruction,instruction\n1,2\n")
    with pytest.raises(DataError, match="repeats a name"):
        list(opened(path).records())


def test_a_folder_of_several_kinds_asks_which(tmp_path: Path) -> None:
    write_embedded(tmp_path / "a.parquet", 2)
    write_csv(tmp_path / "b.csv", [["instruction"], ["x"]])
    with pytest.raises(
        ConfigError, match=r"holds 1 parquet file, 1 csv file: say which to read with --set corpus\.kind=parquet"
    ):
        opened(tmp_path)
    assert opened(tmp_path, kind="csv").rows == 1
    with pytest.raises(ConfigError, match=r"holds no \.tar file, though it is read as webdataset"):
        opened(tmp_path, kind="webdataset")


def test_fingerprint_of_tables(tmp_path: Path) -> None:
    write_embedded(tmp_path / "1/c/a.parquet", 4)
    write_embedded(tmp_path / "2/c/a.parquet", 4)
    write_embedded(tmp_path / "3/c/a.parquet", 4, offset=1)
    write_embedded(tmp_path / "4/c/b.parquet", 4)
    one, same, content, name = (opened(tmp_path / f"{i}/c").fingerprint for i in range(1, 5))
    assert one == same
    assert len({one, content, name}) == 3


def test_large_files_are_marked_by_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tagmoe.shards.corpus.mark import content_mark

    monkeypatch.setattr("tagmoe.shards.corpus.mark._EXACT_BYTES", 1000)
    monkeypatch.setattr("tagmoe.shards.corpus.mark._ENDS", 100)
    monkeypatch.setattr("tagmoe.shards.corpus.mark._SAMPLE", 50)
    path = tmp_path / "f"
    data = bytearray(np.random.default_rng(0).bytes(5000))

    def mark() -> str:
        path.write_bytes(data)
        with path.open("rb") as stream:
            return content_mark(stream)

    marks = {mark()}
    for at in (0, 99, 4999, 5000 // 16 * 0 + 312, 4688):
        data[at] ^= 1
        marks.add(mark())
    data.append(0)
    marks.add(mark())
    assert len(marks) == 7


PRESET_ROWS: dict[str, dict[str, object]] = {
    "instructpix2pix": {
        "original_prompt": "p",
        "original_image": "I",
        "edit_prompt": "e",
        "edited_prompt": "q",
        "edited_image": "I",
    },
    "magicbrush": {
        "img_id": "7",
        "turn_index": 1,
        "source_img": "I",
        "mask_img": "I",
        "instruction": "e",
        "target_img": "I",
    },
    "ultraedit": {
        "clip_sim_source": 0.1,
        "source_caption": "c",
        "idx": 3,
        "edit_prompt": "e",
        "source_image": "I",
        "edited_image": "I",
        "mask_image": "I",
    },
    "omniedit": {
        "omni_edit_id": "o1",
        "task": "removal",
        "src_img": "I",
        "edited_img": "I",
        "edited_prompt_list": ["e", "f"],
        "width": 9,
        "o_score": 1.5,
    },
}


@pytest.mark.parametrize("preset", sorted(PRESET_ROWS))
def test_presets_of_parquet_corpora(tmp_path: Path, preset: str) -> None:
    blob = cells(1)[0]
    columns = {
        name: pa.array([{"bytes": blob, "path": None}], IMAGE) if value == "I" else pa.array([value])
        for name, value in PRESET_ROWS[preset].items()
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    corpus = opened(tmp_path, preset=preset)
    (pair,), rejects = split(corpus.records())
    assert rejects == []
    assert (pair.task, pair.instruction, pair.roles) == ("edit", "e", ("source", "target"))
    assert corpus.read_image(pair.images[1]) == blob
    assert not {"mask_img", "mask_image"} & pair.extra.keys()
    if preset == "omniedit":
        assert pair.id == "o1"
        assert pair.extra["task"] == "removal"


def test_preset_imgedit(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    row = {"input_images": ["images/0_s.jpg"], "output_images": ["images/0_t.jpg"], "prompt": "e"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "remove_part5.parquet")
    corpus = opened(tmp_path, preset="imgedit")
    (pair,), _ = split(corpus.records())
    assert (pair.instruction, pair.roles) == ("e", ("source", "target"))
    assert corpus.read_image(pair.images[1]) == (tmp_path / "images/0_t.jpg").read_bytes()


def test_preset_pico_banana(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    row = {
        "open_image_input_url": "https://host/x.jpg",
        "text": "e",
        "output_image": "images/0_t.jpg",
        "edit_type": "Remove an existing object",
        "summarized_text": "s",
        "local_input_image": "images/0_s.jpg",
    }
    (tmp_path / "sft.jsonl").write_text(json.dumps(row) + "\n")
    corpus = opened(tmp_path / "sft.jsonl", preset="pico-banana")
    (pair,), _ = split(corpus.records())
    assert (pair.id, pair.instruction, pair.roles) == ("images/0_t.jpg", "e", ("source", "target"))
    assert pair.extra["edit_type"] == "Remove an existing object"
    assert corpus.read_image(pair.images[0])
    del row["local_input_image"]
    (tmp_path / "sft.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r"'local_input_image' \(mapped to source\) does not exist"):
        opened(tmp_path / "sft.jsonl", preset="pico-banana")


def test_preset_subjects200k(tmp_path: Path) -> None:
    both = picture(1056, 528, seed=3)
    blob = encode(both, "PNG")
    table = pa.table(
        {
            "image": pa.array([{"bytes": blob, "path": None}], IMAGE),
            "collection": ["collection_2"],
            "quality_assessment": [{"imageQuality": 5}],
            "description": [{"item": "cup", "description_0": "left", "description_1": "right"}],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    corpus = opened(tmp_path, preset="subjects200k")
    (pair,), _ = split(corpus.records())
    assert (pair.task, pair.instruction, pair.roles) == ("customization", "right", ("target", "ref0"))
    target = open_image(corpus.read_image(pair.images[0])).image
    assert np.array_equal(np.asarray(target), np.asarray(both)[8:520, 528:1040])


def test_preset_dreambench(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"images/animal/{number:02d}.jpg").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"images/animal/{number:02d}.jpg").write_bytes(cells(1, seed=number)[0])
        (tmp_path / f"captions/animal/{number:02d}.txt").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"captions/animal/{number:02d}.txt").write_text(f"cat\na cat on {number}\n\nan oil cat {number}\n")
    corpus = opened(tmp_path)
    assert (corpus.spec.kind, corpus.spec.preset) == ("captions", "dreambench++")
    pairs, _ = split(corpus.records())
    assert [(p.id, p.instruction) for p in pairs] == [
        ("animal/00/0", "a cat on 0"),
        ("animal/00/1", "an oil cat 0"),
        ("animal/01/0", "a cat on 1"),
        ("animal/01/1", "an oil cat 1"),
    ]
    assert pairs[2].task == "customization"
    assert pairs[2].roles == ("ref0",)
    assert pairs[2].extra == {"subject": "cat", "category": "animal"}
    assert corpus.read_image(pairs[2].images[0]) == cells(1, seed=1)[0]


def test_every_preset_is_tested() -> None:
    others = {"imgedit", "pico-banana", "subjects200k", "dreambench++"}
    assert PRESETS.keys() == PRESET_ROWS.keys() | others
