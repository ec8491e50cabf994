"""Run -> export -> import -> run: every bit, every refusal by name, and what bf16 does to routing."""

import json

import pytest
import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from support_interchange import RELEASED, arguments_of, make_run, stored, write_fresh, write_model
from support_train import ToySource, tiny_inputs, toy_config
from tagmoe.schema import ConfigError, DataError, load_taxonomy
from tagmoe.train.build import build_model
from tagmoe.train.interchange.export import diffusers_config, export_run
from tagmoe.train.interchange.importing import import_checkpoint
from tagmoe.train.interchange.layouts import check_released
from tagmoe.train.interchange.load import load_pretrained
from tagmoe.train.interchange.tensors import FolderTensors
from tagmoe.train.interchange.verify import check, open_checkpoint
from tagmoe.train.loop import train
from tagmoe.train.model import TagMoETransformer


def folder_values(folder) -> dict[str, torch.Tensor]:
    headers = open_checkpoint(folder).tensors
    return dict(FolderTensors(headers).read(list(headers)))


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def native_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("native") / "run", engine__ema=0.5)[0]


@pytest.fixture(scope="module")
def released_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("released") / "run", engine__ema=0, **RELEASED)


def test_float32_export_holds_the_checkpoint_bit_for_bit(native_run, tmp_path):
    done = export_run(native_run, out=tmp_path / "live", layout="native", dtype="F32", live=True)
    assert_equal(folder_values(tmp_path / "live"), stored(native_run, 2))
    assert (done.step, done.weights, done.flips.share) == (2, "live", 0.0)
    averaged = {**stored(native_run, 2), **stored(native_run, 2, "ema")}
    export_run(native_run, out=tmp_path / "ema", layout="native", dtype="F32", step=2)
    assert_equal(folder_values(tmp_path / "ema"), averaged)
    assert any(not torch.equal(averaged[k], v) for k, v in stored(native_run, 2).items())


def test_an_older_step_can_be_taken_and_a_missing_one_is_named(native_run, tmp_path):
    export_run(native_run, out=tmp_path / "one", layout="native", dtype="F32", live=True, step=1, probe_tokens=0)
    assert_equal(folder_values(tmp_path / "one"), stored(native_run, 1))
    with pytest.raises(DataError, match=r"no checkpoint of step 9: steps \[1, 2\]"):
        export_run(native_run, out=tmp_path / "nine", layout="native", step=9)
    with pytest.raises(DataError, match="no run"):
        export_run(tmp_path, out=tmp_path / "x", layout="native")


def test_released_round_trip_is_bit_exact(released_run, tmp_path):
    run, config = released_run
    done = export_run(run, out=tmp_path / "a", layout="released")
    wanted = {name: value.bfloat16() for name, value in stored(run, 2).items()}
    assert_equal(folder_values(tmp_path / "a"), wanted)
    assert any(note.startswith("num_layers=3") for note in done.notes)
    import_checkpoint(tmp_path / "a", out=tmp_path / "b", layout="released")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a/transformer" / name).read_bytes() == (tmp_path / "b/transformer" / name).read_bytes()
    assert json.loads((tmp_path / "b/transformer/config.json").read_text()) == json.loads(
        (tmp_path / "a/transformer/config.json").read_text()
    )
    model, _ = build_model(config, taxonomy=load_taxonomy())
    assert load_pretrained(model, tmp_path / "b", mode="none", seed=0) == {}
    assert_equal(model.state_dict(), {name: value.float() for name, value in wanted.items()})


def test_released_to_native_and_back_computes_the_same(released_run, tmp_path):
    export_run(released_run[0], out=tmp_path / "a", layout="released", probe_tokens=0)
    import_checkpoint(tmp_path / "a", out=tmp_path / "n", layout="native")
    import_checkpoint(tmp_path / "n", out=tmp_path / "r", layout="released")
    first, native, back = (folder_values(tmp_path / name) for name in "anr")
    assert_equal(back, first)
    assert native["transformer_blocks.2.img_mlp.experts.mlp.b1"].count_nonzero() == 0
    inputs = {**tiny_inputs()}
    outputs = []
    for name in "an":
        model = TagMoETransformer.from_pretrained(tmp_path / name / "transformer").eval()
        outputs.append(model(**inputs).sample)
    assert torch.equal(*outputs)


