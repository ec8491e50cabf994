"""Sampling reaches the truth when the velocity is true; FLOPs by arithmetic are those that torch counts."""

from __future__ import annotations

import pytest
import torch
from support_train import toy_config
from tagmoe.schema import load_taxonomy
from tagmoe.schema.configs.train import FlowConfig
from tagmoe.train.build import build_model
from tagmoe.train.engine.flops import micro_batch_flops
from tagmoe.train.sampling import euler, guide, schedule
from torch.utils.flop_counter import FlopCounterMode


@pytest.mark.parametrize("shift", ["none", "dynamic"])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_euler_reaches_the_clean_latent_along_the_true_velocity(shift, steps):
    clean, noise = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    sigmas = schedule(steps, tokens=4096, config=FlowConfig(shift=shift)).double()
    seen = []

    def velocity(x: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
        seen.append(sigma_B[0].item())
        return (x - clean) / sigma_B.view(-1, 1, 1)

    assert torch.allclose(euler(noise, sigmas=sigmas, velocity=velocity), clean, atol=1e-10)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 1.0


def test_the_dynamic_schedule_ends_at_the_terminal():
    sigmas = schedule(30, tokens=4096, config=FlowConfig(shift="dynamic"))
    assert len(sigmas) == 31
    assert sigmas[0] == 1
    assert sigmas[-2].item() == pytest.approx(0.02, abs=1e-6)
    assert sigmas[-1] == 0


def test_guidance_keeps_the_norm_of_every_token():
    a, b = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    guided = guide(a, b, scale=4.0)
    assert torch.allclose(guided.norm(dim=-1), a.norm(dim=-1), rtol=1e-5)
    assert torch.allclose(guide(a, b, scale=1.0), a, atol=1e-5)


@pytest.mark.parametrize("ffn", ["moe", "dense", "wide"])
def test_flops_are_those_that_torch_counts(ffn):
    config = toy_config(moe__ffn=ffn, moe__kernel="reference")
    model, _ = build_model(config, taxonomy=load_taxonomy("tagmoe-18@1"))
    image, text = torch.randn(2, 32, 64), torch.randn(2, 7, 24)
    # Without fused attention, every product is one that the counter knows.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image, text, torch.ones(2, 7, dtype=torch.bool), torch.rand(2), [[(1, 4, 4), (1, 4, 4)]] * 2)
    assert micro_batch_flops(config, batch=2, image=32, text=7) / 3 == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )
