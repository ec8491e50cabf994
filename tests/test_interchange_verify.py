"""Damaged, hostile and merely wrong checkpoints: each is named, none is believed, nothing is unpickled."""

import json
import pickle
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support_interchange import RELEASED, StateSource, arguments_of, write_fresh
from support_train import toy_config
from tagmoe.schema import ConfigError, DataError, TagmoeError
from tagmoe.train.interchange.commands import register
from tagmoe.train.interchange.export import diffusers_config
from tagmoe.train.interchange.headers import INDEX, WEIGHTS, read_header, read_tensors
from tagmoe.train.interchange.verify import check, open_checkpoint
from tagmoe.train.interchange.writer import write_transformer
from typer import Typer
from typer.testing import CliRunner

app = Typer()
register(app)
run = CliRunner().invoke


@pytest.fixture(scope="module")
def state():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return write_fresh(Path(folder), **RELEASED)[1].state_dict()


def write(folder, state, *, dtype="BF16", **options):
    config = diffusers_config(arguments_of(toy_config(**RELEASED)))
    write_transformer(folder / "transformer", config=config, source=StateSource(state), dtype=dtype, **options)
    return folder


def test_a_sound_checkpoint_passes(state, tmp_path):
    folder = write(tmp_path / "m", state)
    result = run(app, ["verify-checkpoint", str(folder), "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["contract"], document["sound"], document["dtypes"]) == ("released", True, ["BF16"])
    assert document["tensors"] == len(state)
    assert document["parameters"] == sum(value.numel() for value in state.values())
    assert run(app, ["verify-checkpoint", str(folder / "transformer")]).exit_code == 0


def test_every_difference_is_named_and_nothing_else(state, tmp_path):
    wrong = dict(state)
    del wrong["transformer_blocks.1.img_mlp.router.layer.weight"]
    wrong["transformer_blocks.0.img_mlp.router.layer.weight"] = torch.zeros(4, 32)
    key = "transformer_blocks.2.img_mlp.experts.mlp.w2"
    wrong[key] = wrong[key].T.contiguous()
    folder = write(tmp_path / "m", wrong)
    result = run(app, ["verify-checkpoint", str(folder), "--json"])
    assert result.exit_code == 1
    assert [(f["problem"], f["key"]) for f in json.loads(result.stdout)["findings"]] == [
        ("missing", "transformer_blocks.1.img_mlp.router.layer.weight"),
        ("misshapen", key),
        ("extra", "transformer_blocks.0.img_mlp.router.layer.weight"),
    ]


def test_released_weights_in_another_dtype_are_found(state, tmp_path):
    folder = write(tmp_path / "m", state, dtype="F32")
    assert {f.problem for f in check(open_checkpoint(folder))} == {"dtype"}


def test_without_a_configuration_the_published_contract_counts(state, tmp_path):
    folder = write(tmp_path / "m", state)
    (folder / "transformer/config.json").unlink()
    opened = open_checkpoint(folder)
    assert opened.kind == "released"
    assert "published" in opened.notes[0]
    # Sixty blocks are expected of a file with three.
    assert sum(f.problem == "missing" for f in check(opened)) > 1000


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:-1], "cut or has bytes appended"),
        (lambda data: data + b"\0", "cut or has bytes appended"),
        (lambda data: data[:5], "cut short"),
        (lambda data: b"", "cut short"),
        (lambda data: struct.pack("<Q", 1 << 60) + data[8:], "at most 100000000"),
        (lambda data: data[:8] + b"[" * (len(data) - 8), "sound JSON"),
        (lambda data: data.replace(b'"shape":[32]', b'"shape":[33]', 1), "needs"),
        (lambda data: data.replace(b"BF16", b"XF16", 1), "not of the format"),
        (lambda data: pickle.dumps({"a": 1}) + data, "cut short"),
    ],
)
def test_a_damaged_file_is_named(state, tmp_path, damage, says):
    folder = write(tmp_path / "m", state)
    path = folder / "transformer" / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=says):
        open_checkpoint(folder)


def header_file(path, header: object, body: bytes = b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
            },
            "must not gap",
        ),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}, "must not gap"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 6]}}, "not of the format"),
        ({"a": {"dtype": "F32", "shape": ["x", 10**12], "data_offsets": [0, 6]}}, "not of the format"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 6]}}, "not of the format"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 6]}}, "not of the format"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [6, 2]}}, "needs 4 bytes"),
        ({"a": 3}, "not of the format"),
        ([1, 2], "expected an object"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b"\xff\xfe{}", "sound JSON"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path, header, says):
    with pytest.raises(DataError, match=says):
        read_header(header_file(tmp_path / "x.safetensors", header, b"123456"))


@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_or_read_but_never_crash(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    try:
        assert read_header(path) == {}
    except TagmoeError:
        pass


def test_pickles_are_named_and_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"diffusion_pytorch_model\.bin: pickles are never read"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update({"ghost": next(iter(m.values()))}), "ghost is not in"),
        (lambda m: m.pop("proj_out.weight"), "proj_out.weight is in .* nothing of it"),
        (lambda m: m.update({"proj_out.weight": "../outside.safetensors"}), "plain names"),
        (lambda m: m.update({"proj_out.weight": "other.bin"}), "plain names"),
        (lambda m: m.update({"proj_out.weight": "gone.safetensors"}), "gone.safetensors cannot be read"),
        (lambda m: m.update({"proj_out.weight": 3}), "not an object of file names"),
    ],
)
def test_an_index_that_lies_is_refused(state, tmp_path, change, says):
    folder = write(tmp_path / "m", state, max_file_bytes=100_000) / "transformer"
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=says):
        read_tensors(folder)


def test_an_index_beside_a_single_file_is_ambiguous(state, tmp_path):
    folder = write(tmp_path / "m", state)
    (folder / "transformer" / INDEX).write_text("{}")
    with pytest.raises(DataError, match="both"):
        open_checkpoint(folder)


def test_an_oversized_or_foreign_configuration_is_refused(state, tmp_path):
    folder = write(tmp_path / "m", state)
    path = folder / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": 10**12}))
    with pytest.raises(ConfigError, match="num_layers"):
        open_checkpoint(folder)
    path.write_bytes(b" " * (2 << 20))
    with pytest.raises(DataError, match="more than 1048576 bytes"):
        open_checkpoint(folder)
    with pytest.raises(DataError, match="no diffusers checkpoint"):
        open_checkpoint(tmp_path / "nowhere")
