"""One audit, start to end: read the run as columns, reckon every figure, write report.json, the page and the lists."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...schema import Run, TagmoeError
from ...schema.configs.audit import AuditConfig, Gate
from ...schema.files import write_text
from ...schema.report import GateResult, PictureCheck, Report
from . import frequencies, lists, sampling
from .cards import card, choose_cards, places_in
from .columns import Columns
from .details import read_details, read_texts
from .drift import compare_runs
from .duplicates import find_duplicates, picture_groups
from .gate import apply_gate, load_gate
from .gold import Gold
from .integrity import check_pictures, in_words
from .matching import match_runs
from .page import write_page
from .pictures import ReadsImages, seen, triptychs
from .queues import QUEUES, Ranking, cut, differs_from_gold, rank_all
from .reading import load_columns
from .scoring import score_gold
from .verified import match_gold

_NO_GATE = GateResult(passed=False, source="", checks=[], failures=[])


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an audit is made from."""

    run: Path
    gold: Path | None = None
    against: Path | None = None
    gate: Path | None = None
    corpus: str | None = None
    """New place of the corpus when it moved."""


def audit(inputs: Inputs, out: Path, *, config: AuditConfig | None = None, quiet: bool = False) -> Report:
    """Audit a run and write `out`/report.json, `out`/report.html and `out`/lists/*.csv.

    Raises:
        DataError: an input is not what its format promises.
        ConfigError: the gate names unknown tags or queues.
    """
    config = config or AuditConfig()
    run = Run.open(inputs.run)
    columns = load_columns(run)
    gate = load_gate(inputs.gate, taxonomy=columns.taxonomy, queues=list(QUEUES))
    gold = Gold.load(inputs.gold) if inputs.gold else None
    draft, rankings, plan_order = _reckon(run, columns, inputs, gold=gold, config=config)
    corpus, note = _open_corpus(run, inputs.corpus)
    draft = draft.model_copy(update={"notes": [*draft.notes, *([note] if note else [])]})
    source = inputs.gate.name if inputs.gate else "default"
    return _write(
        run,
        columns,
        draft,
        rankings,
        plan_order,
        out,
        corpus=corpus,
        gate=gate,
        source=source,
        config=config,
        quiet=quiet,
    )


def _reckon(
    run: Run, columns: Columns, inputs: Inputs, *, gold: Gold | None, config: AuditConfig
) -> tuple[Report, list[Ranking], Sequence[int]]:
    pictures = picture_groups(columns, bits=config.near_duplicate_bits)
    matched = match_gold(columns, gold) if gold else None
    verified = matched.verified(columns) if matched else sampling.nothing_verified(columns)
    other = Run.open(inputs.against) if inputs.against else None
    before = load_columns(other) if other else None
    common = match_runs(columns, before) if before else None
    compared = (before, common) if before and common else None
    rankings = rank_all(run, columns, pictures, verified=verified, config=config, before=compared)
    gold_report = score_gold(columns, matched, rankings, config=config) if matched else None
    if matched:
        rankings.append(differs_from_gold(*matched.differences(columns)))
    broken = frequencies.broken_rules(columns)
    combinations, distinct = frequencies.count_combinations(columns)
    plan, plan_order = sampling.plan(columns, verified, config=config)
    drift = compare_runs(columns, *compared, other, config=config) if compared and other else None
    queues = [cut(ranking, columns, length=config.queue_length) for ranking in rankings]
    report = Report(
        tagmoe_version=version("tagmoe"),
        run=str(inputs.run),
        run_hash=run.info.run_hash or run.hash_of_parts(),
        corpus=run.info.corpus_name,
        corpus_uri=run.info.corpus.uri,
        fingerprint=run.info.fingerprint,
        annotator=run.info.annotator,
        taxonomy=run.info.taxonomy,
        config=config.model_dump(),
        coverage=frequencies.coverage(run, columns),
        tags=frequencies.count_tags(columns),
        pairs=frequencies.count_pairs(columns),
        combinations=combinations,
        distinct_combinations=distinct,
        violations=frequencies.count_rules(columns, broken),
        warnings=frequencies.count_warnings(columns),
        confidence=frequencies.confidence_histogram(columns),
        queues=queues,
        duplicates=find_duplicates(columns, pictures, bits=config.near_duplicate_bits),
        sampling=plan,
        gold=gold_report,
        drift=drift,
        gate=_NO_GATE,
        lists=[*(f"lists/{queue.name}.csv" for queue in queues if queue.entries), sampling.PLAN_FILE],
        notes=[*(matched.notes if matched else ()), *([common.note] if common and common.note else [])],
    )
    return report, rankings, plan_order.tolist()


def _open_corpus(run: Run, moved: str | None) -> tuple[ReadsImages | None, str | None]:
    """The corpus for thumbnails; without one the report is made all the same and says so."""
    from ...shards.corpus import open_corpus

    spec = run.info.corpus if moved is None else run.info.corpus.model_copy(update={"uri": moved})
    try:
        return open_corpus(spec), None
    except TagmoeError as error:
        if moved is not None:
            raise
        return None, f"No pictures are shown, the corpus cannot be opened ({error}): give its place with --corpus"


def _write(
    run: Run, columns: Columns, draft: Report, rankings: list[Ranking], plan_order: Sequence[int], out: Path, *,
    corpus: ReadsImages | None, gate: Gate, source: str, config: AuditConfig, quiet: bool,
) -> Report:  # fmt: skip
    chosen, drawn = choose_cards(columns, rankings, draft, config=config)
    _write_lists(run, columns, draft, plan_order, out)
    details = read_details(run, chosen)
    pictured = [details[i] for i in chosen if details[i].images][: config.max_pictured]
    shown = triptychs(corpus, pictured, side=config.thumbnail_side, limits=run.info.corpus.limits, quiet=quiet)
    check = check_pictures(run, columns, corpus, seen=seen(shown), config=config, out=out, quiet=quiet)
    report = _finish(draft, check, gate=gate, source=source)
    places = places_in(rankings, len(columns))
    flagged = {ranking.name: ranking.flagged for ranking in rankings}
    with_pictures = {row for row, _ in shown}
    cards = [
        card(
            details[i], columns, rankings, places, flagged, random=i in drawn, pictured=details[i].row in with_pictures
        )
        for i in chosen
    ]
    write_page(out / "report.html", report, cards, shown)
    write_text(out / "report.json", report.model_dump_json(indent=1) + "\n")
    return report


def _write_lists(run: Run, columns: Columns, draft: Report, plan_order: Sequence[int], out: Path) -> None:
    listed = np.searchsorted(columns.row, [entry.row for queue in draft.queues for entry in queue.entries]).tolist()
    read = read_texts(run, itertools.chain(listed, plan_order), chars=lists.LIST_CHARS + 1)
    texts = {int(columns.row[i]): text for i, text in read.items()}
    for queue in draft.queues:
        if queue.entries:
            lists.write_queue(out / "lists" / f"{queue.name}.csv", queue, texts)
    lists.write_plan(out / draft.sampling.list_file, plan_order, columns, texts)


def _finish(draft: Report, check: PictureCheck, *, gate: Gate, source: str) -> Report:
    """The report with what was found of its pictures, held against the gate."""
    report = draft.model_copy(
        update={
            "pictures": check,
            "notes": [*draft.notes, *in_words(check)],
            "lists": [*draft.lists, *([check.list_file] if check.list_file else [])],
        }
    )
    return report.model_copy(update={"gate": apply_gate(gate, report, source=source)})
