"""Losses and alignment on numbers small enough to check by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tagmoe.schema import ConfigError
from tagmoe.train.alignment import (
    alignment_loss,
    alignment_per_sample,
    orthogonal_tags,
    routing_signature,
    summed_tags,
)
from tagmoe.train.losses import expert_counts, flow_loss_per_sample, load_balance_loss, mean_scores, z_loss
from tagmoe.train.router import Routing, stack_layers


def routing(scores, ids) -> Routing:
    """One sample; `scores` is [T][E]."""
    logits = torch.tensor(scores, dtype=torch.float64).log().unsqueeze(0).requires_grad_()
    scores = logits.softmax(-1)
    return Routing(logits, torch.tensor(ids).view(1, -1, 1), scores, scores)


def test_load_balance_by_hand():
    """MegaBlocks: E / (L T K) * dot(counts, mean scores) with both layers' vectors concatenated."""
    first = routing([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]], [0, 0, 1])  # counts 2, 1; mean scores 0.5, 0.5
    second = routing([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], [0, 0, 0])  # counts 3, 0; mean scores 0.8, 0.2
    counts = expert_counts([first, second])
    assert counts.tolist() == [[2, 1], [3, 0]]
    loss = load_balance_loss(mean_scores(stack_layers([first, second])[0]), counts)
    by_hand = 2 / (2 * 3 * 1) * (2 * 0.5 + 1 * 0.5 + 3 * 0.8 + 0 * 0.2)
    assert loss.item() == pytest.approx(by_hand)
    assert by_hand == pytest.approx(1.3)


def test_global_counts_see_balance_where_one_micro_batch_does_not():
    saturated = routing([[1.0, 1e-300]] * 4, [0] * 4)
    assert load_balance_loss(
        mean_scores(stack_layers([saturated])[0]), expert_counts([saturated])
    ).item() == pytest.approx(2.0)
    assert load_balance_loss(mean_scores(stack_layers([saturated])[0]), torch.tensor([[4, 4]])).item() == pytest.approx(
        1.0
    )


def test_load_balance_pushes_the_crowded_expert_down():
    r = routing([[0.6, 0.4]] * 3, [0] * 3)
    load_balance_loss(mean_scores(stack_layers([r])[0]), expert_counts([r])).backward()
    grad = r.logits_BTE.grad
    assert (grad[..., 0] > 0).all()
    assert (grad[..., 1] < 0).all()


def test_z_loss_by_hand():
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)]]], dtype=torch.float64)
    r = Routing(logits, torch.zeros(1, 1, 1, dtype=torch.long), logits.softmax(-1), logits.softmax(-1))
    assert z_loss([r]).item() == pytest.approx(math.log(4.0) ** 2)


def test_flow_target_is_noise_minus_clean():
    noise, clean = torch.full((2, 3, 4), 5.0), torch.full((2, 3, 4), 2.0)
    assert flow_loss_per_sample(torch.full((2, 3, 4), 3.0), noise, clean).tolist() == [0, 0]
    assert flow_loss_per_sample(torch.full((2, 3, 4), 1.0), noise, clean).tolist() == [4, 4]


def test_signature_is_the_mean_over_layers_and_target_tokens():
    a = routing([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]], [0, 1, 1])
    b = routing([[0.2, 0.8], [0.2, 0.8], [0.1, 0.9]], [1, 1, 1])
    two = routing_signature(stack_layers([a, b])[1], tokens=2, kind="mean")
    assert two.flatten().tolist() == pytest.approx([0.4, 0.6])  # mean of (0.6, 0.4) and (0.2, 0.8)
    layers = routing_signature(stack_layers([a, b])[1], tokens=2, kind="per_layer")
    assert layers.flatten().tolist() == pytest.approx([0.6, 0.4, 0.2, 0.8])
    everything = routing_signature(stack_layers([a])[1], tokens=None, kind="mean")
    assert everything.flatten().tolist() == pytest.approx([1.3 / 3, 1.7 / 3])


def test_cosine_alignment_by_hand():
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    tags = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert summed_tags(embedding, tags).tolist() == [[1, 1], [1, 0]]
    predicted = torch.tensor([[2.0, 2.0], [0.0, 3.0]])
    loss = alignment_per_sample(predicted, embedding, tags, objective="cosine")
    assert loss.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert alignment_loss(loss, torch.tensor([False, True])).item() == pytest.approx(1.0)
    assert alignment_loss(loss, torch.tensor([False, False])).item() == 0.0


def test_contrastive_alignment_has_negatives_with_one_sample():
    embedding = orthogonal_tags(4, 8)
    tags = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    right = summed_tags(embedding, tags)
    wrong = summed_tags(embedding, 1 - tags)
    good = alignment_per_sample(right, embedding, tags, objective="contrastive", temperature=0.05)
    bad = alignment_per_sample(wrong, embedding, tags, objective="contrastive", temperature=0.05)
    assert good.item() == pytest.approx(math.log(2), abs=1e-3)  # two tags in equal parts: entropy log 2
    assert bad.item() > good.item() + 5


def test_orthogonal_tags_are_orthonormal_and_need_room():
    tags = orthogonal_tags(18, 64)
    assert torch.allclose(tags @ tags.T, torch.eye(18), atol=1e-5)
    with pytest.raises(ConfigError, match=r"alignment\.dim >= 18"):
        orthogonal_tags(18, 16)


@pytest.mark.parametrize(("detach", "reaches"), [(False, True), (True, False)])
def test_alignment_gradient_can_stop_at_the_routers_input(detach, reaches):
    from support_train import tiny_inputs, tiny_transformer

    model = tiny_transformer(detach_signature=detach)
    output = model(**tiny_inputs())
    g = routing_signature(stack_layers(output.routing)[1], tokens=6, kind="mean")
    loss = alignment_per_sample(
        model.router_head(g), model.tag_embedding.weight, torch.ones(2, 18), objective="cosine"
    ).sum()
    loss.backward()
    assert all(r.layer.weight.grad is not None for r in model.routers)
    grad = model.img_in.weight.grad
    assert (grad is not None and bool(grad.abs().sum() > 0)) is reaches
