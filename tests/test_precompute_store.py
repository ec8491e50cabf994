"""Precompute on real shards: bytes, resume, binding, damage, and training from the stored tensors."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from support_precompute import TEXT_DIM, tiny_pipeline
from support_shards import BuildConfig, build_shards, make_run, mixed
from support_train import toy_config
from tagmoe.schema import ConfigError, DataError
from tagmoe.shards.stream import ShardStream, StreamConfig
from tagmoe.shards.tensors import MANIFEST, MAP, read_info
from tagmoe.train.loop import train
from tagmoe.train.precompute.commands import register
from tagmoe.train.precompute.encoder import OnlineEncoder, PrecomputedEncoder, make_encoder
from tagmoe.train.precompute.encoders import Settings, load_encoders
from tagmoe.train.precompute.tars import parse_span, read_npy
from tagmoe.train.sources import open_source
from typer import Typer
from typer.testing import CliRunner

app = Typer()
register(app)
AREA, TEXT = 32 * 32, 16
OPTIONS = ["--area", str(AREA), "--max-text-tokens", str(TEXT), "--batch", "3", "--name", "tiny", "--device", "cpu"]
CONFIG = {
    "data__encoder": "precomputed",
    "data__tensors": "tiny",
    "data__area": AREA,
    "data__max_text_tokens": TEXT,
    "model__joint_attention_dim": TEXT_DIM,
    "micro_batch": 1,
    "accumulation": 1,
}


def invoke(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def base(tmp_path_factory, pipeline):
    """Shards of 3 kinds with finished tensors."""
    folder = tmp_path_factory.mktemp("set")
    run = make_run(folder, mixed(12))
    build_shards(run, folder / "shards", config=BuildConfig(shard_samples=2, splits={"val": 0.25}), quiet=True)
    result = invoke("precompute", folder / "shards", "--encoders", pipeline, *OPTIONS, "--json")
    assert result.exit_code == 0, result.output
    return folder / "shards"


@pytest.fixture
def shards(base, tmp_path):
    return shutil.copytree(base, tmp_path / "shards")


def samples(shards):
    stream = ShardStream(shards, config=StreamConfig(batch_size=1, shuffle=False))
    return [sample for n in range(stream.batches_per_epoch) for sample in stream.batch(n).samples]


def tensors(shards):
    return shards / "tensors" / "tiny"


def test_stored_tensors_are_what_the_encoders_give(shards, pipeline):
    loaded = load_encoders(pipeline, settings=Settings(AREA, TEXT, 3), dtype=torch.float32, device=torch.device("cpu"))
    online = OnlineEncoder(lambda: loaded)
    stored = make_encoder(toy_config(**CONFIG), shards=str(shards))
    assert isinstance(stored, PrecomputedEncoder)
    kinds = set()
    for sample in samples(shards):
        found, wanted = stored.encode(sample), online.encode(sample)
        assert found.shapes == wanted.shapes
        torch.testing.assert_close(found.target_TC, wanted.target_TC, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(found.text_SD, wanted.text_SD, rtol=2e-3, atol=2e-3)
        for (a, _), (b, _) in zip(found.conditions, wanted.conditions, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
        assert found.text_SD.dtype == torch.float16
        kinds.add((sample.task, len(found.conditions)))
    assert kinds == {("edit", 1), ("generation", 0), ("customization", 2)}
    torch.testing.assert_close(stored.null_text_SD, online.null_text_SD)


def test_plain_tar_and_numpy_read_the_tensors_and_pictures_are_untouched(base, tmp_path):
    names = {path.stem for path in tensors(base).glob("*.tar")}
    assert names == {path.stem for path in base.glob("*.tar")}
    for path in tensors(base).glob("customization-*.tar"):
        with tarfile.open(path) as tar:
            members = tar.getnames()
            first = np.load(io.BytesIO(tar.extractfile(members[0]).read()), allow_pickle=False)
        keys = {name.partition(".")[0] for name in members}
        assert {name.partition(".")[2] for name in members} == {"target.npy", "ref0.npy", "ref1.npy", "text.npy"}
        assert len(members) == 4 * len(keys)
        assert (first.dtype, first.shape[0]) == (np.float16, 16)


def test_the_estimate_is_exact_and_comes_first(base, pipeline):
    result = invoke("precompute", base, "--encoders", pipeline, *OPTIONS, "--dry-run", "--json")
    document = json.loads(result.stdout)
    values = 0
    for path in tensors(base).glob("*.tar"):
        with tarfile.open(path) as tar:
            values += sum(np.load(io.BytesIO(tar.extractfile(m).read())).nbytes for m in tar)
    assert document["bytes"] == values
    assert document["estimate"]["pictures"] == 4 * 2 + 4 + 4 * 3
    assert "a sample" in invoke("precompute", base, "--encoders", pipeline, *OPTIONS, "--dry-run").stdout


def test_the_known_arithmetic_of_real_sizes():
    """1024 x 1024: a latent of 0.5 MB; 300 tokens of 3584: 2.1 MB, 24 TB for 11 million samples."""
    from tagmoe.train.precompute.storage import Estimate

    latent, text = 16 * 128 * 128 * 2, 300 * 3584 * 2
    estimate = Estimate(11_000_000, 22_000_000, 22_000_000 * latent, 300.0, 11_000_000 * text, 20_000)
    lines = "\n".join(estimate.lines())
    assert "1.0 MB a sample" in lines
    assert "2.2 MB a sample" in lines
    assert round(estimate.text_bytes / 1e12) == 24


def test_no_room_is_said_before_any_work(shards, pipeline, monkeypatch):
    import collections

    shutil.rmtree(shards / "tensors")
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 1000, 0))
    with pytest.raises(ConfigError, match="GB free"):
        invoke("precompute", shards, "--encoders", pipeline, *OPTIONS)
    assert not (shards / "tensors").exists()


def test_it_goes_on_where_it_stopped_and_gives_the_same_bytes(shards, base, pipeline):
    torn = sorted(tensors(shards).glob("*.tar"))
    torn[0].unlink()
    torn[1].write_bytes(torn[1].read_bytes()[:-1])
    (tensors(shards) / f"{torn[2].stem}.parquet").unlink()
    kept = torn[3].stat().st_mtime_ns
    (tensors(shards) / MANIFEST).unlink()
    assert invoke("precompute", shards, "--encoders", pipeline, *OPTIONS).exit_code == 0
    assert torn[3].stat().st_mtime_ns == kept
    for path in (p for p in tensors(base).iterdir() if not p.name.startswith(".")):
        assert (tensors(shards) / path.name).read_bytes() == path.read_bytes(), path.name


def test_partitions_meet_in_one_set(shards, base, pipeline):
    shutil.rmtree(shards / "tensors")
    first = invoke("precompute", shards, "--encoders", pipeline, *OPTIONS, "--partition", "0/2")
    assert "others are not" in first.stdout
    with pytest.raises(DataError, match="not finished"):
        make_encoder(toy_config(**CONFIG), shards=str(shards))
    invoke("precompute", shards, "--encoders", pipeline, *OPTIONS, "--partition", "1/2")
    assert (tensors(shards) / MAP).read_bytes() == (tensors(base) / MAP).read_bytes()
    assert read_info(tensors(shards)) == read_info(tensors(base))
    with pytest.raises(ConfigError, match="I/N"):
        invoke("precompute", shards, "--encoders", pipeline, *OPTIONS, "--partition", "2/2")


def test_appended_shards_are_added_and_other_encoders_start_anew(shards, base, pipeline, tmp_path):
    more = make_run(tmp_path / "more", mixed(6, prefix="n"), name="more")
    build_shards(more, shards, config=BuildConfig(shard_samples=2, splits={"val": 0.25}), quiet=True)
    with pytest.raises(ConfigError, match="shards have no tensors named tiny yet"):
        make_encoder(toy_config(**CONFIG), shards=str(shards))
    before = {p.name: p.stat().st_mtime_ns for p in tensors(shards).glob("*.tar")}
    invoke("precompute", shards, "--encoders", pipeline, *OPTIONS)
    assert read_info(tensors(shards)).samples == 18
    assert all((tensors(shards) / name).stat().st_mtime_ns == time for name, time in before.items())
    other = tiny_pipeline(tmp_path / "other", seed=1)
    invoke("precompute", shards, "--encoders", other, *OPTIONS)
    assert all((tensors(shards) / name).stat().st_mtime_ns != time for name, time in before.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data__area": 64 * 64}, "data.area=4096, the tensors have 1024"),
        ({"data__max_text_tokens": 8}, "data.max_text_tokens=8"),
        ({"model__joint_attention_dim": 40}, "joint_attention_dim 40"),
        ({"data__tensors": "absent"}, "were not made, or not finished"),
    ],
)
def test_tensors_made_otherwise_are_refused_by_name(base, change, named):
    with pytest.raises((ConfigError, DataError), match=named):
        make_encoder(toy_config(**{**CONFIG, **change}), shards=str(base))


def test_tensors_behind_a_url_are_refused_with_a_way_out(base):
    for open_ in (lambda url: make_encoder(toy_config(**CONFIG), shards=url), open_train):
        with pytest.raises(ConfigError, match=r"not from s3://bucket/set: copy manifest\.json"):
            open_("s3://bucket/set")
    assert open_train(f"file://{base}").batch(0) == open_train(str(base)).batch(0)


def open_train(shards: str):
    return open_source(toy_config(**CONFIG), shards=shards, split="train")


def test_a_flipped_bit_is_named_not_trained_on(shards):
    sample = samples(shards)[0]
    encoder = PrecomputedEncoder(shards, config=toy_config(**CONFIG))
    row = encoder._find(sample.uid)
    path = tensors(shards) / f"{encoder.info.shards[int(row['shard'])]}.tar"
    data = bytearray(path.read_bytes())
    data[int(row["offset"]) + 2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"record {sample.id} in .*not those that were written"):
        encoder.encode(sample)


def test_a_sample_whose_bytes_are_bad_is_left_out_and_counted(shards, pipeline):
    shutil.rmtree(shards / "tensors")
    shard = min(shards.glob("edit-*.tar"))
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    result = invoke("precompute", shards, "--encoders", pipeline, *OPTIONS, "--json")
    assert json.loads(result.stdout)["tensors"]["missing"] == 1


def test_hostile_members_are_refused():
    with pytest.raises(DataError, match="no npy array"):
        read_npy(b"\x80\x04\x95")
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="no npy array"):
        read_npy(buffer.getvalue())
    with pytest.raises(DataError, match="sample"):
        parse_span(b"x" * 512, key="0" * 32)


def history(run) -> list[tuple[float, str]]:
    """Loss and hash of the sample ids of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["samples"]) for line in lines if "loss" in line]


