"""The plan against torch's own accounting of a real step, against hand arithmetic, and at full size."""

import json

import pytest
import torch
from support_train import toy_config
from tagmoe.schema import ConfigError, load_taxonomy
from tagmoe.schema.configs.train import PRESETS, TrainConfig
from tagmoe.train.build import build_model
from tagmoe.train.data import MicroBatch
from tagmoe.train.engine.optimizer import make_optimizer
from tagmoe.train.engine.ranks import Ranks, start_ranks, stop_ranks
from tagmoe.train.engine.sharding import shard
from tagmoe.train.planning.commands import read_config, register
from tagmoe.train.planning.compute import estimate_compute
from tagmoe.train.planning.memory import estimate_memory
from tagmoe.train.planning.plan import GIB, make_plan
from tagmoe.train.planning.sizes import measure_sizes
from tagmoe.train.planning.trace import token_counts, trace
from tagmoe.train.step import forward_micro, total_loss
from torch.distributed._tools.mem_tracker import MemTracker
from typer import Typer
from typer.testing import CliRunner

WIDE = {"model__num_attention_heads": 12, "data__area": 32 * 32, "micro_batch": 1}
LONG = {"data__area": 128 * 128, "micro_batch": 3}


def micro_batch(config: TrainConfig) -> MicroBatch:
    count, tokens, text = config.micro_batch, config.data.area // 256, config.data.max_text_tokens
    side = int(tokens**0.5)
    return MicroBatch(
        uids=tuple(f"{n:032x}" for n in range(count)),
        ids=tuple(map(str, range(count))),
        tasks=("edit",) * count,
        epoch=0,
        clean_BTC=torch.randn(count, tokens, 64),
        condition_BIC=torch.randn(count, tokens, 64),
        shapes=[(1, side, side)] * 2,
        text_BSD=torch.randn(count, text, config.model.joint_attention_dim),
        text_mask_BS=torch.ones(count, text, dtype=torch.bool),
        tags_BK=torch.ones(count, 18),
        kept_B=torch.ones(count, dtype=torch.bool),
    )


def tracked_peak(config: TrainConfig, *, ranks: Ranks | None = None) -> int:
    """Peak bytes of a whole second step, as torch's tracker sees every allocation; under FSDP2 with `ranks`."""
    model, _ = build_model(config, taxonomy=load_taxonomy())
    model.set_activation_checkpointing(config.engine.activation_checkpointing)
    for p in model.parameters():
        p.requires_grad_(True)  # the tracker hooks every parameter and cannot hook frozen ones
    if ranks is not None:
        shard(model, config, ranks)
    optimizer = make_optimizer(model.train(), config.optimizer)
    batch = micro_batch(config)
    peak = 0
    for _ in range(2):
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            forward = forward_micro(model, batch, config, device=torch.device("cpu"))
            counts = forward.counts_LE if forward.routing else None
            total_loss(forward, config, balance_counts_LE=counts).backward()
            optimizer.step()
            optimizer.zero_grad()
            del forward
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    return peak


def planned_peak(config: TrainConfig):
    traced = trace(config, tokens=token_counts(config, conditions=1))
    return estimate_memory(config, sizes=measure_sizes(config), trace=traced, world=1, shard_group=1)


@pytest.mark.parametrize(
    "sets",
    [
        LONG,
        {**LONG, "engine__activation_checkpointing": True},
        {**LONG, "moe__ffn": "dense", "moe__upcycle": "none"},
        {**LONG, "moe__layout": "released", "moe__layers": 1},
        {**LONG, "moe__router_input": "unmodulated+timestep", "moe__layers": 3},
        WIDE,
    ],
)
def test_the_plan_is_within_10_percent_of_torchs_memory_tracker(sets):
    config = toy_config(**{"alignment__embedding": "learnable", "engine__ema": 0, **sets})
    planned = planned_peak(config)
    assert planned.peak == pytest.approx(tracked_peak(config), rel=0.10)


def test_under_fsdp_in_bfloat16_the_plan_is_not_below_the_tracker():
    """The plan counts the next block's gathered weights, which only a GPU fetches ahead."""
    config = toy_config(
        **LONG,
        alignment__embedding="learnable",
        engine__ema=0,
        engine__dtype="bfloat16",
        engine__activation_checkpointing=True,
        accumulation=1,
    )
    ranks = start_ranks("cpu")
    try:
        tracked = tracked_peak(config, ranks=ranks)
    finally:
        stop_ranks(ranks)
    assert tracked <= planned_peak(config).peak <= 1.25 * tracked


