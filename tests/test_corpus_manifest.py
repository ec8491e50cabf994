"""manifest.jsonl: one item a row whatever the lines hold, paths that stay inside, ids that do not repeat."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue
from support_corpus import edit, encode, opened, picture, split, write_manifest, write_pictures
from tagmoe.schema import ConfigError, DataError, ImageRef, Pair, Reject, StoppedError, make_uid
from tagmoe.shards.corpus import Corpus, ImageRejected
from tagmoe.shards.corpus.fields import DROPPED


def test_a_sound_corpus(tmp_path: Path) -> None:
    write_pictures(tmp_path / "c", 3)
    write_manifest(tmp_path / "c", [edit(i, label="x", size=[1, 2]) for i in range(3)])
    corpus = opened(tmp_path / "c")
    assert (corpus.name, corpus.rows, len(corpus), corpus.spec.kind) == ("c", 3, 3, "manifest")
    pairs, rejects = split(corpus.records())
    assert rejects == []
    assert [p.row for p in pairs] == [0, 1, 2]
    first = pairs[0]
    assert first == Pair(
        corpus="c",
        row=0,
        id="r0",
        task="edit",
        instruction="make it 0",
        images=(ImageRef(role="source", uri="images/0_s.jpg"), ImageRef(role="target", uri="images/0_t.jpg")),
        extra={"label": "x", "size": [1, 2]},
    )
    assert first.uid == make_uid("c", "r0")
    assert corpus.read_image(first.images[0]) == (tmp_path / "c/images/0_s.jpg").read_bytes()


def test_folder_and_its_manifest_name_the_same_corpus(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "c", [edit(0)])
    by_folder, by_file = opened(tmp_path / "c"), opened(path)
    assert by_folder.name == by_file.name == "c"
    assert by_folder.fingerprint == by_file.fingerprint
    assert list(by_folder.records()) == list(by_file.records())


def test_any_range_equals_the_slice(tmp_path: Path) -> None:
    lines: list[dict[str, object] | str] = [edit(i) for i in range(20)]
    lines[3], lines[7], lines[11] = "{broken", "[1]", json.dumps(edit(2))
    corpus = opened(write_manifest(tmp_path, lines))
    everything = list(corpus.records())
    assert len(everything) == 20
    for start in range(21):
        for stop in (start, start + 1, start + 5, 20, 99):
            assert list(corpus.records(start, stop)) == everything[start:stop]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_blank_lines_and_line_ends_do_not_count(tmp_path: Path, ending: str, last: bool) -> None:
    lines = ["", json.dumps(edit(0)), "", "", json.dumps(edit(1)), ""]
    text = ending.join(lines) + (ending if last else "")
    (tmp_path / "manifest.jsonl").write_bytes(b"\xef\xbb\xbf" * 0 + text.encode())
    assert [item.id for item in opened(tmp_path).records()] == ["r0", "r1"]


def test_no_newline_at_the_end_and_byte_order_mark(tmp_path: Path) -> None:
    text = json.dumps(edit(0)) + "\n" + json.dumps(edit(1))
    (tmp_path / "manifest.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [item.id for item in opened(tmp_path).records()] == ["r0", "r1"]


def test_lines_across_read_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path, [edit(i, instruction="x" * (i % 13)) if i % 13 else edit(i) for i in range(60)])
    whole = list(opened(tmp_path).records())
    for block in (1, 7, 64, 1000):
        monkeypatch.setattr("tagmoe.shards.corpus.lines._BLOCK", block)
        assert list(opened(tmp_path).records()) == whole


BAD = [
    ("{", "bad_record"),
    ("[1, 2]", "bad_record"),
    ('"text"', "bad_record"),
    ("nul\0l", "bad_record"),
    ("[" * 100_000, "bad_record"),
    (edit(1, id=None), "missing_field"),
    (edit(1, id=""), "missing_field"),
    (edit(1, id=1.5), "bad_record"),
    (edit(1, id=True), "bad_record"),
    (edit(1, id={"a": 1}), "bad_record"),
    (edit(1, id="i" * 1025), "bad_record"),
    (edit(1, id="\ud800"), "bad_record"),
    (edit(1, instruction=None), "missing_field"),
    (edit(1, instruction=7), "bad_record"),
    (edit(1, instruction=" \n"), "empty_instruction"),
    (edit(1, instruction="\ud800"), "bad_record"),
    (edit(1, instruction="y" * (1 << 20) + "z"), "text_too_long"),
    (edit(1, task="paint"), "bad_task"),
    (edit(1, task=3), "bad_task"),
    (edit(1, source=5), "bad_record"),
    (edit(1, source=["a.jpg", "b.jpg"]), "bad_record"),
    (edit(1, references=["a.jpg"] * 17), "too_many_references"),
    (edit(1, references={"a": 1}), "bad_record"),
    (edit(1, source="/etc/passwd"), "path_outside_root"),
    (edit(1, source="../secret.jpg"), "path_outside_root"),
    (edit(1, source="a/../../secret.jpg"), "path_outside_root"),
    (edit(1, source="a\\..\\..\\secret.jpg"), "path_outside_root"),
    (edit(1, source="\\\\host\\share.jpg"), "path_outside_root"),
    (edit(1, source="C:\\secret.jpg"), "path_outside_root"),
    (edit(1, target="http://host/a.jpg"), "path_outside_root"),
    (edit(1, target="file:///etc/passwd"), "path_outside_root"),
    (edit(1, target="data:image/png;base64,AAAA"), "path_outside_root"),
    (edit(1, references=["a.jpg\0.png"]), "path_outside_root"),
    (edit(1, source="  "), "missing_image"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(BAD)])
def test_a_bad_line_is_a_named_reject_of_its_row(tmp_path: Path, line: dict[str, object] | str, reason: str) -> None:
    corpus = opened(write_manifest(tmp_path, [edit(0), line, edit(2)]))
    before, bad, after = corpus.records()
    assert isinstance(before, Pair)
    assert isinstance(after, Pair)
    assert isinstance(bad, Reject)
    assert (bad.row, bad.stage, bad.reason) == (1, "read", reason)
    assert bad.detail
    assert len(bad.detail) < 600
    bad.model_dump_json()


def test_a_line_of_any_length_is_skipped_unread(tmp_path: Path) -> None:
    corpus = opened(
        write_manifest(tmp_path, [edit(0), edit(1, pad="x" * 3000), edit(2)]), limits={"max_record_bytes": 1000}
    )
    assert [getattr(item, "reason", None) for item in corpus.records()] == [None, "bad_record", None]


def test_not_utf8(tmp_path: Path) -> None:
    good = json.dumps(edit(0)).encode()
    (tmp_path / "manifest.jsonl").write_bytes(good + b'\n{"id": "\xff"}\n' + json.dumps(edit(2)).encode())
    assert [getattr(item, "reason", None) for item in opened(tmp_path).records()] == [None, "bad_record", None]


def test_later_occurrences_of_an_id_are_rejected(tmp_path: Path) -> None:
    ids = ["a", "b", "a", "c", "b", "a"]
    corpus = opened(write_manifest(tmp_path, [edit(i, id=name) for i, name in enumerate(ids)]))
    pairs, rejects = split(corpus.records())
    assert [p.row for p in pairs] == [0, 1, 3]
    assert [(r.row, r.id, r.reason) for r in rejects] == [
        (2, "a", "duplicate_id"),
        (4, "b", "duplicate_id"),
        (5, "a", "duplicate_id"),
    ]
    assert [r.row for r in split(corpus.records(4, 6))[1]] == [4, 5]


def test_a_whole_number_and_its_text_are_one_id(tmp_path: Path) -> None:
    corpus = opened(write_manifest(tmp_path, [edit(0, id=7), edit(1, id="7")]))
    assert [getattr(item, "reason", item.id) for item in corpus.records()] == ["7", "duplicate_id"]


def test_task_is_told_from_the_pictures_when_absent(tmp_path: Path) -> None:
    records = [
        edit(0, task=None),
        edit(1, task=None, source=None, references=["r.jpg"]),
        edit(2, task=None, source=None),
        edit(3, task=None, source=None, target=None),
        edit(4, source=None, target=None),
        edit(5, task=None, references=["r.jpg"]),
    ]
    path = write_manifest(tmp_path, records)
    tasks = [item.task for item in split(opened(path).records())[0]]
    assert tasks == ["edit", "customization", "generation", "generation", "edit", "edit"]
    stated = [item.task for item in split(opened(path, task="customization").records())[0]]
    assert stated == ["customization"] * 4 + ["edit", "customization"]


def test_extra_fields_are_kept_json_safe_and_bounded(tmp_path: Path) -> None:
    line = json.dumps(edit(0, label="l", nested={"a": [1, None]}, big="x" * 70_000, bad="\ud800"))
    line = line[:-1] + ', "nan": NaN, "inf": -Infinity}'
    (pair,), rejects = split(opened(write_manifest(tmp_path, [line])).records())
    assert rejects == []
    assert pair.extra == {
        "label": "l",
        "nested": {"a": [1, None]},
        "bad": "?",
        "nan": None,
        "inf": None,
        DROPPED: ["big"],
    }
    json.dumps(pair.extra, allow_nan=False).encode()


def test_columns_are_mapped_and_renamed(tmp_path: Path) -> None:
    record = {"key": 5, "text": {"en": ["first", "second"]}, "before": "a.jpg", "r1": "x.jpg", "r2": None, "kind": "k"}
    columns = {
        "id": "key",
        "instruction": "text.en.1",
        "source": "input|before",
        "references": "r1+r2",
        "label": "kind",
    }
    corpus = opened(write_manifest(tmp_path, [record]), columns=columns, task="edit")
    (pair,), _ = split(corpus.records())
    assert (pair.id, pair.instruction, pair.task) == ("5", "second", "edit")
    assert [(image.role, image.uri) for image in pair.images] == [("source", "a.jpg"), ("ref0", "x.jpg")]
    assert pair.extra == {"label": "k", "text": {"en": ["first", "second"]}}


def test_a_mapping_mistake_names_the_columns_that_exist(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [{"key": "a", "prompt": "p", "input_image": "a.jpg"}])
    with pytest.raises(
        ConfigError, match=r"no column 'instruction'.*--columns instruction=NAME.*key, prompt, input_image"
    ):
        opened(path)
    with pytest.raises(ConfigError, match=r"'img' \(mapped to source\) does not exist; the columns are key, prompt"):
        opened(path, columns={"instruction": "prompt", "source": "img", "id": "key"})
    with pytest.raises(ConfigError, match=r"'x' \(mapped to references\) does not exist"):
        opened(path, columns={"instruction": "prompt", "references": "input_image+x", "id": "key"})
    with pytest.raises(ConfigError, match=r"'x' \(mapped to keep\) does not exist"):
        opened(path, columns={"instruction": "prompt", "id": "key", "keep": "x"})
    with pytest.raises(ConfigError, match="a manifest states an 'id'"):
        opened(path, columns={"instruction": "prompt"})
    with pytest.raises(ConfigError, match="unknown corpus preset 'nope'"):
        opened(path, preset="nope")
    assert [p.id for p in opened(path, columns={"instruction": "prompt", "id": ""}).records()] == ["000000000"]


def test_a_task_column_of_another_meaning_is_named(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [edit(i, task="removal") for i in range(3)])
    with pytest.raises(ConfigError, match=r"""'task' holds 'removal'.*'corpus\.columns\.task=""' and --task edit"""):
        opened(path)
    (pair, *_), _ = split(opened(path, columns={"task": ""}, task="edit").records())
    assert (pair.task, pair.extra) == ("edit", {"task": "removal"})


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no corpus at"):
        opened(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"is no corpus: no manifest\.jsonl"):
        opened(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"cannot tell what notes\.txt is"):
        opened(tmp_path / "notes.txt")
    (tmp_path / "manifest.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="has no rows"):
        _ = opened(tmp_path).rows


def test_nested_manifests_are_one_corpus(tmp_path: Path) -> None:
    for name in ("b", "a/x"):
        write_pictures(tmp_path / name, 1)
        write_manifest(tmp_path / name, [edit(0, id=name)])
    write_manifest(tmp_path / ".hidden", [edit(0)])
    corpus = opened(tmp_path)
    pairs, _ = split(corpus.records())
    assert [p.id for p in pairs] == ["a/x", "b"]
    assert pairs[0].images[0].uri == "a/x/images/0_s.jpg"
    assert corpus.read_image(pairs[1].images[1]) == (tmp_path / "b/images/0_t.jpg").read_bytes()


def test_fingerprint_follows_content_and_mapping_not_place(tmp_path: Path) -> None:
    records = [edit(i) for i in range(3)]
    one = opened(write_manifest(tmp_path / "1/c", records)).fingerprint
    assert opened(write_manifest(tmp_path / "2/c", records)).fingerprint == one
    assert opened(write_manifest(tmp_path / "3/c", records[::-1])).fingerprint != one
    assert opened(tmp_path / "1/c", columns={"instruction": "id"}).fingerprint != one
    assert opened(tmp_path / "1/c", name="other").fingerprint != one


def refused(corpus: Corpus, uri: str) -> str:
    with pytest.raises(ImageRejected) as caught:
        corpus.read_image(ImageRef(role="source", uri=uri))
    assert caught.value.stage == "read"
    return caught.value.reason


def test_reading_pictures_stays_inside_and_bounded(tmp_path: Path) -> None:
    root = tmp_path / "c"
    write_manifest(root, [edit(0)])
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encode(picture()))
    (root / "leaves.jpg").symlink_to(secret)
    (root / "leaves").symlink_to(tmp_path)
    (root / "inside.jpg").write_bytes(b"12345")
    (root / "link.jpg").symlink_to("inside.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    (tmp_path / "c2").mkdir()
    (tmp_path / "c2/x.jpg").write_bytes(b"1")
    corpus = opened(root, limits={"max_image_bytes": 5})
    assert corpus.read_image(ImageRef(role="source", uri="inside.jpg")) == b"12345"
    assert corpus.read_image(ImageRef(role="source", uri="link.jpg")) == b"12345"
    for uri in ("leaves.jpg", "leaves/secret.jpg", str(secret), "../secret.jpg", "../c2/x.jpg", "http://a/b"):
        assert refused(corpus, uri) == "path_outside_root", uri
    assert refused(corpus, "gone.jpg") == "missing_image"
    assert refused(corpus, "inside.jpg/x") == "missing_image"
    assert refused(corpus, "pipe.jpg") == "unreadable_file"
    assert refused(corpus, "folder.jpg") == "unreadable_file"
    assert refused(corpus, "loop.jpg") in ("missing_image", "unreadable_file")
    assert refused(corpus, "x" * 5000) == "unreadable_file"
    (root / "inside.jpg").write_bytes(b"123456")
    assert refused(corpus, "inside.jpg") == "image_too_large_bytes"


def test_a_fault_of_the_machine_is_no_reject(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    corpus = opened(write_manifest(tmp_path, [edit(0)]))
    (pair,), _ = split(corpus.records())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # the next file cannot be opened
    try:
        with pytest.raises(StoppedError, match=r"Too many open files.*run the same command again"):
            corpus.read_image(pair.images[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert corpus.read_image(pair.images[0])


def test_rejects_say_nothing_of_the_machine(tmp_path: Path) -> None:
    write_manifest(tmp_path / "c", [edit(0), edit(1, source="/abs.jpg"), "{"])
    corpus = opened(tmp_path / "c")
    (pair,), rejects = split(corpus.records())
    with pytest.raises(ImageRejected) as caught:
        corpus.read_image(pair.images[0])
    assert all(str(tmp_path) not in text for text in [caught.value.detail, *(r.detail for r in rejects)])


def test_a_manifest_that_leaves_by_a_link_is_an_error(tmp_path: Path) -> None:
    real = write_manifest(tmp_path / "elsewhere", [edit(0)])
    (tmp_path / "c/sub").mkdir(parents=True)
    (tmp_path / "c/sub/manifest.jsonl").symlink_to(real)
    with pytest.raises(DataError, match="leaves the corpus folder"):
        opened(tmp_path / "c")


def test_a_folder_that_leaves_by_a_link_is_an_error(tmp_path: Path) -> None:
    write_manifest(tmp_path / "elsewhere", [edit(0)])
    write_manifest(tmp_path / "c/a", [edit(1)])
    (tmp_path / "c/same").symlink_to("a")
    assert opened(tmp_path / "c").rows == 1
    (tmp_path / "c/out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="folder 'out' is a link that leaves the corpus folder"):
        opened(tmp_path / "c")


def test_image_root_is_where_paths_start_and_stay(tmp_path: Path) -> None:
    write_manifest(tmp_path / "labels", [edit(0), edit(1, source="../labels/manifest.jsonl")])
    write_pictures(tmp_path / "pictures", 1)
    corpus = opened(tmp_path / "labels", image_root=str(tmp_path / "pictures"))
    (pair,), (reject,) = split(corpus.records())
    assert corpus.read_image(pair.images[0]) == (tmp_path / "pictures/images/0_s.jpg").read_bytes()
    assert reject.reason == "path_outside_root"
    with pytest.raises(ConfigError, match="is no folder"):
        opened(tmp_path / "labels", image_root=str(tmp_path / "gone"))


def _read_in_process(corpus: Corpus, pair: Pair) -> bytes:
    return corpus.read_image(pair.images[0])


def test_pickles_into_a_spawned_process(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    corpus = opened(write_manifest(tmp_path, [edit(0)]))
    (pair,), _ = split(corpus.records())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        data = pool.apply(_read_in_process, (corpus, pair))
    assert data == (tmp_path / "images/0_s.jpg").read_bytes()


def test_reopening_reads_no_rows(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    path = write_manifest(tmp_path, [edit(0)])
    corpus = opened(path)
    (pair,), _ = split(corpus.records())
    blob = pickle.dumps(corpus)
    path.unlink()  # whoever only reads pictures needs no manifest
    again = pickle.loads(blob)
    assert again.spec == corpus.spec
    assert again.read_image(pair.images[0])


json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
records = st.dictionaries(
    st.sampled_from(["id", "task", "instruction", "source", "target", "references", "label"]), json_values
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records | st.binary(max_size=30).map(lambda b: b.replace(b"\n", b" ") + b"x"), max_size=5))
def test_random_lines_never_crash(tmp_path: Path, drawn: list[dict[str, JsonValue] | bytes]) -> None:
    lines = [json.dumps(edit(0)).encode()]
    lines += [item if isinstance(item, bytes) else json.dumps(item).encode() for item in drawn]
    (tmp_path / "manifest.jsonl").write_bytes(b"\n".join(lines))
    items = list(opened(tmp_path).records())
    assert [item.row for item in items] == list(range(len(lines)))
    for item in items:
        item.model_dump_json()
        if isinstance(item, Pair):
            json.dumps(item.extra, allow_nan=False).encode()
