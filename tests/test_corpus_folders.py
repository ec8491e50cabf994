"""Pictures are opened from kept folder descriptors; no name, link or change of the tree leads out of the corpus."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tagmoe.shards.corpus import ImageRejected
from tagmoe.shards.corpus.folders import Folders
from tagmoe.shards.corpus.store import LocalStore


def read(store: LocalStore, path: str, *, limit: int = 100) -> bytes | str:
    try:
        return store.read_image(path, limit=limit)
    except ImageRejected as error:
        return error.reason


def test_a_folder_that_becomes_a_link_out_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "c", tmp_path / "outside"
    (root / "a/b").mkdir(parents=True)
    outside.mkdir()
    (root / "a/b/x.jpg").write_bytes(b"inside")
    (outside / "x.jpg").write_bytes(b"secret")
    (outside / "y.jpg").write_bytes(b"secret")
    store = LocalStore(root)
    assert read(store, "a/b/x.jpg") == b"inside"
    (root / "a/b").rename(root / "a/old")
    (root / "a/b").symlink_to(outside)
    assert read(store, "a/b/x.jpg") == b"inside"  # the folder that was entered
    assert read(store, "a/b/y.jpg") == "path_outside_root"
    assert read(LocalStore(root), "a/b/x.jpg") == "path_outside_root"


def test_a_link_inside_is_followed_also_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.jpg").write_bytes(b"x")
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "real/again").symlink_to("../linked")
    store = LocalStore(tmp_path)
    assert [read(store, path) for path in ("linked/x.jpg", "real/again/x.jpg", "real/x.jpg")] == [b"x"] * 3


def test_nothing_steps_up_or_follows(tmp_path: Path) -> None:
    root = tmp_path / "c"
    (root / "a").mkdir(parents=True)
    (tmp_path / "x.jpg").write_bytes(b"secret")
    (root / "link.jpg").symlink_to("../x.jpg")
    folders = Folders(root)
    for path in ("../x.jpg", "a/../../x.jpg", "link.jpg"):
        with pytest.raises(OSError, match=r"goes up|symbolic links"):
            os.close(folders.open(path))


def test_a_replaced_folder_shows_its_new_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").write_bytes(b"old")
    store = LocalStore(tmp_path)
    assert read(store, "a/x.jpg") == b"old"
    (tmp_path / "a/x.jpg").unlink()
    (tmp_path / "a").rmdir()
    assert read(store, "a/x.jpg") == "missing_image"
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").write_bytes(b"new")
    assert read(store, "a/x.jpg") == b"new"


def test_many_folders_and_threads_hold_few_descriptors(tmp_path: Path) -> None:
    paths = [f"{number % 7}/{number}/x.jpg" for number in range(200)]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(path.encode())
    before = open_files()
    asked = random.Random(0).choices(paths, k=2000)
    assert read_at_once(tmp_path, asked) == [path.encode() for path in asked]
    assert open_files() == before


def read_at_once(root: Path, paths: list[str]) -> list[bytes | str]:
    store, before = LocalStore(root), open_files()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: read(store, path), paths))
    assert open_files() - before <= 72
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jpg"
    real = os.fstat

    def then(data: bytes) -> None:
        def fstat(number: int) -> os.stat_result:
            facts = real(number)
            path.write_bytes(data)
            return facts

        monkeypatch.setattr(os, "fstat", fstat)

    for data in (b"shorter", b"a longer one, by far"):
        path.write_bytes(b"ten bytes.")
        then(data)
        assert read(LocalStore(tmp_path), "x.jpg", limit=20) == data
    path.write_bytes(b"ten bytes.")
    then(b"longer than the limit")
    assert read(LocalStore(tmp_path), "x.jpg", limit=20) == "image_too_large_bytes"
