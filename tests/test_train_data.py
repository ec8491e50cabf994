"""Encoders, collation, noise and micro-batches by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_train import ToySource, encode_jpeg, toy_config, toy_sample
from tagmoe.schema import DataError
from tagmoe.schema.configs.train import FlowConfig
from tagmoe.train.data import Batches, collate, tag_matrix
from tagmoe.train.data.latents import cover, fit_area, pack, unpack
from tagmoe.train.data.patch import PatchEncoder
from tagmoe.train.flow import dynamic_mu, noisy, sample_noise, sample_sigmas, shift_sigma


def encoder(**changes) -> PatchEncoder:
    return PatchEncoder(**{"area": 32 * 32, "text_dim": 24, "max_text_tokens": 8, "max_references": 2, **changes})


@settings(deadline=None)
@given(width=st.integers(16, 4096), height=st.integers(16, 4096), side=st.sampled_from([64, 256, 1024]))
def test_fitted_sizes_are_multiples_of_16_near_the_area(width, height, side):
    w, h = fit_area(width, height, area=side * side)
    assert w % 16 == 0
    assert h % 16 == 0
    if max(width / height, height / width) < 2:
        assert 0.6 < w * h / side**2 < 1.6


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 5), w=st.integers(1, 5))
def test_packing_round_trips_and_matches_diffusers(h, w):
    from diffusers import QwenImagePipeline

    latent = torch.randn(16, 2 * h, 2 * w)
    packed = pack(latent)
    assert torch.equal(unpack(packed, height=h, width=w), latent)
    theirs = QwenImagePipeline._pack_latents(latent[None, :, None], 1, 16, 2 * h, 2 * w)
    assert torch.equal(packed, theirs[0])


def test_cover_crops_the_centre_without_distortion():
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255
    assert np.asarray(cover(Image.fromarray(pixels), size=(20, 20))).mean() > 250


def test_the_toy_latents_keep_the_picture():
    coder = encoder(area=64 * 64)
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], -1)
    sample = toy_sample(3)
    sample = type(sample)("u", "i", "generation", "x", (17,), (1024, 1024), {"target": encode_jpeg(picture)})
    one = coder.encode(sample)
    assert one.target_shape == (1, 4, 4)
    assert one.target_TC.shape == (16, 64)
    back = np.asarray(coder.decode(one.target_TC, one.target_shape)).astype(float)
    assert np.abs(back - picture).mean() < 8


def test_words_are_fixed_vectors_and_nothing_is_a_space():
    coder = encoder()
    first, second = coder.text("Make it RED, red"), coder.text("red")
    assert torch.equal(first[2], second[0])
    assert torch.equal(first[2], first[4])
    assert torch.equal(coder.text("   "), coder.null_text_SD)
    assert len(coder.text("a b c d e f g h i j k")) == 8
    assert not torch.equal(coder.text("红")[0], coder.text("蓝")[0])


def test_conditions_are_source_then_references_up_to_the_limit():
    sample = toy_sample(0)
    images = {"ref2": sample.images["source"], "ref0": sample.images["target"], "ref1": sample.images["source"]}
    both = type(sample)("u", "i", "edit", "x", (0,), (1024, 1024), {**sample.images, **images})
    one = encoder().encode(both)
    assert len(one.shapes) == 4
    assert torch.equal(one.conditions[0][0], encoder().encode(sample).conditions[0][0])
    assert torch.equal(one.conditions[1][0], one.target_TC)  # ref0 is the target's picture here


def micro_batch(numbers: list[int], **changes):
    coder = encoder()
    samples = [toy_sample(n) for n in numbers]
    arguments = {
        "null_text_SD": coder.null_text_SD,
        "epoch": 0,
        "seed": 0,
        "tags": 18,
        "instruction_dropout": 0.0,
        **changes,
    }
    return collate(samples, [coder.encode(s) for s in samples], **arguments)


def test_collation_stacks_pads_and_masks():
    batch = micro_batch([0, 4, 2])
    assert batch.clean_BTC.shape == (3, 4, 64)
    assert batch.condition_BIC.shape == (3, 4, 64)
    assert batch.shapes == [(1, 2, 2), (1, 2, 2)]
    assert batch.text_mask_BS.sum(1).tolist() == [3, 3, 4]
    assert batch.text_BSD[0, 3].abs().sum() == 0
    assert batch.tags_BK[0].nonzero().flatten().tolist() == [0, 7]
    assert batch.tokens == 3 * 8 + 10


def test_collation_refuses_mixed_shapes_and_foreign_tags():
    with pytest.raises(DataError, match=r"mixes shapes: toy-0 has .* toy-3 has"):
        micro_batch([0, 3])
    with pytest.raises(DataError, match="tag ids"):
        tag_matrix([[18]], tags=18)


def test_dropped_instructions_become_the_null_text_and_leave_the_alignment():
    batch = micro_batch(list(range(0, 40, 4)), instruction_dropout=0.5)
    again = micro_batch(list(range(0, 40, 4)), instruction_dropout=0.5)
    other = micro_batch(list(range(0, 40, 4)), instruction_dropout=0.5, epoch=1)
    assert 0 < int(batch.kept_B.sum()) < 10
    assert torch.equal(batch.kept_B, again.kept_B)
    assert not torch.equal(batch.kept_B, other.kept_B)
    dropped = int((~batch.kept_B).nonzero()[0])
    assert batch.text_mask_BS[dropped].sum() == 1
    assert torch.equal(batch.text_BSD[dropped, 0], encoder().null_text_SD[0])


def test_noise_belongs_to_the_sample_not_to_its_place():
    together = sample_noise(["a", "b"], seed=1, epoch=2, shape=(3, 4))
    assert torch.equal(together[1], sample_noise(["b"], seed=1, epoch=2, shape=(3, 4))[0])
    assert not torch.equal(together[1], sample_noise(["b"], seed=1, epoch=3, shape=(3, 4))[0])
    config = FlowConfig()
    sigma = sample_sigmas(["a", "b"], seed=1, epoch=2, tokens=16, config=config)
    assert torch.equal(sigma[1:], sample_sigmas(["b"], seed=1, epoch=2, tokens=16, config=config))


def test_dynamic_shift_is_qwen_images():
    assert dynamic_mu(256) == pytest.approx(0.5)
    assert dynamic_mu(8192) == pytest.approx(0.9)
    assert math.exp(dynamic_mu(4096)) == pytest.approx(2.0, abs=5e-3)
    assert shift_sigma(torch.tensor(0.5), mu=math.log(3.0)).item() == pytest.approx(0.75)
    for distribution in ("uniform", "logit_normal"):
        config = FlowConfig(distribution=distribution, shift="dynamic")
        sigma = sample_sigmas([str(n) for n in range(400)], seed=0, epoch=0, tokens=4096, config=config)
        assert 0 < sigma.min() < sigma.max() < 1
        assert sigma.median().item() == pytest.approx(2 / 3, abs=0.06)  # e^mu = 2 moves a half to two thirds


def test_noisy_latents_interpolate():
    clean, noise = torch.zeros(2, 1, 1), torch.ones(2, 1, 1)
    assert noisy(clean, noise, torch.tensor([0.25, 1.0])).flatten().tolist() == [0.25, 1.0]


@pytest.mark.parametrize("prefetch", [0, 3])
def test_micro_batches_by_number_do_not_depend_on_ranks_or_read_ahead(prefetch):
    config = toy_config(data__prefetch=prefetch)

    def reader(numbers) -> Batches:
        return Batches(ToySource(), encoder=encoder(), config=config, tags=18, numbers=numbers)

    alone, second_of_two = reader(lambda n: n), reader(lambda n: 2 * n + 1)
    for n in range(5):
        a, b = alone.get(2 * n + 1), second_of_two.get(n)
        assert a.uids == b.uids
        assert torch.equal(a.clean_BTC, b.clean_BTC)
    assert alone.waited >= 0
    for batches in (alone, second_of_two):
        batches.close()


def test_the_cache_stays_within_its_bytes():
    from tagmoe.train.data.source import EncodedCache

    cache = EncodedCache(encoder(), limit_bytes=6000)
    for number in range(12):
        cache.encode(toy_sample(number))
        assert cache._bytes <= 6000
    assert 0 < len(cache._kept) < 12
