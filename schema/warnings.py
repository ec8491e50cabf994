"""The closed vocabulary of warnings on a record: a name, and where one is measured a number behind it."""

from __future__ import annotations

import re

WARNINGS: dict[str, str] = {
    # the record
    "no_pictures": "The record has no source or no target picture, so the tags come from the text alone.",
    "text_truncated": "The instruction is longer than the annotator reads; the middle was left out.",
    "empty_text": "The instruction holds no letters, so the tags come from the record's form alone.",
    "task_disagrees_with_images": "The task and the pictures do not fit (an edit without source, a generation with one).",
    "instruction_reads_as_caption": "The text describes a result instead of asking for a change.",
    # decoding
    "alpha_flattened": "A picture has transparent parts, which were laid on white.",
    "cmyk_converted": "A picture is in CMYK and was converted to RGB without its colour profile.",
    "reduced_to_8_bit": "A picture has 16 bits a pixel, which were scaled to 8.",
    "rotated_by_exif": "A picture was turned upright as its EXIF orientation says; its bytes still lie on the side.",
    # confidence
    "low_confidence": "P of the least certain decision is below 0.6; the number is that probability.",
    "scope_unsure": "The two likeliest scopes are close; the number is P of the chosen one.",
    "text_and_pixels_disagree": "Text and pixels favour different scopes; the number is P of the text's scope after both.",
    # contradictions between tags and pixels
    "noop_pair": "Source and target are practically the same picture; the number is the changed share.",
    "scope_local_but_changed": "Labelled local, yet most of the picture changed; the number is the changed share.",
    "scope_multi_but_one_region": "Labelled multi region, yet one region changed; the number is its share of the picture.",
    "scope_global_but_little_changed": "Labelled global, yet little changed; the number is the changed share.",
    "viewpoint_but_same_frame": "Labelled viewpoint, yet the frame hardly moved; the number is the edge correlation.",
    "background_preserved_but_changed": "The background should stay, yet the frame changed; the number is its changed share.",
    "background_edited_but_unchanged": "The background should change, yet the frame stayed; the number is its changed share.",
    "structure_preserved_but_changed": "The layout should stay, yet the edges differ; the number is the edge correlation.",
    "color_only_but_object": "An object edit was asked, yet only colours changed; the number is the colour-only share.",
    "misregistered": "The target is shifted or scaled although no camera move was asked; the number is the gain of aligning.",
    "aspect_changed": "The target has another shape although no new frame was asked; the number is the log ratio.",
    "swapped_pair": "Things vanish where they should appear or the reverse: source and target may be exchanged; the number is the likelihood.",
    "unrelated_pair": "Source and target share no structure although the request keeps some; the number is the edge correlation.",
    # tags
    "rule_repaired": "The likeliest tags broke a rule of the taxonomy and the least likely of them was dropped.",
    "no_type_found": "No type reached its threshold; the likeliest one was taken and the number is its P.",
    # several answers
    "swap_test_inconsistent": "The instruction looks carried out rather with source and target exchanged; the number "
    "is P as given minus P exchanged.",
    "asked_again": "The annotator's first reply broke a rule; the tags are from the reply after naming that.",
    "escalated": "A first annotator was unsure and a second one was asked; the number is the first one's confidence.",
    "votes_disagree": "Several samples of the annotator gave different tags; the number is the share of the majority.",
}
"""Name -> meaning. A warning is the name, or the name, `_` and a number such as `scope_local_but_changed_0.93`."""

_NUMBER = r"-?\d+(?:\.\d+)?"
WARNING_PATTERN = rf"^(?:{'|'.join(sorted(WARNINGS, key=len, reverse=True))})(?:_{_NUMBER})?$"
_COMPILED = re.compile(WARNING_PATTERN)


def warning(name: str, number: float | None = None) -> str:
    """Spell a warning: the name, with the number rounded to two places.

    Raises:
        KeyError: `name` is not in `WARNINGS`.
    """
    if name not in WARNINGS:
        raise KeyError(f"unknown warning {name!r}: expected one of {', '.join(WARNINGS)}")
    return name if number is None else f"{name}_{number:.2f}"


def warning_name(text: str) -> str:
    """The name without its number.

    Raises:
        ValueError: `text` is not a warning of this vocabulary.
    """
    if not _COMPILED.match(text):
        raise ValueError(f"{text!r} is not a known warning: expected a name of WARNINGS, optionally with _NUMBER")
    stem, _, last = text.rpartition("_")
    return stem if stem in WARNINGS and text not in WARNINGS and re.fullmatch(_NUMBER, last) else text


def is_warning(text: str) -> bool:
    """Whether `text` is spelled from this vocabulary."""
    return bool(_COMPILED.match(text))
