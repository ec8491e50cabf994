"""Data sets through `datasets.load_dataset`, offline: Parquet and image folders on disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_corpus import encode, opened, picture, split
from tagmoe.schema import ConfigError, ImageRef
from tagmoe.shards.corpus import ImageRejected
from tagmoe.shards.corpus.hub import load_split, parse_hub

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FEATURES = {
    "info": {
        "features": {
            "instruction": {"dtype": "string", "_type": "Value"},
            "source": {"_type": "Image"},
            "references": {"feature": {"_type": "Image"}, "_type": "List"},
        }
    }
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(cache))


def test_the_library_shows_no_bars_of_its_own_and_keeps_its_setting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets

    write_dataset(tmp_path / "a", 3)
    assert not datasets.are_progress_bars_disabled()
    assert len(load_split(f"hf:{tmp_path / 'a'}:train")[:3]) == 3
    assert capfd.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        load_split(f"hf:{tmp_path / 'a'}:train")
        assert datasets.are_progress_bars_disabled()
    finally:
        datasets.enable_progress_bars()


def write_dataset(folder: Path, count: int, *, split_name: str = "train", path: str | None = None) -> list[bytes]:
    blobs = [encode(picture(seed=i)) for i in range(count)]
    cells = [{"bytes": blob if path is None else None, "path": path} for blob in blobs]
    table = pa.table(
        {
            "instruction": [f"do {i}" for i in range(count)],
            "source": pa.array(cells, IMAGE),
            "references": pa.array([[cell] * (i % 3) for i, cell in enumerate(cells)], pa.list_(IMAGE)),
        }
    ).replace_schema_metadata({"huggingface": json.dumps(FEATURES)})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"data/{split_name}-00000-of-00001.parquet")
    return blobs


def test_parquet_data_set(tmp_path: Path) -> None:
    blobs = write_dataset(tmp_path / "set", 70)
    corpus = opened(f"hf:{tmp_path}/set")
    assert (corpus.name, corpus.spec.kind, corpus.rows) == ("set", "hf", 70)
    pairs, rejects = split(corpus.records())
    assert rejects == []
    assert [pair.instruction for pair in pairs] == [f"do {i}" for i in range(70)]
    assert pairs[2].roles == ("source", "ref0", "ref1")
    assert list(corpus.records(60, 70)) == pairs[60:]
    again = pickle.loads(pickle.dumps(corpus))
    for i in (0, 69, 5):
        assert [again.read_image(ref) for ref in pairs[i].images] == [blobs[i]] * (1 + i % 3)
    assert opened(f"hf:{tmp_path}/set").fingerprint == corpus.fingerprint
    assert pairs[0].images[0] == ImageRef(role="source", uri="dataset", row=0, column="source")


def test_splits_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 2)
    write_dataset(tmp_path / "set", 3, split_name="test")
    with pytest.raises(ConfigError, match="has the splits train, test: name one"):
        opened(f"hf:{tmp_path}/set")
    corpus = opened(f"hf:{tmp_path}/set:test")
    assert (corpus.rows, corpus.name) == (3, "set-test")
    with pytest.raises(ConfigError, match=r"cannot load .* Unknown split"):
        opened(f"hf:{tmp_path}/set:gone")


def test_image_folder_reads_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "pics/train"
    folder.mkdir(parents=True)
    lines = []
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(encode(picture(seed=i)))
        lines.append(json.dumps({"file_name": f"{i}.jpg", "instruction": f"i{i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    corpus = opened(f"hf:{tmp_path}/pics", columns={"target": "image"})
    pairs, _ = split(corpus.records())
    assert [corpus.read_image(pair.images[0]) for pair in pairs] == [encode(picture(seed=i)) for i in range(3)]


def test_a_path_inside_the_data_may_not_leave(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encode(picture()))
    write_dataset(tmp_path / "set", 1, path=str(secret))
    corpus = opened(f"hf:{tmp_path}/set", columns={"references": ""})
    (pair,), _ = split(corpus.records())
    with pytest.raises(ImageRejected) as caught:
        corpus.read_image(pair.images[0])
    assert caught.value.reason == "path_outside_root"


def test_rows_and_columns_that_are_not_there(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 2)
    corpus = opened(f"hf:{tmp_path}/set")
    for row, column in ((2, "source"), (0, "gone"), (0, "references[0]"), (-1, "source")):
        with pytest.raises(ImageRejected) as caught:
            corpus.read_image(ImageRef(role="source", uri="dataset", row=row, column=column))
        assert caught.value.reason == "missing_image"


def test_spelling() -> None:
    assert parse_hub("hf:a/b") == ("a/b", None, None)
    assert parse_hub("hf:a/b:train") == ("a/b", None, "train")
    assert parse_hub("hf:a/b:config:train") == ("a/b", "config", "train")
    for bad in ("hf:", "hf:a:", "hf:a:b:c:d"):
        with pytest.raises(ConfigError, match="expected hf:NAME"):
            parse_hub(bad)
