"""The embedded annotator on requests whose tags nobody disputes, on hostile text, and against the taxonomy's rules."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.annotate.base import Prepared
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.schema import ConfigError, DataError, Pair
from tagmoe.schema.records import ImageRef
from tagmoe.schema.taxonomy import load_taxonomy, parse_taxonomy
from tagmoe.schema.warnings import is_warning

TAXONOMY = load_taxonomy()


@pytest.fixture(scope="module")
def annotator() -> LocalAnnotator:
    return LocalAnnotator()


def prepared(text: str, task: str = "edit", roles: tuple[str, ...] = (), row: int = 0) -> Prepared:
    images = tuple(ImageRef(role=role, uri=f"{role}.jpg") for role in roles)
    return Prepared(pair=Pair(corpus="c", row=row, id=str(row), task=task, instruction=text, images=images))


def tags(annotator: LocalAnnotator, text: str, task: str = "edit", roles: tuple[str, ...] = ()) -> set[str]:
    (labels,) = annotator.annotate([prepared(text, task, roles)])
    return set(TAXONOMY.names(labels.tag_ids))


@pytest.mark.parametrize(
    ("text", "scope", "types"),
    [
        ("Remove the dog.", "local editing", {"object editing"}),
        ("add a red hat to the snowman", "local editing", {"object editing"}),
        ("Change the cloak to red color.", "local editing", {"attribute editing"}),
        ("turn the wooden bench into a marble one", "local editing", {"attribute editing"}),
        ("Turn this photo into an oil painting.", "global editing", {"style transfer"}),
        ("Replace the background with a beach.", "global editing", {"background editing"}),
        ("Make it night.", "global editing", {"illumination editing"}),
        ("Let her cry.", "local editing", {"pose editing", "attribute editing"}),
        ("make the horse jump over the fence", "local editing", {"pose editing"}),
        ("Remove the dog and paint the fence white.", "multi region editing", {"object editing", "attribute editing"}),
        ("Show the car from behind.", "viewpoint editing", set()),
        ("把背景换成海滩", "global editing", {"background editing"}),
        ("将图像转换为漫画风格。", "global editing", {"style transfer"}),
        ("去掉图中的路人", "local editing", {"object editing"}),
        ("把她的裙子改成蓝色", "local editing", {"attribute editing"}),
    ],
)
def test_undisputed_requests(annotator: LocalAnnotator, text: str, scope: str, types: set[str]) -> None:
    found = tags(annotator, text)
    assert scope in found
    assert {name for name in found if TAXONOMY.by_name[name].tier == "type"} == types


def test_paper_example(annotator: LocalAnnotator) -> None:
    (labels,) = annotator.annotate([prepared("Change the cloak to red color.")])
    assert set(labels.tag_ids) == {0, 7, 13, 14, 16}


def test_generation_and_references_decide_the_scope(annotator: LocalAnnotator) -> None:
    assert tags(annotator, "a cat on the moon", "generation") == {"image generation"}
    assert "content customization" in tags(annotator, "a backpack in the jungle", "customization", ("ref0",))
    text = "Using this style, paint a lighthouse by the sea"
    assert "style customization" in tags(annotator, text, "customization", ("ref0",))


def test_pleas_to_keep_something_are_not_edits(annotator: LocalAnnotator) -> None:
    found = tags(annotator, "Remove the lamp. Keep the background and everything else unchanged.")
    assert found >= {"local editing", "object editing", "background preservation", "style preservation"}
    assert "background editing" not in found


def test_reasons_name_the_steps_and_every_preservation_tag(annotator: LocalAnnotator) -> None:
    (labels,) = annotator.annotate(
        [prepared("Replace the background with a beach. Keep the pose and framing unchanged.")]
    )
    steps = [line for line in labels.reasons if line.startswith("step: ")]
    assert "bg_replace" in steps[0]
    assert "keep_structure" in steps[1]
    about = {line.split(":")[0]: line for line in labels.reasons if not line.startswith("step: ")}
    assert set(about) == {tag.name for tag in TAXONOMY.tier("preservation")}
    assert "background editing excludes it" in about["background preservation"]


TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            [
                "add",
                "remove",
                "the",
                "dog",
                "and",
                "then",
                ",",
                ".",
                "把",
                "背景",
                "换成",
                "make",
                "it",
                "night",
                "style",
                "of",
                "anime",
                "keep",
                "her",
                "face",
                "'X'",
                "\n",
                "16:9",
            ]
        )
    ).map(" ".join),
)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, task=st.sampled_from(["edit", "generation", "customization"]), refs=st.integers(0, 3))
def test_every_answer_is_valid(annotator: LocalAnnotator, text: str, task: str, refs: int) -> None:
    (labels,) = annotator.annotate([prepared(text, task, tuple(f"ref{i}" for i in range(refs)))])
    errors = [v for v in TAXONOMY.check(labels.tag_ids, task=task) if v.severity == "error"]
    assert not errors
    assert len(labels.tag_probs) == len(labels.tag_probs_raw) == TAXONOMY.size
    assert all(p is not None and 0 <= p <= 1 for p in labels.tag_probs)
    scopes = [labels.tag_probs[tag.id] or 0.0 for tag in TAXONOMY.tier("scope")]
    assert sum(scopes) == pytest.approx(1, abs=1e-3)
    assert all(is_warning(warning) for warning in labels.warnings)


def test_a_hostile_megabyte_costs_no_more_than_a_page(annotator: LocalAnnotator) -> None:
    for text in (
        "a, " * 400_000,
        '"' * 1_000_000,
        "{" * 1_000_000,
        "换" * 1_000_000,
        "add the " * 100_000,
        "-" * 1_000_000,
    ):
        started = time.process_time()
        (labels,) = annotator.annotate([prepared(text)])
        assert time.process_time() - started < 10, "milliseconds are usual; anything quadratic takes minutes"
        assert "text_truncated" in labels.warnings


def test_order_and_batching_do_not_matter(annotator: LocalAnnotator) -> None:
    texts = ["remove the cat", "make it night", "add a hat and a scarf", "换成油画风格"]
    batch = [prepared(text, row=i) for i, text in enumerate(texts)]
    together = annotator.annotate(batch)
    assert [annotator.annotate([one])[0] for one in reversed(batch)] == together[::-1]


def test_missing_pictures_and_contradicting_forms_are_named(annotator: LocalAnnotator) -> None:
    (text_only,) = annotator.annotate([prepared("remove the cat")])
    assert "no_pictures" in text_only.warnings
    (odd,) = annotator.annotate([prepared("a cat", "generation", ("source",))])
    assert "task_disagrees_with_images" in odd.warnings
    (empty,) = annotator.annotate([prepared("?!…")])
    assert "empty_text" in empty.warnings


def test_a_taxonomy_without_our_tags_is_refused() -> None:
    other = parse_taxonomy(
        'name = "small"\nversion = 1\n[[tags]]\nid = 0\nname = "edit"\ntier = "scope"\ndefinition = "x"\n',
        origin="test",
    )
    with pytest.raises(ConfigError, match="small@1 lacks"):
        LocalAnnotator(taxonomy=other)


def test_damaged_weights_are_named(tmp_path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"not a model")
    with pytest.raises(DataError, match="refit with `tagmoe fit-local`"):
        LocalAnnotator(weights=path)


def test_provenance_names_the_weights(annotator: LocalAnnotator) -> None:
    settings_ = json.loads(annotator.provenance.settings)
    assert annotator.provenance.annotator == "local@1"
    assert settings_["weights"].startswith(annotator.provenance.model_revision)
    assert settings_["taxonomy"] == "tagmoe-18@1"
