"""The contract is arithmetic; the models, built on the meta device at full size, must agree with it key for key."""

import functools
import math

import pytest
import torch
from tagmoe.schema import ConfigError, load_taxonomy
from tagmoe.schema.configs.train import PRESETS, TrainConfig
from tagmoe.train.build import transformer_arguments
from tagmoe.train.interchange.contract import Architecture, contract, expert_keys
from tagmoe.train.model import TagMoETransformer


@functools.cache
def arguments(preset: str) -> dict:
    return transformer_arguments(TrainConfig.model_validate(PRESETS[preset]), taxonomy=load_taxonomy())


def on_meta(preset: str) -> TagMoETransformer:
    with torch.device("meta"):
        return TagMoETransformer(**arguments(preset))


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_has_exactly_the_keys_and_shapes_of_its_contract(preset):
    assert shapes(on_meta(preset)) == contract(Architecture.of(arguments(preset)))


@pytest.mark.parametrize(
    "change",
    [
        {"router": "mlp2"},
        {"router": "mlp2", "router_input": "unmodulated+timestep"},
        {"signature": "per_layer"},
        {"num_experts": 3, "top_k": 2, "expert_layout": "native"},
    ],
)
def test_variants_have_the_keys_of_their_contract(change):
    given = {**arguments("tiny"), **change}
    with torch.device("meta"):
        model = TagMoETransformer(**given)
    assert shapes(model) == contract(Architecture.of(given))


def test_the_released_contract_is_the_published_one():
    """The table of the published weights, typed out."""
    keys = contract(Architecture.of(arguments("qwen-image-released")))
    for block in range(50, 60):
        mlp = {
            k.split("img_mlp.")[1]: s for k, s in keys.items() if k.startswith(f"transformer_blocks.{block}.img_mlp.")
        }
        assert mlp == {
            "router.layer.weight": (4, 3072),
            "experts.mlp.w1": (4 * 12288, 3072),
            "experts.mlp.w2": (4 * 12288, 3072),
            "experts.bias": (3072,),
        }
    assert not any("experts" in key for key in keys if key.startswith("transformer_blocks.49."))
    top = {key: shape for key, shape in keys.items() if key.startswith(("tag_embedding", "router_head"))}
    assert top == {
        "tag_embedding.weight": (18, 512),
        "router_head.net.0.weight": (256, 4),
        "router_head.net.0.bias": (256,),
        "router_head.net.2.weight": (256, 256),
        "router_head.net.2.bias": (256,),
        "router_head.net.4.weight": (512, 256),
        "router_head.net.4.bias": (512,),
    }
    assert set(top) < set(expert_keys(Architecture()))
    assert len(expert_keys(Architecture())) == 10 * 4 + 7


def test_sizes_are_the_papers():
    count = {name: sum(map(math.prod, contract(Architecture.of(arguments(name))).values())) for name in PRESETS}
    assert round(count["qwen-image-dense"] / 1e9, 2) == 20.43
    assert round(count["qwen-image-released"] / 1e9, 2) == 22.70
    keys = contract(Architecture.of(arguments("qwen-image-released")))
    layer = sum(math.prod(s) for k, s in keys.items() if k.startswith("transformer_blocks.59.img_mlp."))
    ffn = sum(math.prod(s) for k, s in keys.items() if k.startswith("transformer_blocks.49.img_mlp."))
    assert (round(layer / 1e6, 1), round(ffn / 1e6, 1)) == (302.0, 75.5)
    assert count["qwen-image-wide"] == pytest.approx(count["qwen-image"], rel=1e-3)


def test_the_dense_contract_is_diffusers_own():
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

    with torch.device("meta"):
        model = QwenImageTransformer2DModel()
    assert shapes(model) == contract(Architecture.of(dict(model.config)))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"num_layers": 10**9}, "num_layers"),
        ({"num_layers": "60"}, "num_layers"),
        ({"attention_head_dim": True}, "attention_head_dim"),
        ({"ffn": "moe", "num_layers": 3, "moe_layers": 4}, "moe_layers"),
        ({"use_additional_t_cond": True}, "use_additional_t_cond"),
    ],
)
def test_a_hostile_configuration_is_refused_by_name(config, name):
    with pytest.raises(ConfigError, match=name):
        Architecture.of(config)