@pytest.mark.parametrize(("train", "with_graph"), [("moe", 2), ("lora", 6)])
def test_what_is_frozen_keeps_nothing_for_backward(train, with_graph):
    """Experts-only and adapter training, against the tensors autograd really saves."""
    config = toy_config(**LONG, engine__train=train, model__num_layers=6, engine__ema=0)
    model, _ = build_model(config, taxonomy=load_taxonomy())
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward_micro(model.train(), micro_batch(config), config, device=torch.device("cpu"))
    saved = sum(t.untyped_storage().nbytes() for t in kept.values())
    traced = trace(config, tokens=token_counts(config, conditions=1))
    assert [bool(part.saved) for part in traced.blocks] == [n >= 6 - with_graph for n in range(6)]
    assert sum(part.saved for part in traced.blocks) + traced.other.saved == pytest.approx(saved, rel=0.1)
    assert measure_sizes(config).trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_repeated_blocks_stand_for_those_not_traced():
    """Ten blocks traced as six agree with ten blocks traced as they are."""
    config = toy_config(**LONG, model__num_layers=10, moe__layers=5)
    model, _ = build_model(config, taxonomy=load_taxonomy())
    kept: dict[int, torch.Tensor] = {p.untyped_storage().data_ptr(): torch.empty(0) for p in model.parameters()}

    def pack(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward_micro(model.train(), micro_batch(config), config, device=torch.device("cpu"))
    saved = sum(t.untyped_storage().nbytes() for t in kept.values())
    traced = trace(config, tokens=token_counts(config, conditions=1))
    assert len(traced.blocks) == 10
    assert sum(part.saved for part in traced.blocks) + traced.other.saved == pytest.approx(saved, rel=0.05)


def test_flops_are_two_for_every_weight_and_token_and_the_attention():
    config = TrainConfig.model_validate(PRESETS["qwen-image"])
    tokens = token_counts(config, conditions=1)
    traced = trace(config, tokens=tokens)
    dim, image, text = 3072, 8192, 1024
    per_block = 2 * 12 * dim**2 * (image + text) + 4 * (image + text) ** 2 * dim + 2 * 2 * 6 * dim**2
    assert traced.blocks[1].flops == per_block
    assert traced.blocks[55].flops == per_block + 2 * image * 4 * 2 * dim  # the router reads tokens and timestep
    compute = estimate_compute(config, tokens=tokens, trace=traced)
    assert compute.forward == pytest.approx(60 * per_block, rel=0.01)
    assert compute.model == pytest.approx(3 * compute.forward, rel=0.01)
    assert compute.hardware == pytest.approx(4 * compute.forward, rel=0.01)


@pytest.mark.parametrize("preset", ["qwen-image-released", "qwen-image-dense", "qwen-image-wide", "tiny"])
def test_the_arithmetic_of_mfu_is_what_torch_counts(preset):
    config = TrainConfig.model_validate(PRESETS[preset])
    tokens = token_counts(config, conditions=1)
    compute = estimate_compute(config, tokens=tokens, trace=trace(config, tokens=tokens))
    assert compute.model == pytest.approx(3 * compute.forward, rel=0.01)


def test_full_size_numbers_are_the_known_ones():
    """22.7 B: AdamW at 16 bytes a parameter is 363 GB, the moving average 91 GB more."""
    config = read_config("qwen-image-released", sets=["accumulation=1", "alignment.embedding=learnable"])
    plan = make_plan(config, gpus=64, gpu_memory=80)
    memory = plan.layout.memory
    state = memory.weights + memory.gradients + memory.optimizer
    assert round(plan.sizes.total / 1e9, 2) == 22.70
    assert round(plan.sizes.active / 1e9, 2) == 20.43
    assert 64 * state / 1e9 == pytest.approx(363, rel=0.01)
    assert 64 * memory.ema / 1e9 == pytest.approx(91, rel=0.01)
    assert plan.suggestion is not None
    assert (plan.suggestion.shard_group, plan.suggestion.replicas) == (8, 8)
    assert plan.suggestion.memory.peak < 80 * GIB
    one = make_plan(config, gpus=8, gpu_memory=24)
    assert one.suggestion is None
    assert not one.fits


def test_accumulating_without_reduction_keeps_whole_gradients():
    """4 bytes for each of 22.6 B trained parameters on every GPU: no GPU of today holds that beside the rest."""
    sets = ["accumulation=4", "engine.accumulate=local"]
    local = make_plan(read_config("qwen-image", sets=sets), gpus=64, gpu_memory=80)
    assert local.layout.memory.whole_gradients == 4 * local.sizes.trainable > 90e9
    assert not local.fits
    sharded = make_plan(read_config("qwen-image", sets=[sets[0], "engine.accumulate=sharded"]), gpus=64, gpu_memory=80)
    assert sharded.layout.memory.whole_gradients == 0
    assert sharded.fits
    assert sharded.gathered_bytes > local.gathered_bytes


def test_experts_only_trains_three_billion():
    plan = make_plan(read_config("qwen-image-experts", sets=[]), gpus=8, gpu_memory=80)
    assert round(plan.sizes.trainable / 1e9, 1) == 3.0
    assert plan.compute.model < 0.6 * make_plan(read_config("qwen-image", sets=[]), gpus=8, gpu_memory=80).compute.model


app = Typer()
register(app)


@app.callback()
def _group() -> None:
    """A group, as in the real command line."""


def test_the_command_exits_1_when_it_does_not_fit_and_says_what_does(tmp_path):
    run = CliRunner().invoke
    good = run(app, ["plan", "tiny", "--gpus", "2", "--gpu-memory", "1", "--json"])
    assert good.exit_code == 0, good.output
    document = json.loads(good.stdout)
    assert document["fits"]
    assert document["layout"]["memory"]["peak"] > 0
    small = run(app, ["plan", "qwen-image", "--gpus", "8", "--gpu-memory", "24"])
    assert small.exit_code == 1
    assert "does not fit" in small.stdout
    file = tmp_path / "mine.toml"
    file.write_text('preset = "tiny"\n[moe]\nexperts = 6\n')
    assert read_config(str(file), sets=["steps=7"]).moe.experts == 6
    (tmp_path / "config.json").write_text(read_config(str(file), sets=[]).model_dump_json())
    assert (
        read_config(str(tmp_path / "config.json"), sets=["steps=7"]).model_dump()
        == read_config(str(file), sets=["steps=7"]).model_dump()
    )


@pytest.mark.parametrize(("name", "says"), [("huge", "expected a preset"), ("x.toml", "expected a preset")])
def test_an_unknown_configuration_is_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        read_config(name, sets=[])


def test_a_shard_group_must_divide_the_gpus():
    with pytest.raises(ConfigError, match=r"engine.shard_group \(3\) does not divide 8"):
        make_plan(read_config("tiny", sets=["engine.shard_group=3"]), gpus=8, gpu_memory=80)