TRAINING = {"steps": 4, "log__every": 1, "data__instruction_dropout": 0.5, "data__val_split": "val"}


def test_training_on_tensors_opens_no_tar_of_pictures(base, shards, pipeline, tmp_path):
    """The losses are those of the encoders run while training up to float16, the samples the same; tars may be gone."""
    stored = history(train(toy_config(**CONFIG, **TRAINING), out=tmp_path / "stored", shards=str(base)))
    for tar in shards.glob("*.tar"):
        tar.unlink()
    bare = history(train(toy_config(**CONFIG, **TRAINING), out=tmp_path / "bare", shards=str(shards)))
    assert bare == stored
    online = {**CONFIG, "data__encoder": "online", "data__encoder_path": str(pipeline)}
    read = history(train(toy_config(**online, **TRAINING), out=tmp_path / "online", shards=str(base)))
    assert [samples for _, samples in read] == [samples for _, samples in stored]
    assert [loss for loss, _ in stored] == pytest.approx([loss for loss, _ in read], rel=1e-2)
    assert len(stored) == 4
    assert all(np.isfinite(loss) for loss, _ in stored)


def test_samples_without_usable_tensors_are_replaced_counted_and_named(pipeline, tmp_path):
    """One that precompute could not read, and one whose tensors were hurt since."""
    shards = tmp_path / "shards"
    build_shards(make_run(tmp_path, mixed(24)), shards, config=BuildConfig(), quiet=True)
    damaged = min(shards.glob("edit-*-train-*.tar"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert invoke("precompute", shards, "--encoders", pipeline, *OPTIONS).exit_code == 0
    damaged.write_bytes(whole)
    tensor = min(tensors(shards).glob("generation-*-train-*.tar"))
    data = bytearray(tensor.read_bytes())
    data[2000] ^= 1
    tensor.write_bytes(data)
    source = open_source(toy_config(**CONFIG), shards=str(shards), split="train")
    epoch = number = 0
    reasons = []
    while epoch == 0:
        epoch, drawn = source.batch(number)
        assert len(drawn) == 1
        reasons += source.replaced(number)
        number += 1
    faults = source.stream.faults.faults
    assert sorted(fault.shard for fault in faults) == [damaged.stem, tensor.stem]
    assert sorted(reasons) == sorted(f"{fault.key} in {fault.shard}.tar" for fault in faults)
    assert "precompute could not read it" in faults[0].reason + faults[1].reason
    assert "not those that were written" in faults[0].reason + faults[1].reason
    assert source.stream.max_corrupt == 101
    tensor.unlink()
    source = open_source(toy_config(**CONFIG), shards=str(shards), split="train")
    with pytest.raises(DataError, match="cannot be opened"):
        list(map(source.batch, range(source.stream.batches_per_epoch)))
