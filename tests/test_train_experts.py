"""Every kernel and the whole layer against a float64 reference written out here, forward and gradients."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.schema import ConfigError
from tagmoe.train.experts import MoELayer, grouped, looped, reference, select_kernel
from tagmoe.train.experts.moving import sort_by_expert
from torch import Tensor

E, D, F = 3, 8, 16


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def by_hand(x: Tensor, ids: list[int], w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None) -> Tensor:
    """Token by token in the dtype given; nothing shared with the implementation."""
    rows = []
    for token, e in zip(x, ids, strict=True):
        h = w1[e * F : (e + 1) * F] @ token
        h = gelu_tanh(h if b1 is None else h + b1[e * F : (e + 1) * F])
        y = w2[e * F : (e + 1) * F].T @ h
        rows.append(y if b2 is None else y + b2[e * D : (e + 1) * D])
    return torch.stack(rows)


def weights(biases: bool, seed: int = 0) -> list[Tensor | None]:
    g = torch.Generator().manual_seed(seed)
    w1, w2 = (torch.randn(E * F, D, generator=g, dtype=torch.float64) / 3 for _ in range(2))
    b1, b2 = torch.randn(E * F, generator=g, dtype=torch.float64), torch.randn(E * D, generator=g, dtype=torch.float64)
    return [w1, w2, b1, b2] if biases else [w1, w2, None, None]


def leaf(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype).detach().requires_grad_()


def compare(kernel, ids: list[int], biases: bool, dtype: torch.dtype) -> None:
    ids = sorted(ids)
    g = torch.Generator().manual_seed(len(ids))
    x64 = torch.randn(len(ids), D, generator=g, dtype=torch.float64).to(dtype).double()
    seed64 = torch.randn(len(ids), D, generator=g, dtype=torch.float64).to(dtype).double()
    rounded = [None if w is None else w.to(dtype).double() for w in weights(biases)]
    truth_in = [leaf(t, torch.float64) for t in (x64, *rounded)]
    truth = by_hand(truth_in[0], ids, *truth_in[1:])
    truth.backward(seed64)
    got_in = [leaf(t, dtype) for t in (x64, *rounded)]
    counts = torch.bincount(torch.tensor(ids), minlength=E)
    got = kernel(got_in[0], counts, *got_in[1:])
    got.backward(seed64.to(dtype))
    # Two products of lengths D and F, one rounding of the hidden layer, and a sum over tokens in the gradients.
    tolerance = 8 * torch.finfo(dtype).eps * math.sqrt(max(F, len(ids)))
    for name, a, b in zip(["y", "x", "w1", "w2", "b1", "b2"], (got, *got_in), (truth, *truth_in), strict=True):
        if b is None:
            continue
        left, right = (a, b) if name == "y" else (a.grad, b.grad)
        left = torch.zeros_like(a) if left is None else left
        right = torch.zeros_like(b) if right is None else right
        error = (left.double() - right).abs().max() / right.abs().max().clamp_min(1)
        assert error <= tolerance, f"{name}: {error} > {tolerance}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gelu_and_its_slope_match_float64(monkeypatch, dtype):
    """Also over several chunks, the last of them short, and far out where the sigmoid is 0 or 1."""
    module = importlib.import_module("tagmoe.train.experts.activation")
    monkeypatch.setattr(module, "CHUNK", 7)
    wide = torch.linspace(-30, 30, 60, dtype=torch.float64).to(dtype).double().view(12, 5).requires_grad_()
    expected = gelu_tanh(wide)
    expected.sum().backward()
    got = wide.detach().to(dtype)
    slope = torch.empty_like(got)
    module.gelu_with_slope(got, slope=slope)
    # The slope is a difference of terms up to some ten times as large, each rounded.
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(slope.double(), wide.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", ["reference", "looped", "grouped"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_rows_reach_their_expert_in_the_order_of_the_tokens(kernel, top_k):
    """Many tokens, of which each is told apart from the others of its expert: an unstable order would mix them up."""
    torch.manual_seed(0)
    moe = MoELayer(dim=D, hidden=F, experts=E, top_k=top_k, kernel=kernel)
    x = torch.randn(3, 100, D)
    y, (_, ids, scores, _) = moe(x)
    mlp = moe.experts.mlp
    expected = torch.zeros_like(x).flatten(0, 1)
    for k in range(top_k):
        out = by_hand(x.flatten(0, 1), ids[..., k].flatten().tolist(), mlp.w1, mlp.w2, mlp.b1, mlp.b2)
        expected = expected + scores.gather(-1, ids)[..., k].reshape(-1, 1) * out
    torch.testing.assert_close(y.flatten(0, 1), expected, rtol=1e-5, atol=1e-5)
    order, inverse, counts = sort_by_expert(ids, experts=E)
    flat = ids.flatten()
    assert order.tolist() == sorted(range(len(flat)), key=lambda n: (int(flat[n]), n))
    assert order[inverse].tolist() == list(range(len(flat)))
    assert counts.tolist() == [int((flat == e).sum()) for e in range(E)]


CASES = {"random": [0, 2, 1, 1, 2, 0, 2], "empty": [0, 2, 2, 0], "all_on_one": [1] * 6, "one_token": [2]}


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        (reference, torch.float64),
        (reference, torch.float32),
        (reference, torch.bfloat16),
        (looped, torch.float64),
        (looped, torch.float32),
        (looped, torch.bfloat16),
        (grouped, torch.float32),
        (grouped, torch.bfloat16),
    ],
)
def test_kernel_matches_the_float64_reference(kernel, dtype, case, biases):
    compare(kernel, CASES[case], biases, dtype)


@pytest.mark.parametrize("kernel", [grouped, looped])
@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, E - 1), min_size=1, max_size=40), biases=st.booleans())
def test_kernel_matches_for_any_assignment(kernel, ids, biases):
    compare(kernel, ids, biases, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_looped_adds_up_the_blocks_of_a_busy_expert(monkeypatch, dtype):
    monkeypatch.setattr(importlib.import_module("tagmoe.train.experts.looped"), "ROWS", 4)
    compare(looped, [0] * 3 + [1] * 9 + [2] * 4, True, dtype)
    compare(looped, [1] * 13, False, dtype)


@pytest.mark.parametrize("kernel", [grouped, looped])
@pytest.mark.parametrize("wanted", ["x", "w1", "w2", "b1", "b2"])
def test_kernel_gives_one_gradient_alone(kernel, wanted):
    names, g = ("x", "w1", "w2", "b1", "b2"), torch.Generator().manual_seed(1)
    values = [torch.randn(5, D, generator=g), *(w.float() for w in weights(True) if w is not None)]
    grads = []
    for run in (kernel, reference):
        inputs = [v.clone().requires_grad_(n == wanted) for n, v in zip(names, values, strict=True)]
        run(inputs[0], torch.tensor([2, 0, 3]), *inputs[1:]).square().sum().backward()
        grads.append([v.grad for v in inputs])
    assert [g is None for g in grads[0]] == [n != wanted for n in names]
    torch.testing.assert_close(grads[0][names.index(wanted)], grads[1][names.index(wanted)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [grouped, looped])
def test_kernel_accepts_the_expanded_gradient_of_sum(kernel):
    w1, w2, _, _ = (leaf(w, torch.float32) for w in weights(False))
    x = torch.randn(5, D, requires_grad=True)
    kernel(x, torch.tensor([2, 0, 3]), w1, w2).sum().backward()
    assert x.grad is not None


def layer(**changes) -> MoELayer:
    torch.manual_seed(0)
    return MoELayer(**{"dim": D, "hidden": F, "experts": E, "kernel": "reference", **changes}).double()


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("layout", ["native", "released"])
@pytest.mark.parametrize("kernel", ["reference", "looped"])
def test_layer_is_the_weighted_sum_of_its_selected_experts(top_k, layout, kernel):
    moe = layer(top_k=top_k, layout=layout, kernel=kernel)
    x = torch.randn(2, 5, D, dtype=torch.float64, requires_grad=True)
    y, (_, ids, *_) = moe(x)
    mlp = moe.experts.mlp
    p = (x @ moe.router.layer.weight.T).softmax(-1)
    assert torch.equal(ids.sort(-1).values, p.topk(top_k, dim=-1).indices.sort(-1).values)
    expected = torch.zeros_like(x)
    for b in range(2):
        for t in range(5):
            for e in p[b, t].topk(top_k).indices.tolist():
                out = by_hand(x[b, t : t + 1], [e], mlp.w1, mlp.w2, mlp.b1, mlp.b2)[0]
                expected = expected.index_put((torch.tensor(b), torch.tensor(t)), p[b, t, e] * out, accumulate=True)
    assert torch.allclose(y, expected, atol=1e-13)
    seed = torch.randn_like(y)
    parameters = [q for q in moe.parameters() if q.requires_grad]
    ours = torch.autograd.grad(y, [x, *parameters], seed, retain_graph=True)
    truth = torch.autograd.grad(expected, [x, *parameters], seed)
    for a, b in zip(ours, truth, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_layer_by_hand_in_the_released_orientation():
    """Two experts, one input, one hidden unit: every number below is done on paper."""
    moe = MoELayer(dim=1, hidden=1, experts=2, layout="released", kernel="reference").double()
    with torch.no_grad():
        moe.router.layer.weight.copy_(torch.tensor([[math.log(3.0)], [0.0]]))  # p = (3/4, 1/4) at x = 1
        moe.experts.mlp.w1.copy_(torch.tensor([[2.0], [5.0]]))
        moe.experts.mlp.w2.copy_(torch.tensor([[10.0], [7.0]]))
        moe.experts.bias.fill_(1000.0)  # stored by the released weights, added by nobody
    y, (logits, ids, *_) = moe(torch.ones(1, 1, 1, dtype=torch.float64))
    assert ids.item() == 0
    assert logits.softmax(-1).flatten().tolist() == pytest.approx([0.75, 0.25])
    assert y.item() == pytest.approx(0.75 * 10 * gelu_tanh(torch.tensor(2.0, dtype=torch.float64)).item())


def test_straight_through_gate_is_one_with_the_gradient_of_log_probability():
    moe = layer(gate="straight_through")
    x = torch.randn(1, 4, D, dtype=torch.float64)
    y, (_, ids, *_) = moe(x)
    mlp = moe.experts.mlp
    ungated = by_hand(x[0], ids.flatten().tolist(), mlp.w1, mlp.w2, mlp.b1, mlp.b2)
    assert torch.allclose(y[0], ungated, atol=1e-13)
    (got,) = torch.autograd.grad(y.sum(), [moe.router.layer.weight])
    log_p = (x[0] @ moe.router.layer.weight.T).log_softmax(-1).gather(-1, ids[0]).squeeze(-1)
    (expected,) = torch.autograd.grad((ungated.detach().sum(-1) * log_p).sum(), [moe.router.layer.weight])
    assert torch.allclose(got, expected, atol=1e-12)


def test_kernels_say_what_is_missing():
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match=r"missing: python module megablocks.*a CUDA device"):
        select_kernel("megablocks", dtype=torch.float32, device=cpu)
    with pytest.raises(ConfigError, match="float64"):
        select_kernel("grouped", dtype=torch.float64, device=cpu)
    assert select_kernel("auto", dtype=torch.float64, device=cpu) is looped
    assert select_kernel("auto", dtype=torch.float32, device=cpu) is looped
    assert select_kernel("auto", dtype=torch.bfloat16, device=torch.device("cuda")) is grouped
    assert select_kernel("auto", dtype=torch.float64, device=torch.device("cuda")) is looped


@pytest.mark.parametrize(
    ("mode", "layout", "gate", "low", "high"),
    [
        ("exact", "native", "straight_through", 0.0, 1e-12),
        ("scaled", "native", "raw", 1e-6, 0.02),
        ("scaled", "released", "raw", 0.05, 0.7),
        ("copy", "released", "raw", 0.3, 1.0),
    ],
)
def test_upcycling_error_at_step_zero(mode, layout, gate, low, high):
    from diffusers.models.attention import FeedForward
    from tagmoe.train.experts import upcycle, upcycling_error

    torch.manual_seed(0)
    ffn = FeedForward(dim=32, dim_out=32, activation_fn="gelu-approximate").double()
    moe = MoELayer(dim=32, hidden=128, experts=4, layout=layout, gate=gate, kernel="reference").double()
    upcycle(moe, ffn, mode=mode)
    error = upcycling_error(moe, ffn, torch.randn(2, 64, 32, dtype=torch.float64))
    assert low <= error <= high
