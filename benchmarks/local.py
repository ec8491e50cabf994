"""The local annotator: quality on held-out lists and gold pairs, speed, memory.

    python benchmarks/local.py quality CORPORA
    python benchmarks/local.py authors CORPORA
    python benchmarks/local.py speed CORPORA
    python benchmarks/local.py memory CORPORA

The first two take about ten minutes each on one core. Each writes results/local_*.json and its section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from _local_authored import HELD_SETS, SCORED, authored_summary, authors_summary, cross_authors, score_authored
from _local_quality import cross_validate, score_gold
from _local_speed import against_decoding, enlarged, make_corpus, memory, picture_paths, workers
from _machine import machine, save
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.annotate.local.fit import Recipe


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["quality", "authors", "speed", "memory"])
    parser.add_argument("corpora", type=Path, nargs="?", default=Path(__file__).parents[2] / "shared" / "corpora")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = {"quality": quality, "authors": authors, "speed": speed, "memory": keep_memory}
        parts[arguments.part](arguments.corpora, Path(folder))


def quality(corpora: Path, work: Path) -> None:
    """Held-out lists and gold pairs."""
    lists = cross_validate(corpora, work, Recipe())
    gold = score_gold(corpora)
    fresh = {
        name: {**score_authored(LocalAnnotator(), path), "scored_before": list(SCORED[name])}
        for name, path in HELD_SETS.items()
    }
    result: dict[str, object] = {
        "machine": machine("numpy", "scikit-learn"),
        "lists": lists,
        "gold": gold,
        **{f"authored_{name}": figures for name, figures in fresh.items()},
    }
    save("local_quality", result, summary=_quality_summary(lists, gold) + "\n" + authored_summary(fresh))


def authors(corpora: Path, work: Path) -> None:
    """Training authors held out in turn."""
    figures = cross_authors(corpora, work, Recipe())
    result: dict[str, object] = {"machine": machine("numpy", "scikit-learn"), **figures}
    save("local_authors", result, summary=authors_summary(figures))


def speed(corpora: Path, work: Path) -> None:
    """Decoding, workers, memory."""
    pairs = picture_paths(corpora)
    once = against_decoding(make_corpus(work / "once", pairs, records=len(pairs)))
    large = against_decoding(make_corpus(work / "large", enlarged(pairs[:30], work / "enlarged"), records=30))
    scaled = workers(make_corpus(work / "many", pairs, records=8000), work)
    result = {"machine": machine("numpy", "pillow"), "decoding": once, "decoding_1024": large, "workers": scaled}
    save("local_speed", result, summary=_speed_summary(once, large, scaled))


def keep_memory(corpora: Path, work: Path) -> None:
    """Peak memory of 10,000 and of 100,000 records."""
    held = memory(picture_paths(corpora), work)
    peaks = held["peak_memory_mib"]
    summary = (
        "### Local annotator: memory\n\n| records | peak memory, MiB |\n|---|---|\n"
        + "\n".join(f"| {n} | {value:.0f} |" for n, value in peaks.items())
        + f"\n\nGrowth {held['growth']} (bar: within 20 %)."
    )
    save("local_memory", {"machine": machine("numpy"), **held}, summary=summary)


def _quality_summary(lists: dict[str, Any], gold: dict[str, Any]) -> str:
    rows = [
        "### Local annotator: quality",
        "",
        "Each list labelled by a model that has not seen it (composed phrases and the other lists only).",
        "",
    ]
    rows += [
        "| list | type right | superfluous types | scope right | macro type recall | macro scope recall |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in lists.items():
        rows.append(
            f"| {name} | {_rate(figures['type_right'])} | {figures['superfluous_types_per_record']} | {_rate(figures['scope_right'])} "
            f"| {figures['macro_type_recall']} | {figures['macro_scope_recall']} |"
        )
    pooled = lists["pooled"]
    rows += ["", "| tag (only acceptable one) | recall, pooled |", "|---|---|"]
    rows += [
        f"| {tag} | {_rate(value)} |"
        for tag, value in {**pooled["recall_by_scope"], **pooled["recall_by_type"]}.items()
    ]
    rows += [
        "",
        "Gold pairs (95 records; text and pixel models never saw these sets, calibration cross-fitted in five folds):",
        "",
    ]
    rows += ["| | scope accuracy | types micro-F1 | preservation micro-F1 | ECE |", "|---|---|---|---|---|"]
    for name, figures in gold.items():
        types, keeps = figures["type_micro_f1"], figures["preservation_micro_f1"]
        rows.append(
            f"| {name.replace('_', ' ')} | {_rate(figures['scope_accuracy'])} | {_interval(types)} | {_interval(keeps)} | {figures['ece']} |"
        )
    rows += ["", "| tag | gold positives | precision | recall | F1 |", "|---|---|---|---|---|"]
    for tag, figures in gold["cross_fitted"]["per_tag"].items():
        few = " (too few to say)" if figures["too_few_to_say"] else ""
        rows.append(
            f"| {tag} | {figures['positives']}{few} | {_rate(figures['precision'])} | {_rate(figures['recall'])} | {figures['f1']} |"
        )
    rows += [
        "",
        "Most frequent confusions on the held-out lists:",
        "",
        "| wanted | got | count | example |",
        "|---|---|---|---|",
    ]
    rows += [f"| {c['wanted']} | {c['got']} | {c['count']} | {_cell(c['example'])} |" for c in pooled["confusions"]]
    rows += ["", "Most frequent errors on gold pairs:", "", "| tag | error | count | example |", "|---|---|---|---|"]
    rows += [
        f"| {c['tag']} | {c['error']} | {c['count']} | {_cell(c['example'])} |"
        for c in gold["cross_fitted"]["confusions"]
    ]
    return "\n".join(rows)


def _speed_summary(once: dict[str, Any], large: dict[str, Any], scaled: dict[str, Any]) -> str:
    rows = [
        "### Local annotator: speed",
        "",
        "Median of seven interleaved rounds on one core; minimum to maximum in brackets.",
        "",
    ]
    rows += [
        "| pictures | decoding both alone, ms | the whole record, ms | of it labelling | rate against decoding alone (bar 0.6) |"
    ]
    rows += ["|---|---|---|---|---|"]
    for name, figures in (("as in the corpora, 400 to 512 px", once), ("the same at 1024 px", large)):
        cost, ratio = figures["ms_a_record"], figures["rate_against_decoding"]
        rows.append(
            f"| {name} | {cost['decode']['median']:.2f} | {cost['annotate']['median']:.2f} | {cost['label_only']['median']:.2f} "
            f"| {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) |"
        )
    rows += [
        "",
        f"Two workers against one, whole command, 8,000 records: {scaled['speedup_of_two']} times as fast (bar 1.8) while the two got "
        f"{scaled['cores_had_by_two']} cores of a shared machine (load {scaled['load_average']:.1f} on two cores); "
        f"they spent {scaled['cpu_of_two_against_one']} times the processor time of one.",
    ]
    return "\n".join(rows)


def _rate(figures: dict[str, Any]) -> str:
    return (
        f"{figures['rate']} ({figures['low']} to {figures['high']}, n {figures['n']})" if figures["n"] else "no example"
    )


def _interval(figures: dict[str, Any]) -> str:
    return f"{figures['f1']} ({figures['low']} to {figures['high']})"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    main()
