"""Why a tag was given or left out, in short lines that a reviewer can check against the text and the pictures."""

from __future__ import annotations

from collections.abc import Collection

from ...schema.evidence import Evidence
from .intents import KEEPS, intents
from .model import Floats
from .record import NAMES, Reading

_PLEAS = {
    "keep_all": ("background preservation", "identity preservation"),
    "keep_subject": ("identity preservation",),
    "keep_face": ("face preservation", "identity preservation"),
    "keep_background": ("background preservation",),
    "keep_structure": ("structure preservation",),
    "keep_style": ("style preservation",),
}
_SURE = 0.5


def reasons(reading: Reading, chances_UK: Floats, tags: Collection[str], evidence: Evidence | None) -> tuple[str, ...]:
    """One line for each step heard, then one for each preservation tag.

    Args:
        reading: the text.
        chances_UK: P(intent) for each unit of `reading.vectors`.
        tags: names of the tags that were given.
        evidence: of the pictures, where there are both.
    """
    lines: list[str] = []
    asked: dict[str, str] = {}
    for clause, chances in zip(reading.clauses, chances_UK, strict=False):
        best = int(chances.argmax())
        words = " ".join(token.text for token in clause[:8])
        lines.append(f"step: {NAMES[best]} {chances[best]:.2f} in '{words}'")
        for tag in _PLEAS.get(NAMES[best], ()) if chances[best] >= _SURE else ():
            asked.setdefault(tag, words)
    heard = {NAMES[int(chances.argmax())] for chances in chances_UK[: len(reading.clauses)]}
    lines += [_preservation(tag, tag in tags, asked.get(tag), heard, tags, evidence) for tag in KEEPS]
    return tuple(lines)


def _preservation(
    tag: str, given: bool, words: str | None, heard: set[str], tags: Collection[str], evidence: Evidence | None
) -> str:
    verdict = "kept" if given else "left out"
    blocker = _blocker(tag, tags)
    if not given and blocker is not None:
        why = f"{blocker} excludes it"
    elif words is not None:
        why = f"asked for in '{words}'"
    elif given:
        for_it = sorted(name for name in heard if intents()[name].keeps.get(tag, 0.0) >= _SURE)
        why = f"usual for {', '.join(for_it)}" if for_it else "likely for this request"
    else:
        why = "not usual for this request"
    return f"{tag}: {verdict}, {why}{_measured(tag, evidence)}"


def _blocker(tag: str, tags: Collection[str]) -> str | None:
    blockers = {
        "structure preservation": ("pose editing", "viewpoint editing", "object editing"),
        "background preservation": ("background editing", "global editing"),
        "style preservation": ("style transfer", "style customization"),
    }
    found = [name for name in (*blockers.get(tag, ()), "image generation") if name in tags]
    return found[0] if found else None


def _measured(tag: str, evidence: Evidence | None) -> str:
    """The number that bears on the tag."""
    if evidence is None:
        return ""
    numbers = {
        "structure preservation": f"; edge correlation {evidence.edge_similarity:.2f}",
        "background preservation": f"; {evidence.border_changed:.2f} of the frame changed",
        "identity preservation": f"; {evidence.center_changed:.2f} of the centre changed",
        "face preservation": f"; unchanged skin colour on {evidence.skin_kept:.2f}",
        "style preservation": f"; palette distance {evidence.palette_distance:.2f}",
    }
    return numbers.get(tag, "")
