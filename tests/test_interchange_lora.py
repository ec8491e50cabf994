"""Adapters: where they sit, that they change nothing at first, and that the export holds what they learned."""

import builtins

import pytest
import torch
from support_interchange import arguments_of, make_run
from support_train import tiny_inputs, toy_config
from tagmoe.schema import ConfigError, load_taxonomy
from tagmoe.train.build import build_model
from tagmoe.train.interchange.export import export_run, find_step
from tagmoe.train.interchange.load import load_pretrained
from tagmoe.train.interchange.tensors import RunTensors
from tagmoe.train.lora import adapted_modules, add_lora
from tagmoe.train.model import TagMoETransformer

LORA = {"engine__train": "lora", "engine__ema": 0, "lora__rank": 3, "lora__alpha": 6.0, "optimizer__lr": 0.05}


def test_adapters_sit_on_attention_only_and_change_nothing_yet():
    config = toy_config(**LORA)
    torch.manual_seed(config.seed)
    plain = TagMoETransformer(**arguments_of(config)).eval()
    adapted, _ = build_model(config, taxonomy=load_taxonomy())
    wrapped = {name.partition(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    assert wrapped == set(adapted_modules(adapted))
    assert not any("img_mlp" in name for name in wrapped)
    assert len(wrapped) == 3 * 8 - 2
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert any(".img_mlp.experts.mlp.w1" in name for name in trained)
    assert not any(name.endswith("base_layer.weight") for name in trained)
    mine = {n.replace(".base_layer.", "."): p for n, p in adapted.state_dict().items() if ".lora_" not in n}
    plain.load_state_dict(mine, strict=True)
    assert torch.equal(plain(**tiny_inputs()).sample, adapted.eval()(**tiny_inputs()).sample)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_export_holds_the_merged_weights(tmp_path, ema):
    run, config = make_run(tmp_path / "run", **{**LORA, "engine__ema": ema})
    stored = RunTensors(find_step(run, step=2), ema=bool(ema), lora_scale=2.0)
    model, _ = build_model(config, taxonomy=load_taxonomy())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    live = stored._load(
        {f"{'ema' if ema and p.requires_grad else 'model'}.{name}" for name, p in model.named_parameters()}
    )
    model.load_state_dict({name.partition(".")[2]: value for name, value in live.items()}, strict=True)
    moved = [n for n, p in model.named_parameters() if ".lora_B" in n and not torch.equal(p, before[n])]
    assert len(moved) == len(adapted_modules(model))
    export_run(run, out=tmp_path / "m", layout="native", dtype="F32")
    whole = TagMoETransformer(**arguments_of(config)).eval()
    load_pretrained(whole, tmp_path / "m", mode="none", seed=0)
    wanted, found = model.eval()(**tiny_inputs()).sample, whole(**tiny_inputs()).sample
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_without_peft_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    config = toy_config()
    model = TagMoETransformer(**arguments_of(config))
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'tagmoe\[lora\]'"):
        add_lora(model, config.lora)
