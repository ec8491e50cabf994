"""Warnings: the closed vocabulary, contradictions between tags and pixels, reversed pairs, joining text and pixels."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tagmoe.annotate.base import Prepared
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.annotate.local.contradictions import contradictions
from tagmoe.annotate.local.direction import swapped_likelihood
from tagmoe.annotate.local.fusion import Calibration, hear, join
from tagmoe.annotate.local.record import features, read
from tagmoe.schema import Pair
from tagmoe.schema.evidence import EVIDENCE_FIELDS, Evidence
from tagmoe.schema.records import ImageRef
from tagmoe.schema.warnings import WARNINGS, is_warning, warning, warning_name

SAME = {
    "scale": 1,
    "overlap": 1,
    "edge_similarity": 1,
    "edge_similarity_changed": 1,
    "tone_fit": 1,
    "change_x": 0.5,
    "change_y": 0.5,
}


def evidence(**values: float) -> Evidence:
    return Evidence(**{**dict.fromkeys(EVIDENCE_FIELDS, 0.0), **SAME, **values})


LOCAL = {"local editing", "object editing", "background preservation", "style preservation"}
GLOBAL = {"global editing", "style transfer", "structure preservation"}


@pytest.mark.parametrize(
    ("tags", "values", "expected"),
    [
        (LOCAL, {"changed_fraction": 0.93, "residual": 0.3}, "scope_local_but_changed_0.93"),
        (LOCAL, {"changed_fraction": 0.001}, "noop_pair_0.00"),
        (GLOBAL, {"changed_fraction": 0.05, "residual": 0.01}, "scope_global_but_little_changed_0.05"),
        (
            GLOBAL,
            {"changed_fraction": 0.9, "residual": 0.2, "edge_similarity": 0.2},
            "structure_preserved_but_changed_0.20",
        ),
        (LOCAL, {"changed_fraction": 0.5, "border_changed": 0.7}, "background_preserved_but_changed_0.70"),
        (LOCAL, {"changed_fraction": 0.1, "color_only": 0.97}, "color_only_but_object_0.97"),
        (LOCAL, {"changed_fraction": 0.1, "alignment_gain": 0.4}, "misregistered_0.40"),
        (LOCAL, {"changed_fraction": 0.1, "aspect_change": -0.3}, "aspect_changed_-0.30"),
        ({"viewpoint editing"}, {"changed_fraction": 0.1, "edge_similarity": 0.95}, "viewpoint_but_same_frame_0.95"),
        (
            {"multi region editing", "object editing"},
            {"changed_fraction": 0.1, "regions": 1, "largest_region": 0.1},
            "scope_multi_but_one_region_0.10",
        ),
        (
            {"global editing", "background editing"},
            {"changed_fraction": 0.05, "residual": 0.1},
            "background_edited_but_unchanged_0.00",
        ),
        (LOCAL, {"changed_fraction": 0.9, "edge_similarity": 0.01}, "unrelated_pair_0.01"),
    ],
)
def test_contradictions_are_named_with_their_number(tags: set[str], values: dict[str, float], expected: str) -> None:
    found = contradictions(tags, evidence(**values))
    assert expected in found
    assert all(is_warning(item) for item in found)


def test_agreement_gives_no_warning() -> None:
    assert (
        contradictions(
            LOCAL, evidence(changed_fraction=0.1, regions=1, largest_region=0.1, residual=0.02, color_only=0.1)
        )
        == []
    )
    assert contradictions(GLOBAL, evidence(changed_fraction=0.9, residual=0.2, edge_similarity=0.7)) == []
    assert contradictions({"content customization"}, evidence(changed_fraction=0.99, edge_similarity=0.0)) == []


def test_reversed_pairs_show_where_the_request_has_a_direction() -> None:
    vanished = evidence(changed_fraction=0.1, edge_energy_change=-0.9)
    assert swapped_likelihood({"add"}, vanished) > 0.9
    assert swapped_likelihood({"remove"}, vanished) < 0.1
    assert swapped_likelihood({"add", "remove"}, vanished) == 0
    assert swapped_likelihood({"recolor"}, vanished) == 0
    assert swapped_likelihood({"colorize_photo"}, evidence(target_gray=1, changed_fraction=0.9)) > 0.9
    assert swapped_likelihood({"add"}, evidence(changed_fraction=0.001, edge_energy_change=-1)) == 0


def test_vocabulary() -> None:
    assert warning("noop_pair", 0.00123) == "noop_pair_0.00"
    assert warning_name("scope_local_but_changed_0.93") == "scope_local_but_changed"
    assert warning_name("aspect_changed_-0.30") == "aspect_changed"
    assert warning_name("no_pictures") == "no_pictures"
    assert not is_warning("made_up_0.3")
    assert not is_warning("noop_pair_0.3x")
    with pytest.raises(KeyError, match="unknown warning 'made_up'"):
        warning("made_up")
    with pytest.raises(ValueError, match="not a known warning"):
        warning_name("made_up")
    assert all(re.fullmatch(r"[a-z0-9_]+", name) and meaning.endswith(".") for name, meaning in WARNINGS.items())


@pytest.fixture(scope="module")
def annotator() -> LocalAnnotator:
    return LocalAnnotator()


def test_pixels_move_the_scope_of_an_unclear_request_but_are_bounded(annotator: LocalAnnotator) -> None:
    little = evidence(
        changed_fraction=0.03, regions=1, largest_region=0.03, edge_similarity=0.97, tone_fit=0.95, residual=0.004
    )
    much = evidence(changed_fraction=0.9, regions=1, largest_region=0.9, border_changed=0.95, center_changed=0.9, residual=0.2,
                    edge_similarity=0.3, tone_fit=0.3, palette_distance=0.7, change_spread=0.4)  # fmt: skip
    local, whole = (annotator.taxonomy.by_name[name].id for name in ("local editing", "global editing"))

    def chances(text: str, found: Evidence | None) -> tuple[float, ...]:
        return annotator.opinion(text, task="edit", evidence=found).calibrated

    vague = "a baby otter in warm tones"
    assert chances(vague, much)[whole] > chances(vague, None)[whole] > chances(vague, little)[whole]
    assert chances(vague, little)[local] > chances(vague, much)[local]
    assert chances("remove the hat", much)[local] > 0.5


def test_without_pixel_weights_the_pixels_say_nothing(annotator: LocalAnnotator) -> None:
    reading = read("remove the hat")
    vector = features(reading, annotator.model.intents(reading.vectors), task="edit", references=0)
    found = evidence(changed_fraction=0.9)
    deaf = Calibration(scope_pixels=0, type_pixels=0, face_skin=0)
    with_pixels, without = (join(hear(annotator.model, vector, item), annotator.model, deaf) for item in (found, None))
    for a, b in zip(
        (with_pixels.scopes, with_pixels.types, with_pixels.keeps),
        (without.scopes, without.types, without.keeps),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_pair_whose_pixels_contradict_keeps_its_tags_and_gets_the_warning(annotator: LocalAnnotator) -> None:
    images = tuple(ImageRef(role=role, uri=f"{role}.jpg") for role in ("source", "target"))
    pair = Pair(corpus="c", row=0, id="0", task="edit", instruction="add a hat to the dog", images=images)
    found = evidence(
        changed_fraction=0.2, regions=1, largest_region=0.2, edge_similarity=0.8, edge_energy_change=-0.9, residual=0.05
    )
    (labels,) = annotator.annotate([Prepared(pair=pair, evidence=found)])
    assert any(warning_name(item) == "swapped_pair" for item in labels.warnings)
    assert {"local editing", "object editing"} <= set(annotator.taxonomy.names(labels.tag_ids))