def test_diffusers_loads_the_export_and_computes_the_same(native_run, tmp_path):
    export_run(native_run, out=tmp_path / "m", layout="native", dtype="F32", live=True, probe_tokens=0)
    config = json.loads((native_run / "config.json").read_text())
    mine = TagMoETransformer(**arguments_of(toy_config(engine__ema=0.5))).eval()
    mine.load_state_dict(stored(native_run, 2), strict=True)
    theirs = TagMoETransformer.from_pretrained(tmp_path / "m" / "transformer").eval()
    assert torch.equal(mine(**tiny_inputs()).sample, theirs(**tiny_inputs()).sample)
    assert config["moe"]["layout"] == theirs.config["expert_layout"] == "native"


def test_several_files_hold_the_same_tensors(released_run, tmp_path):
    export_run(released_run[0], out=tmp_path / "one", layout="released", probe_tokens=0)
    done = export_run(released_run[0], out=tmp_path / "many", layout="released", max_file_bytes=60_000, probe_tokens=0)
    assert len(done.files) > 3
    assert_equal(folder_values(tmp_path / "many"), folder_values(tmp_path / "one"))
    theirs = TagMoETransformer.from_pretrained(tmp_path / "many" / "transformer", torch_dtype=torch.bfloat16)
    assert_equal(theirs.state_dict(), folder_values(tmp_path / "one"))
    index = json.loads((tmp_path / "many/transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * done.parameters
    with pytest.raises(ConfigError, match="exists"):
        export_run(released_run[0], out=tmp_path / "many", layout="released")


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ({"moe__layout": "native"}, "inner biases"),
        ({"moe__router": "mlp2"}, "moe.router=mlp2"),
        ({"moe__router_input": "unmodulated"}, "moe.router_input=unmodulated"),
        ({"moe__gate": "straight_through"}, "moe.gate=straight_through"),
        ({"moe__top_k": 2}, "moe.top_k=2"),
        ({"alignment__signature": "per_layer"}, "alignment.signature=per_layer"),
        ({"moe__ffn": "dense"}, "moe.ffn=dense"),
    ],
)
def test_released_refuses_by_name(sets, named):
    check_released(arguments_of(toy_config(**RELEASED)), selection_bias=False)
    with pytest.raises(ConfigError, match=named):
        check_released(arguments_of(toy_config(**{**RELEASED, **sets})), selection_bias=False)


def test_a_refused_export_writes_nothing(native_run, tmp_path):
    with pytest.raises(ConfigError, match="inner biases"):
        export_run(native_run, out=tmp_path / "out", layout="released")
    assert not (tmp_path / "out").exists()


def test_released_refuses_another_dtype(released_run, tmp_path):
    with pytest.raises(ConfigError, match="BF16 only"):
        export_run(released_run[0], out=tmp_path / "out", layout="released", dtype="F32")


def test_the_selection_bias_survives_a_native_export(tmp_path):
    run, config = make_run(tmp_path / "run", moe__selection_bias_rate=0.25, engine__ema=0)
    with pytest.raises(ConfigError, match=r"moe\.selection_bias_rate"):
        export_run(run, out=tmp_path / "r", layout="released")
    bias_LE = stored(run, 2, "router")["bias"]
    assert bias_LE.abs().max() >= 0.25
    done = export_run(run, out=tmp_path / "m", layout="native", dtype="F32")
    assert done.flips.share == 0
    model = TagMoETransformer(**arguments_of(config))
    load_pretrained(model, tmp_path / "m", mode="none", seed=0)
    assert torch.equal(torch.stack([router.selection_bias for router in model.routers]), bias_LE)


def test_bf16_flips_are_counted_against_a_model_run_whole(tmp_path):
    """Routers so flat that rounding decides: the streamed probe must count what two whole models show."""
    from tagmoe.train.interchange.probe import SAMPLES, SIGMA, TEXT_TOKENS, count_flips

    model = write_fresh(tmp_path, **RELEASED)[1]
    with torch.no_grad():
        for router in model.routers:
            router.layer.weight.mul_(1e-3)
    arguments = arguments_of(toy_config(**RELEASED))
    low = write_model(tmp_path / "low", model, config=diffusers_config(arguments), dtype="BF16")
    high = write_model(tmp_path / "high", model, config=diffusers_config(arguments))
    sources = [FolderTensors(open_checkpoint(path).tensors) for path in (high, low)]
    flips = count_flips(arguments, before=sources[0], after=sources[1], dtype="BF16", tokens=49, seed=3)

    generator = torch.Generator().manual_seed(3)
    image = torch.randn(SAMPLES, 49, 64, generator=generator)
    text = torch.randn(SAMPLES, TEXT_TOKENS, 24, generator=generator)
    shapes = [[(1, 7, 7)]] * SAMPLES
    with torch.no_grad():
        first = model.eval()(image, text, None, torch.full((SAMPLES,), SIGMA), shapes).routing
        whole = model.bfloat16()
        args = (image.bfloat16(), text.bfloat16(), None, torch.full((SAMPLES,), SIGMA).bfloat16(), shapes)
        second = whole(*args).routing
    counted = [
        int((a.ids_BTK[..., 0] != b.logits_BTE.bfloat16().softmax(-1).argmax(-1)).sum())
        for a, b in zip(first, second, strict=True)
    ]
    assert list(flips.per_layer) == counted
    assert flips.tokens == SAMPLES * 49
    assert 0 < flips.share < 1


