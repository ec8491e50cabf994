"""The surgery: dense equals diffusers bit for bit, keys are the contract's, routing counted once, text mask real."""

from __future__ import annotations

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from support_train import TINY, tiny_inputs, tiny_transformer
from tagmoe.train.losses import expert_counts, load_balance_loss, mean_scores
from tagmoe.train.router import stack_layers


def test_the_dense_model_is_diffusers_bit_for_bit():
    ours = tiny_transformer(ffn="dense")
    shape = {k: v for k, v in TINY.items() if k not in ("tag_dim", "head_hidden")}
    theirs = QwenImageTransformer2DModel(**shape)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours_out, theirs_out = (m(**tiny_inputs()).sample for m in (ours, theirs))
    assert torch.equal(ours_out, theirs_out)
    for out in (ours_out, theirs_out):
        out.square().mean().backward()
    grads = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert (p.grad is None) == (grads[name].grad is None)
        assert p.grad is None or torch.equal(p.grad, grads[name].grad), name


def test_the_released_keys_and_shapes_are_the_contract():
    state = tiny_transformer(expert_layout="released", num_experts=4).state_dict()
    prefix = "transformer_blocks.2.img_mlp."
    got = {k.removeprefix(prefix): tuple(v.shape) for k, v in state.items() if k.startswith(prefix)}
    assert got == {
        "router.layer.weight": (4, 32),
        "experts.mlp.w1": (4 * 128, 32),
        "experts.mlp.w2": (4 * 128, 32),
        "experts.bias": (32,),
    }
    head = {k: tuple(v.shape) for k, v in state.items() if k.startswith(("tag_embedding", "router_head"))}
    assert head == {
        "tag_embedding.weight": (18, 32),
        "router_head.net.0.weight": (16, 4),
        "router_head.net.0.bias": (16,),
        "router_head.net.2.weight": (16, 16),
        "router_head.net.2.bias": (16,),
        "router_head.net.4.weight": (32, 16),
        "router_head.net.4.bias": (32,),
    }


@pytest.mark.parametrize("ffn", ["dense", "moe"])
def test_padding_in_the_text_changes_nothing(ffn):
    model = tiny_transformer(ffn=ffn).eval()
    inputs = tiny_inputs(batch=2)
    both = model(**inputs).sample
    inputs["encoder_hidden_states"][1, 2:] = 1e3
    assert torch.allclose(both, model(**inputs).sample, atol=1e-6)


@pytest.mark.parametrize("router", ["linear", "mlp2"])
@pytest.mark.parametrize("router_input", ["modulated", "unmodulated", "unmodulated+timestep"])
def test_every_router_sends_gradient_to_every_part(router, router_input):
    model = tiny_transformer(router=router, router_input=router_input)
    output = model(**tiny_inputs())
    output.sample.square().mean().backward()
    for block in model.moe_blocks:
        for name, p in block.img_mlp.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_an_unmodulated_router_does_not_see_the_timestep():
    def first_layer_logits(router_input: str, t: float) -> torch.Tensor:
        model = tiny_transformer(router_input=router_input, num_layers=1, moe_layers=1).eval()
        # Attention is modulated too: silence it, so that only the router's own input can carry the timestep.
        model.transformer_blocks[0].img_mod[1].weight.data[2 * 32 : 3 * 32] = 0
        model.transformer_blocks[0].img_mod[1].bias.data[2 * 32 : 3 * 32] = 0
        return model(**{**tiny_inputs(), "timestep": torch.full((2,), t)}).routing[0].logits_BTE

    assert torch.equal(first_layer_logits("unmodulated", 0.1), first_layer_logits("unmodulated", 0.9))
    for kind in ("modulated", "unmodulated+timestep"):
        assert not torch.allclose(first_layer_logits(kind, 0.1), first_layer_logits(kind, 0.9), atol=1e-4)


def test_the_router_stays_float32_inside_a_bfloat16_model():
    model = tiny_transformer().bfloat16()
    seen = []
    model.routers[0].register_forward_hook(lambda _m, _i, out: seen.append((out[0].dtype, out[2].dtype)))
    output = model(**tiny_inputs(dtype=torch.bfloat16))
    assert seen == [(torch.float32, torch.float32)]
    assert output.sample.dtype == torch.bfloat16


def test_activation_checkpointing_changes_no_number_and_counts_once():
    results = []
    for on in (False, True):
        model = tiny_transformer(jitter=0.1)
        model.train()
        model.set_activation_checkpointing(on)
        torch.manual_seed(7)
        output = model(**tiny_inputs())
        counts = expert_counts(output.routing)
        loss = output.sample.square().mean() + load_balance_loss(mean_scores(stack_layers(output.routing)[0]), counts)
        loss.backward()
        results.append((loss.detach(), counts, [p.grad for p in model.parameters()]))
    (loss_a, counts_a, grads_a), (loss_b, counts_b, grads_b) = results
    assert torch.equal(loss_a, loss_b)
    assert torch.equal(counts_a, counts_b)
    assert counts_a.sum(1).tolist() == [20, 20]
    for a, b in zip(grads_a, grads_b, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_frozen_blocks_run_without_a_graph():
    model = tiny_transformer()
    for block in model.transformer_blocks[:1]:
        block.requires_grad_(False)
    model.frozen_blocks = 1
    model(**tiny_inputs()).sample.square().mean().backward()
    assert model.img_in.weight.grad is None
    assert model.transformer_blocks[1].attn.to_q.weight.grad is not None


def test_selection_bias_moves_the_choice_but_not_the_scores():
    model = tiny_transformer().eval()
    before = model(**tiny_inputs()).routing[0]
    model.routers[0].selection_bias[3] = 10.0
    after = model(**tiny_inputs()).routing[0]
    assert after.ids_BTK.eq(3).all()
    assert torch.equal(before.logits_BTE, after.logits_BTE)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_blocks_can_be_compiled_around_the_experts():
    """Graph capture and its backward, without generating code: the experts stay outside the graph."""
    eager, compiled = tiny_transformer(num_layers=1, moe_layers=1), tiny_transformer(num_layers=1, moe_layers=1)
    compiled.transformer_blocks[0].compile(backend="aot_eager")
    for model in (eager, compiled):
        model(**tiny_inputs()).sample.square().mean().backward()
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        # A compiled graph gives unused parameters zeros where eager gives them nothing.
        left, right = (torch.zeros_like(p) if p.grad is None else p.grad for p in (a, b))
        assert torch.allclose(left, right, atol=1e-5), name
