"""The small operations of the evidence against slow references, and odd input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage
from tagmoe.annotate.evidence import change_mask, measure
from tagmoe.annotate.evidence.align import align
from tagmoe.annotate.evidence.grid import (
    box,
    correlation,
    edges,
    fit,
    framed,
    halve,
    inner,
    over_neighbours,
    shrink,
    spread,
    views,
    wide_box,
)
from tagmoe.annotate.evidence.looks import margin
from tagmoe.annotate.evidence.mask import changed, difference, region_sizes
from tagmoe.schema.evidence import EVIDENCE_FIELDS, Evidence

SHAPES = st.tuples(st.integers(2, 24), st.integers(2, 24))


@settings(max_examples=60, deadline=None)
@given(mask=SHAPES.flatmap(lambda shape: arrays(np.bool_, shape)))
def test_region_sizes_agree_with_labelling(mask: np.ndarray) -> None:
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    expected = sorted((int((labels == i + 1).sum()) for i in range(count)), reverse=True)
    assert region_sizes(mask) == expected


def test_region_sizes_of_a_spiral_and_a_comb() -> None:
    comb = np.zeros((9, 9), dtype=bool)
    comb[:, ::2] = True
    comb[-1] = True
    assert region_sizes(comb) == [int(comb.sum())]
    assert region_sizes(np.zeros((5, 5), dtype=bool)) == []


@settings(max_examples=40, deadline=None)
@given(image=SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(0, 1, width=32))))
def test_box_agrees_with_a_uniform_filter(image: np.ndarray) -> None:
    np.testing.assert_allclose(box(image), ndimage.uniform_filter(image, 3, mode="nearest"), atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(image=SHAPES.flatmap(lambda shape: arrays(np.uint8, (3, *shape))))
def test_extremes_of_neighbours_agree_with_rank_filters(image: np.ndarray) -> None:
    low, high = (inner(over_neighbours(framed(image), extreme)) for extreme in (np.minimum, np.maximum))
    for plane in range(3):
        np.testing.assert_array_equal(low[plane], ndimage.minimum_filter(image[plane], 3, mode="nearest"))
        np.testing.assert_array_equal(high[plane], ndimage.maximum_filter(image[plane], 3, mode="nearest"))


@settings(max_examples=40, deadline=None)
@given(images=SHAPES.flatmap(lambda shape: arrays(np.float32, (2, *shape), elements=st.floats(0, 1, width=32))))
def test_wide_box_is_three_boxes(images: np.ndarray) -> None:
    expected = images.astype(np.float64)
    for _ in range(3):
        expected = np.stack([ndimage.uniform_filter(image, 3, mode="nearest") for image in expected])
    np.testing.assert_allclose(wide_box(images), expected, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(images=SHAPES.flatmap(lambda shape: arrays(np.float32, (2, *shape), elements=st.floats(0, 1, width=32))))
def test_edges_agree_with_central_differences(images: np.ndarray) -> None:
    expected = np.zeros_like(images)
    down = images[:, 2:, 1:-1] - images[:, :-2, 1:-1]
    right = images[:, 1:-1, 2:] - images[:, 1:-1, :-2]
    expected[:, 1:-1, 1:-1] = np.hypot(down, right)
    np.testing.assert_allclose(edges(images), expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    levels=SHAPES.flatmap(lambda shape: arrays(np.uint8, shape)),
    frame=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_change_agrees_with_means_in_float(levels: np.ndarray, frame: tuple[int, int]) -> None:
    valid = np.zeros(levels.shape, dtype=bool)
    valid[frame[0] :, frame[1] :] = True
    noise = np.partition(levels[::2, ::2].ravel(), levels[::2, ::2].size // 2)[levels[::2, ::2].size // 2]
    hit = ((levels > min(max(17.5, 2.5 * noise), 33.0)) & valid).astype(np.float64)
    near = ndimage.uniform_filter(hit, 3, mode="nearest")
    wide = (near > 0.5).astype(np.float64)
    for _ in range(3):
        wide = ndimage.uniform_filter(wide, 3, mode="nearest")
    expected = ((near > 0.5) | ((wide > 0.42) & (near > 0.2))) & valid
    np.testing.assert_array_equal(changed(levels, valid), expected)


def test_planes_and_brightness_are_those_of_pillow() -> None:
    rng = np.random.default_rng(2)
    images = [Image.fromarray(rng.integers(0, 255, (10, 14, 3), dtype=np.uint8)) for _ in range(2)]
    found = views(*images)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(found.planes_2CHW[i], np.asarray(image).transpose(2, 0, 1))
        np.testing.assert_allclose(found.luma_2HW[i] * 255, np.asarray(image.convert("L")), atol=1e-4)
    np.testing.assert_array_equal(found.half_2HW, halve(found.luma_2HW))


def test_spread_is_the_standard_deviation() -> None:
    values = np.random.default_rng(1).random(500, dtype=np.float32)
    assert spread(values) == pytest.approx(float(values.std()), rel=1e-5)


def test_only_the_common_area_of_a_warped_pair_is_valid() -> None:
    rng = np.random.default_rng(6)
    small = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    wide = Image.fromarray(small).resize((160, 160), Image.Resampling.BICUBIC)
    found = align(wide.crop((0, 0, 96, 96)), wide.crop((20, 0, 116, 96)))
    assert found.warp.dx == pytest.approx(-20, abs=1.5)
    columns = found.valid_HW.any(axis=0)
    assert not columns[:18].any()
    assert columns[23:].all()
    assert found.gain > 0.13


@settings(max_examples=40, deadline=None)
@given(pair=SHAPES.flatmap(lambda shape: st.tuples(arrays(np.uint8, (3, *shape)), arrays(np.uint8, (3, *shape)))))
def test_difference_is_symmetric_and_bounded_by_the_plain_one(pair: tuple[np.ndarray, np.ndarray]) -> None:
    source, target = pair
    found = difference(np.stack(pair))
    plain = np.abs(source.astype(int) - target.astype(int)).max(axis=0)
    assert (found <= plain + 13).all()
    assert (difference(np.stack(pair[::-1])) <= plain + 13).all()
    assert not difference(np.stack((source, source))).any()


def test_halve_means_blocks() -> None:
    image = np.arange(20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_allclose(halve(image), [[3, 5], [13, 15]])


def test_correlation_of_constants() -> None:
    flat, ramp = np.ones((4, 4), np.float32), np.arange(16, dtype=np.float32).reshape(4, 4)
    assert correlation(flat, flat) == 1.0
    assert correlation(flat, ramp) == 0.0
    assert correlation(ramp, -ramp) == pytest.approx(-1.0)


def test_margins_of_a_letterboxed_picture() -> None:
    planes = np.zeros((3, 40, 60), dtype=np.uint8)
    planes[:, 10:30, 5:50] = np.random.default_rng(0).integers(0, 255, (3, 20, 45))
    expected = np.ones((40, 60), dtype=bool)
    expected[10:30, 5:50] = False
    np.testing.assert_array_equal(margin(planes), expected)
    assert not margin(np.full((3, 8, 8), 7, np.uint8)).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 7), (2000, 9), (129, 128)])
def test_odd_sizes_are_measured(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    target = rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)
    found = measure(source, target)
    assert set(found.model_dump()) == set(EVIDENCE_FIELDS)
    assert change_mask(source, target).shape == source.shape[:2]


def test_an_image_and_its_array_measure_alike() -> None:
    rng = np.random.default_rng(3)
    source, target = (rng.integers(0, 255, (90, 120, 3), dtype=np.uint8) for _ in range(2))
    assert measure(source, target) == measure(Image.fromarray(source), Image.fromarray(target))


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode L"):
        measure(Image.new("L", (8, 8)), Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match="H x W x 3 uint8"):
        measure(np.zeros((8, 8)), np.zeros((8, 8, 3), np.uint8))


def test_fit_and_shrink() -> None:
    assert fit(4000, 1000, long_side=128) == (128, 32)
    assert fit(10_000, 1, long_side=128) == (128, 8)
    assert shrink(Image.new("RGB", (500, 300)), (128, 77)).size == (128, 77)


def test_fields_survive_float32() -> None:
    values = dict.fromkeys(EVIDENCE_FIELDS, 0.1)
    found = Evidence(**values)
    assert found.residual == float(np.float32(0.1))
    assert Evidence(**found.model_dump()) == found
    with pytest.raises(ValueError, match="finite"):
        Evidence(**{**values, "residual": float("nan")})