def test_a_run_starts_from_dense_weights_exactly(tmp_path):
    """Upcycling from a dense folder: the MoE model's output is the dense model's, on float32 rounding."""
    dense_folder, dense = write_fresh(tmp_path / "dense", moe__ffn="dense")
    config = toy_config(
        model__pretrained=str(dense_folder), moe__upcycle="exact", moe__gate="straight_through", moe__layout="native"
    )
    assert (
        json.loads((dense_folder / "transformer/config.json").read_text())["_class_name"]
        == "QwenImageTransformer2DModel"
    )
    theirs = QwenImageTransformer2DModel.from_pretrained(dense_folder / "transformer")
    assert_equal(theirs.state_dict(), dense.state_dict())
    model = TagMoETransformer(**arguments_of(config))
    errors = load_pretrained(model, dense_folder, mode="exact", seed=0)
    assert set(errors) == {"layer0", "layer1"}
    assert max(errors.values()) < 1e-12
    with torch.no_grad():
        got, wanted = model.eval()(**tiny_inputs()).sample, dense.eval()(**tiny_inputs()).sample
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_training_starts_from_an_import(released_run, tmp_path):
    export_run(released_run[0], out=tmp_path / "m", layout="released", probe_tokens=0)
    again = toy_config(
        model__pretrained=str(tmp_path / "m"),
        steps=1,
        optimizer__lr=1e-30,
        engine__ema=0,
        optimizer__weight_decay=0,
        **RELEASED,
    )
    train(again, out=tmp_path / "next", source=ToySource(batch_size=again.micro_batch))
    assert_equal(
        stored(tmp_path / "next", 1), {name: value.float() for name, value in folder_values(tmp_path / "m").items()}
    )


def test_loading_another_model_is_refused_by_name(tmp_path):
    folder, _ = write_fresh(tmp_path / "a")
    model = TagMoETransformer(**arguments_of(toy_config(moe__experts=3)))
    with pytest.raises(ConfigError, match="num_experts is 4 there and 3 here"):
        load_pretrained(model, folder, mode="none", seed=0)
    # The same keys and shapes, yet another function.
    model = TagMoETransformer(**arguments_of(toy_config(moe__gate="straight_through")))
    with pytest.raises(ConfigError, match="gate is raw there and straight_through here"):
        load_pretrained(model, folder, mode="none", seed=0)


def test_experts_only_weights_go_onto_their_base(tmp_path):
    from support_interchange import StateSource
    from tagmoe.train.interchange.contract import Architecture, expert_keys
    from tagmoe.train.interchange.writer import write_transformer

    whole, model = write_fresh(tmp_path / "whole", dtype="BF16", **RELEASED)
    arguments = arguments_of(toy_config(**RELEASED))
    state = model.state_dict()
    only = {name: state[name] for name in expert_keys(Architecture.of(arguments))}
    config = diffusers_config(arguments)
    write_transformer(tmp_path / "only/transformer", config=config, source=StateSource(only), dtype="BF16")
    found = open_checkpoint(tmp_path / "only")
    assert (found.kind, check(found)) == ("experts-only", [])

    dense = TagMoETransformer(**arguments_of(toy_config(moe__ffn="dense")))
    dense.load_state_dict({k: v for k, v in state.items() if k not in only}, strict=False)
    base = write_model(
        tmp_path / "base", dense, config=diffusers_config(arguments_of(toy_config(moe__ffn="dense"))), dtype="BF16"
    )
    with pytest.raises(ConfigError, match="--base"):
        import_checkpoint(tmp_path / "only", out=tmp_path / "x", layout="released")
    import_checkpoint(tmp_path / "only", out=tmp_path / "joined", layout="released", base=base)
    assert_equal(folder_values(tmp_path / "joined"), folder_values(whole))
