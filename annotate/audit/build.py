"""One audit, start to end: read the run as columns, reckon every figure, write report.json, the page and the lists."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ...schema import Limits, Run, TagmoeError
from ...schema.configs.audit import AuditConfig, Gate
from ...schema.files import write_text
from ...schema.report import GateResult, Report
from ...shards.console import progress
from . import frequencies, lists, sampling
from .cards import card, choose_cards, places_in
from .columns import Columns, load_columns
from .details import Detail, read_details
from .drift import compare_runs
from .duplicates import find_duplicates, picture_groups
from .gate import apply_gate, load_gate
from .gold import Gold, match_gold, score_gold
from .page import write_page
from .pictures import ReadsImages, triptych
from .queues import QUEUES, Ranking, cut, differs_from_gold, rank_all

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
    draft, rankings, plan_order = _reckon(run, columns, inputs, gold=gold, gate=gate, config=config)
    corpus, note = _open_corpus(run, inputs.corpus)
    report = draft.model_copy(update={"notes": [*draft.notes, *([note] if note else [])]})
    return _write(run, columns, report, rankings, plan_order, out, corpus=corpus, config=config, quiet=quiet)


def _reckon(
    run: Run, columns: Columns, inputs: Inputs, *, gold: Gold | None, gate: Gate, config: AuditConfig
) -> tuple[Report, list[Ranking], Sequence[int]]:
    pictures = picture_groups(columns, bits=config.near_duplicate_bits)
    matched = match_gold(columns, gold) if gold else None
    verified = matched.verified(columns) if matched else sampling.nothing_verified(columns)
    other = Run.open(inputs.against) if inputs.against else None
    before = load_columns(other) if other else None
    rankings = rank_all(run, columns, pictures, verified=verified, config=config, before=before)
    gold_report = score_gold(columns, matched, rankings, config=config) if matched else None
    if matched:
        rankings.append(differs_from_gold(*matched.differences(columns)))
    broken = frequencies.broken_rules(columns)
    combinations, distinct = frequencies.count_combinations(columns)
    plan, plan_order = sampling.plan(columns, verified, config=config)
    drift = compare_runs(columns, before, other, config=config) if before and other else None
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
        notes=list(matched.notes) if matched else [],
    )
    source = inputs.gate.name if inputs.gate else "default"
    return report.model_copy(update={"gate": apply_gate(gate, report, source=source)}), rankings, plan_order.tolist()


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
    run: Run, columns: Columns, report: Report, rankings: list[Ranking], plan_order: Sequence[int], out: Path, *,
    corpus: ReadsImages | None, config: AuditConfig, quiet: bool,
) -> Report:  # fmt: skip
    chosen, drawn = choose_cards(columns, rankings, report, config=config)
    index_of = {int(row): index for index, row in enumerate(columns.row)}
    listed = [index_of[entry.row] for queue in report.queues for entry in queue.entries]
    details = read_details(run, itertools.chain(chosen, listed, plan_order))
    by_row = {detail.row: detail for detail in details.values()}
    for queue in report.queues:
        if queue.entries:
            lists.write_queue(out / "lists" / f"{queue.name}.csv", queue, by_row)
    names = {details[i].row: columns.names(i) for i in plan_order}
    lists.write_plan(out / report.sampling.list_file, [details[i] for i in plan_order], names)
    places = places_in(rankings, len(columns))
    flagged = {ranking.name: ranking.flagged for ranking in rankings}
    cards = [card(details[i], columns, rankings, places, flagged, random=i in drawn) for i in chosen]
    pictured = [i for i, made in zip(chosen, cards, strict=True) if made["images"]][: config.max_pictured]
    if corpus is not None:
        for made in cards:
            made["pictured"] = made["row"] in {details[i].row for i in pictured}
    shown = list(_triptychs(details, pictured, corpus, config=config, quiet=quiet, limits=run.info.corpus.limits))
    report = report.model_copy(update={"notes": [*report.notes, *_unshown(shown)]})
    write_page(out / "report.html", report, cards, shown)
    write_text(out / "report.json", report.model_dump_json(indent=1) + "\n")
    return report


def _unshown(shown: Sequence[tuple[int, dict[str, str]]]) -> Iterator[str]:
    """Which of the pictures that were looked at could not be shown, by reason: changed since annotate, missing, ..."""
    failed: dict[str, list[str]] = {}
    for row, pictures in sorted(shown, key=lambda drawn: drawn[0]):
        for role, value in pictures.items():
            if not value.startswith("data:"):
                failed.setdefault(value.partition(":")[0], []).append(f"row {row} {role}")
    for reason, places in sorted(failed.items()):
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        yield f"{len(places)} of the pictures looked at: {reason} ({', '.join(places[:5])}{more})"


def _triptychs(
    details: dict[int, Detail], chosen: Sequence[int], corpus: ReadsImages | None, *,
    config: AuditConfig, quiet: bool, limits: Limits,
) -> Iterator[tuple[int, dict[str, str]]]:  # fmt: skip
    if corpus is None:
        return

    def draw(index: int) -> tuple[int, dict[str, str]]:
        images = details[index].images
        return details[index].row, triptych(corpus, images, side=config.thumbnail_side, limits=limits)

    # threads, because reading and decoding release the interpreter's lock
    workers = min(8, os.cpu_count() or 1)
    with progress("pictures", total=len(chosen), quiet=quiet) as meter, ThreadPoolExecutor(workers) as pool:
        for drawn in pool.map(draw, chosen):
            yield drawn
            meter.update()
