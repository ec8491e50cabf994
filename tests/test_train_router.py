"""The router's options on numbers to check by hand, and its statistics through the real loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support_interchange import make_run, stored
from support_train import ToySource, toy_config
from tagmoe.train.loop import train
from tagmoe.train.losses import z_loss
from tagmoe.train.router import Router, Routing


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_selection_bias_follows_the_counts_of_the_global_batch(tmp_path):
    """After one step it is rate * sign(mean load - load), of the two micro-batches together."""
    run, config = make_run(tmp_path, steps=1, moe__selection_bias_rate=0.25, engine__ema=0)
    state = stored(run, 1, "router")
    counts_MLE, bias_LE = state["counts"], state["bias"]
    assert counts_MLE.shape[0] == config.accumulation == 2
    for counts_E, bias_E in zip(counts_MLE.sum(0).tolist(), bias_LE.tolist(), strict=True):
        mean = sum(counts_E) / len(counts_E)
        assert bias_E == [0.25 * ((count < mean) - (count > mean)) for count in counts_E]


def test_the_selection_bias_neither_enters_the_scores_nor_the_gradient():
    router = Router(3, experts=3)
    with torch.no_grad():
        router.layer.weight.copy_(torch.eye(3))
        router.selection_bias.copy_(torch.tensor([0.0, 0.0, 0.5]))
    x = torch.tensor([[[2.0, 0.0, 0.0], [0.3, 0.2, 0.1]]], requires_grad=True)
    _, ids, scores, signature = router(x)
    # Scores 0.79, 0.11, 0.11: a bias of 0.5 does not turn the first; 0.37, 0.33, 0.30: it turns the second.
    assert ids.flatten().tolist() == [0, 2]
    assert signature is scores
    assert torch.equal(scores, x.detach().softmax(-1))
    scores[..., 0].sum().backward()
    assert x.grad is not None
    assert router.selection_bias.grad is None


def test_jitter_stays_within_its_bounds_and_out_of_evaluation():
    router = Router(4, experts=4, jitter=0.1)
    with torch.no_grad():
        router.layer.weight.copy_(torch.eye(4))
    torch.manual_seed(0)
    logits = router(torch.ones(1, 500, 4))[0]
    assert 0.9 <= logits.min() < 0.91
    assert 1.09 < logits.max() <= 1.1
    assert logits.mean().item() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(router.eval()(torch.ones(1, 5, 4))[0], torch.ones(1, 5, 4))


def test_the_z_loss_shrinks_the_log_partition():
    """d/dl of logsumexp(l)^2 is 2 logsumexp(l) softmax(l)."""
    logits = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    z_loss([Routing(logits, torch.ones(1, 1, 1, dtype=torch.long), logits, logits)]).backward()
    expected = 2 * logits.detach().logsumexp(-1, keepdim=True) * logits.detach().softmax(-1)
    torch.testing.assert_close(logits.grad, expected)


def test_statistics_count_once_under_checkpointing_and_accumulation_together(tmp_path):
    """Jitter, z-loss and selection bias on: recomputed blocks must route as they did and leave no second trace."""
    sets = {"steps": 3, "moe__jitter": 0.1, "moe__selection_bias_rate": 0.01, "loss__z": 0.001, "engine__ema": 0}
    for name, on in (("plain", False), ("recomputed", True)):
        config = toy_config(**sets, engine__activation_checkpointing=on)
        train(config, out=tmp_path / name, source=ToySource(batch_size=config.micro_batch))
    plain, recomputed = metrics(tmp_path / "plain"), metrics(tmp_path / "recomputed")
    timed = {"tokens_per_second", "step_seconds", "data_wait", "tflops_per_device"}
    assert len(plain) >= 3
    for a, b in zip(plain, recomputed, strict=True):
        assert {n: v for n, v in a.items() if n not in timed} == {n: v for n, v in b.items() if n not in timed}
