"""Tokens of prompts and replies under a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

from _annotate_stub import reply_text
from _machine import save


def bench_tokens(tokenizer_file: Path) -> None:
    from tagmoe.annotate.vlm.prompt import TASKS, system_text
    from tagmoe.schema import load_taxonomy
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    taxonomy = load_taxonomy()

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    whole = json.loads(reply_text())
    plain = {"scope": whole["scope"]} | {
        tier: [name for name, marked in whole[tier].items() if marked] for tier in ("types", "preservation")
    }
    kept = ("background preservation", "identity preservation", "style preservation")
    longer = {**plain, "preservation": list(kept)}
    result = {
        "prompt_tokens": {task: count(system_text(taxonomy, task=task)) for task in TASKS},
        "reply_tokens": {
            "boolean object": count(reply_text()),
            "plain lists, 3 tags": count(json.dumps(plain, separators=(",", ":"))),
            "plain lists, 5 tags": count(json.dumps(longer, separators=(",", ":"))),
        },
        "tokenizer": tokenizer_file.name,
        "vocabulary": tokenizer.get_vocab_size(),
    }
    rows = [
        f"| {name} | {tokens} |"
        for group in ("prompt_tokens", "reply_tokens")
        for name, tokens in result[group].items()
    ]
    summary = ["### annotate: tokens under Qwen2.5's vocabulary", "", "| text | tokens |", "|---|---|", *rows, ""]
    command = "Command: `python benchmarks/annotate.py tokens tokenizer.json` with the model's own file."
    save("annotate_tokens", result, summary="\n".join([*summary, command]))
