"""What a run would ask, without asking: the rendered prompt, the schema and an estimate of tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import JsonValue

from ...schema import Taxonomy
from ...schema.configs.vlm import VlmConfig
from ..base import Prepared
from .dialogue import Request, first_request
from .prompt import prompt_version

CHARACTERS_PER_TOKEN = 4.0
"""Typical of English under large byte-pair vocabularies; an estimate, never a limit."""
PIXELS_PER_TOKEN = 28 * 28
"""Qwen2.5-VL: patches of 14 x 14 merged 2 x 2. Qwen3-VL's tokens are 32 x 32, so this is on the safe side."""


@dataclass(frozen=True, slots=True)
class Preview:
    """One record's request as text, the schema of its reply, and the tokens it may cost."""

    prompt_version: str
    text: str
    schema: dict[str, JsonValue]
    prompt_tokens: int
    picture_tokens: int
    reply_tokens: int


def preview(record: Prepared, *, config: VlmConfig, taxonomy: Taxonomy) -> Preview:
    """Render `record`'s first request. Token counts are estimates for one vote without re-asks."""
    request = first_request(record, taxonomy=taxonomy, config=config)
    text = rendered(request)
    sizes = [picture.width * picture.height for picture in record.pixels]
    longest = {
        "scope": max((tag.name for tag in taxonomy.tier("scope")), key=len),
        "types": {tag.name: False for tag in taxonomy.tier("type")},
        "preservation": {tag.name: False for tag in taxonomy.tier("preservation")},
    }
    return Preview(
        prompt_version=prompt_version(taxonomy),
        text=text,
        schema=dict(request.schema),
        prompt_tokens=round(len(text) / CHARACTERS_PER_TOKEN),
        picture_tokens=sum(
            -(-min(max(size, config.pictures.min_pixels), config.pictures.max_pixels) // PIXELS_PER_TOKEN)
            for size in sizes
        ),
        reply_tokens=round(len(json.dumps(longest, separators=(",", ":"))) / CHARACTERS_PER_TOKEN),
    )


def rendered(request: Request) -> str:
    """A request as a person reads it; pictures by role and size."""
    record = request.record
    parts = [
        part
        if isinstance(part, str)
        else f"<{record.images[part].role}: {record.pixels[part].width} x {record.pixels[part].height} pixels>"
        for part in request.prompt.user
    ]
    return "\n".join(["--- system", request.prompt.system, "--- user", *parts])
