"""docs/corpora.md names every kind, preset, limit and reject there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from tagmoe.schema.corpus import CorpusKind
from tagmoe.shards.corpus.presets import PRESETS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/corpora.md").read_text("utf-8")


def test_every_kind_and_preset_is_documented() -> None:
    for name in (*get_args(CorpusKind), *PRESETS):
        assert f"`{name}`" in TEXT, name


def test_every_reject_of_this_floor_is_documented() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "shards/corpus").glob("*.py"))
    block = (ROOT / "schema/reasons.py").read_text("utf-8").split("# annotate")[0]
    reasons = re.findall(r'^    "([a-z0-9_]+)",$', block, re.MULTILINE)
    assert len(reasons) > 15
    for reason in reasons:
        assert f'"{reason}"' in source, f"{reason} is never given"
        assert f"`{reason}`" in TEXT, f"{reason} is not documented"
