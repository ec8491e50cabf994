"""Evidence against exact truth: edits made by program on real photos, as an editing model would return them."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tagmoe.annotate.evidence import change_mask, measure
from tagmoe.annotate.evidence import procedural as made
from tagmoe.schema.evidence import Evidence
from tagmoe.shards.corpus.decode import open_image

DEMO = Path(__file__).parents[1] / "examples" / "demo-corpus"
COUNT = 14


@cache
def photos() -> list[np.ndarray]:
    found = sorted(path for path in DEMO.rglob("*.jpg"))
    out = []
    for path in found[:: max(1, len(found) // COUNT)][:COUNT]:
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((320, 320))
            out.append(np.asarray(small).copy())
    assert len(out) == COUNT
    return out


@cache
def pairs(kind: str) -> list[tuple[made.Edited, np.ndarray]]:
    rng = np.random.default_rng(5)
    maker = getattr(made, kind)
    edits = [maker(photo, photos()[(i + 5) % COUNT], rng) for i, photo in enumerate(photos())]
    return [(edit, made.regenerated(edit.target, rng)) for edit in edits]


@cache
def evidence(kind: str) -> list[Evidence]:
    return [measure(edit.source, target) for edit, target in pairs(kind)]


def median(kind: str, field: str) -> float:
    return float(np.median([getattr(item, field) for item in evidence(kind)]))


def low(kind: str, field: str) -> float:
    return float(np.percentile([getattr(item, field) for item in evidence(kind)], 15))


def high(kind: str, field: str) -> float:
    return float(np.percentile([getattr(item, field) for item in evidence(kind)], 85))


@pytest.mark.parametrize(
    ("kind", "least"), [("recolor", 0.88), ("paste", 0.85), ("erase", 0.85), ("several", 0.8), ("background", 0.75)]
)
def test_mask_finds_the_changed_pixels(kind: str, least: float) -> None:
    scores = []
    for edit, target in pairs(kind):
        assert edit.mask is not None
        found = change_mask(edit.source, target)
        assert found.shape == edit.mask.shape
        scores.append((found & edit.mask).sum() / max(1, (found | edit.mask).sum()))
    assert np.median(scores) >= least, scores
    assert np.mean(np.array(scores) > 0.5) >= 0.85, scores


@pytest.mark.parametrize("kind", ["recolor", "paste", "several"])
def test_changed_share_is_the_share_of_the_mask(kind: str) -> None:
    errors = [
        abs(item.changed_fraction - edit.mask.mean())
        for item, (edit, _) in zip(evidence(kind), pairs(kind), strict=True)
    ]
    assert np.median(errors) < 0.02


def test_position_of_the_change() -> None:
    for item, (edit, _) in zip(evidence("recolor"), pairs("recolor"), strict=True):
        ys, xs = np.nonzero(edit.mask)
        height, width = edit.mask.shape
        assert abs(item.change_x - xs.mean() / width) < 0.1
        assert abs(item.change_y - ys.mean() / height) < 0.1


def test_regions_are_counted() -> None:
    assert np.mean([item.regions == 1 for item in evidence("paste")]) > 0.7
    assert np.mean([item.regions >= 2 for item in evidence("several")]) > 0.8


def test_colour_against_structure() -> None:
    assert low("recolor", "color_only") > high("paste", "color_only")
    assert low("relight", "color_only") > 0.8
    assert low("relight", "tone_fit") > 0.75 > high("background", "tone_fit")
    assert median("relight", "edge_similarity") > 0.85


def test_erasing_and_pasting_differ_in_direction() -> None:
    assert median("cutout", "edge_energy_change") < -0.3
    assert median("margins", "edge_energy_change") > 0.2


def test_background_edits_reach_the_frame_and_local_ones_do_not() -> None:
    assert low("background", "border_changed") > 0.5 > high("paste", "border_changed")
    assert median("cutout", "target_border_plain") > 0.8


def test_brightness() -> None:
    assert low("brighten", "luma_shift") > 0.05
    assert high("relight", "luma_shift") < -0.02


def test_camera_moves_are_aligned() -> None:
    rng = np.random.default_rng(2)
    for photo in photos()[:6]:
        edit = made.crop(photo, photo, rng)
        found = measure(edit.source, edit.target)
        if found.scale != 1.0:
            assert 1.15 < found.scale < 2.2
    assert np.mean([item.scale > 1.1 for item in evidence("crop")]) > 0.6
    assert np.mean([item.scale < 0.95 for item in evidence("zoom_out")]) > 0.6
    assert low("margins", "margin_filled") > 0.3
    assert high("paste", "margin_filled") < 0.05


@pytest.mark.parametrize(("dx", "dy"), [(12, 0), (-9, 6), (0, -14)])
def test_shifts_are_measured_and_undone(dx: int, dy: int) -> None:
    errors, changed = [], []
    for photo in photos():
        height, width = photo.shape[:2]
        found = measure(photo, np.roll(photo, (dy, dx), (0, 1)))
        if found.alignment_gain > 0:
            errors.append(abs(found.shift_x - dx / width) + abs(found.shift_y - dy / height))
            changed.append(found.changed_fraction)
    assert len(errors) >= COUNT // 2
    assert np.median(errors) < 0.01
    assert np.median(changed) < 0.05


def test_re_encoding_noise_and_a_slight_cast_are_no_change() -> None:
    rng = np.random.default_rng(1)
    for photo in photos():
        slight = np.clip(photo * 0.99 + np.array([4, -3, 3]), 0, 255).astype(np.uint8)
        noise = np.clip(photo + rng.normal(0, 6, photo.shape), 0, 255).astype(np.uint8)
        for same in (photo, made.reencoded(photo, quality=40), noise, slight):
            found = measure(photo, same)
            assert found.changed_fraction < 0.004
            assert found.regions == 0
            assert found.scale == 1.0


def test_identical_pictures_measure_as_identical() -> None:
    found = measure(photos()[0], photos()[0])
    expected = {
        "changed_fraction": 0,
        "residual": 0,
        "regions": 0,
        "luma_shift": 0,
        "palette_distance": 0,
        "edge_similarity": 1,
        "overlap": 1,
    }
    assert {name: pytest.approx(getattr(found, name), abs=1e-6) for name in expected} == expected


@pytest.mark.parametrize("size", [(512, 480), (341, 512)])
def test_drafted_decoding_measures_the_same(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    moved = []
    for path in sorted(DEMO.rglob("*.jpg"))[:8]:
        with Image.open(path) as image:
            photo = np.asarray(image.convert("RGB").resize(size))
        edit = made.recolor(photo, photo, rng)
        both = []
        for draft in (None, 64):
            source, target = (
                open_image(_jpeg(picture), draft=draft, draft_long=96).image for picture in (edit.source, edit.target)
            )
            both.append(measure(source, target))
        moved.append(abs(both[0].changed_fraction - both[1].changed_fraction))
        assert abs(both[0].edge_similarity - both[1].edge_similarity) < 0.05
    assert max(moved) < 0.02


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def test_aspect_change_is_the_log_ratio() -> None:
    photo = photos()[0][:200, :200]
    wider = np.asarray(Image.fromarray(photo).resize((300, 200)))
    assert measure(photo, wider).aspect_change == pytest.approx(np.log(1.5), abs=1e-5)
