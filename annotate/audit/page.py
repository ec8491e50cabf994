"""report.html: one file, no network, and one safe path from records to the screen.

Data reaches the page only as JSON in data blocks, escaped so that no text can end the block; the script puts texts
into text nodes. A content security policy allows exactly this style sheet, exactly this script and data: pictures, so
that even a mistake in escaping can neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ...schema.files import atomic_file
from ...schema.report import Report

_SCRIPTS = ("page_core.js", "page_charts.js", "page_sections.js", "page_cards.js", "page_review.js", "page_main.js")
_SLOT = re.compile(r"@@(CSP|STYLE|SCRIPT|DATA|PICTURES)@@")
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def safe_json(value: object) -> str:
    """JSON that cannot end the data block it stands in, whatever the texts in it say."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPES[match[0]], text)
    return text.encode("utf-8", "replace").decode("utf-8")


def write_page(
    path: Path, report: Report, cards: list[dict[str, Any]], pictures: Iterable[tuple[int, dict[str, str]]]
) -> None:
    """Write report.html; `pictures` (row, data URIs by role) are written as they come and never held together."""
    with atomic_file(path) as stream:
        for piece in _pieces(report, cards, pictures):
            stream.write(piece.encode("utf-8"))


def _pieces(
    report: Report, cards: list[dict[str, Any]], pictures: Iterable[tuple[int, dict[str, str]]]
) -> Iterator[str]:
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    slots = {"CSP": policy, "STYLE": style, "SCRIPT": script}
    parts = _SLOT.split(_asset("page.html"))
    for text, name in zip(parts[::2], [*parts[1::2], None], strict=True):
        yield text
        if name == "DATA":
            yield safe_json({"report": report.model_dump(mode="json"), "cards": cards})
        elif name == "PICTURES":
            for row, shown in pictures:
                yield f'<script type="application/json" id="p{row:d}">{safe_json(shown)}</script>\n'
        elif name is not None:
            yield slots[name]


def _asset(name: str) -> str:
    return (resources.files("tagmoe.annotate.audit") / name).read_text("utf-8")


def _source(text: str) -> str:
    """The policy's name of an inline script or style: the hash of its exact text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
