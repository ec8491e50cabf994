"""`tagmoe annotate --dry-run`: what would be read and asked, without asking."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import JsonValue

from ..schema import Pair, Reject, load_taxonomy
from ..schema.configs.annotate import AnnotateConfig
from ..shards.console import print_json, say
from ..shards.corpus import Corpus, open_corpus
from .base import Prepared
from .prepare import prepare

_SHOWN = 3


def dry_run(config: AnnotateConfig, *, json: bool) -> None:
    """Show the corpus, the first records, and for a VLM the rendered prompt, the schema and the expected tokens."""
    corpus = open_corpus(config.corpus)
    rows = min(corpus.rows, config.limit or corpus.rows)
    first = list(corpus.records(0, min(rows, _SHOWN)))
    asked = config.escalate or (config.annotator if config.annotator != "local" else None)
    result: dict[str, JsonValue] = {
        "corpus": corpus.name,
        "kind": corpus.spec.kind,
        "rows": rows,
        "fingerprint": corpus.fingerprint,
        "taxonomy": load_taxonomy(config.taxonomy).ref,
        "annotator": config.annotator,
        "first_records": [item.model_dump(mode="json") for item in first],
        "config": config.model_dump(mode="json"),
    }
    if asked is not None:
        result["request"] = _first_request(config, corpus, first, rows=rows)
    if json:
        print_json(result)
        return
    say(f"{corpus.name}: {rows} records ({corpus.spec.kind}), annotator {config.annotator}, nothing asked")
    for item in first:
        if isinstance(item, Reject):
            say(f"  row {item.row} would be rejected: {item.reason}: {item.detail}")
        else:
            say(f"  row {item.row} {item.id} {item.task} [{', '.join(item.roles)}] {item.instruction[:100]}")
    if isinstance(request := result.get("request"), dict):
        for name, value in request.items():
            say(f"--- {name}\n{value}")


def _first_request(config: AnnotateConfig, corpus: Corpus, first: list[Pair | Reject], *, rows: int) -> JsonValue:
    from .vlm import preview

    for item in first:
        prepared = prepare(item, corpus, max_pixels=config.vlm.pictures.max_pixels) if isinstance(item, Pair) else item
        if isinstance(prepared, Prepared):
            shown = asdict(preview(prepared, config=config.vlm, taxonomy=load_taxonomy(config.taxonomy)))
            tokens = sum(shown[name] for name in ("prompt_tokens", "picture_tokens", "reply_tokens"))
            return {**shown, "tokens_of_the_run": tokens * rows * config.vlm.sampling.votes}
    return None
