"""How often the local annotator is right on instruction records written with their tags by authors."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path
from typing import Any

from _local_quality import expected_calibration_error, rate
from tagmoe.annotate.local import LocalAnnotator
from tagmoe.annotate.local.authored import AUTHORS, authored_examples
from tagmoe.annotate.local.corpora import read_lists
from tagmoe.annotate.local.decide import choose
from tagmoe.annotate.local.fit import Recipe, compose, train
from tagmoe.annotate.local.model import save

DATA = Path(__file__).parent / "data"
HELD_SETS = {"a": DATA / "authored_a.jsonl", "c": DATA / "authored_c.jsonl"}
"""820 records that no model was fitted to and whose lines nobody who wrote phrases or features has read."""
SCORED = {
    "a": (
        "before the authored training records and the freer phrases: scope 0.840, a required type found 0.828, macro recall "
        "of scopes 0.825 and of types 0.777, superfluous types 0.107",
        "after both, with types given from 0.5: scope 0.888, 0.884, 0.919, 0.857, 0.063",
        "with types given from 0.35: scope 0.898, 0.899, 0.932, 0.875, 0.122",
    ),
    "c": (),
}
"""Every earlier time that a set was scored. After the last, three more authors' records joined the training; classes, phrases
and features were extended after reading what models made of training records of authors they had not learned from."""


def cross_authors(root: Path, work: Path, recipe: Recipe) -> dict[str, Any]:
    """Each training author's records labelled by a model that has seen the other authors', the phrases and the lists."""
    basis, result = [*compose(recipe), *read_lists(root)], {}
    for author in AUTHORS:
        model, _, _ = train([*basis, *authored_examples([name for name in AUTHORS if name != author])], recipe)
        path = work / f"without-author-{author}.npz"
        save(model, path)
        result[author] = score_authored(LocalAnnotator(weights=path), authored_file(author))
    return result


def authored_file(author: str) -> Path:
    """The training records of one author."""
    return Path(str(resources.files("tagmoe.annotate.local") / f"authored_{author}.jsonl"))


def score_authored(annotator: LocalAnnotator, path: Path) -> dict[str, Any]:
    """Figures over a file of authored records; generations count for nothing but the calibration.

    A record's types are right when every required type is found; a type outside the allowed ones is superfluous. Recall
    of a scope is over the records for which it is the only acceptable one; recall of a type over those that require it.
    """
    taxonomy = annotator.taxonomy
    right: dict[str, list[bool]] = defaultdict(list)
    scopes: dict[str, list[bool]] = defaultdict(list)
    types: dict[str, list[bool]] = defaultdict(list)
    superfluous, hits = 0, list[tuple[float, bool]]()
    keeps: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    for record in map(json.loads, path.read_text("utf-8").splitlines()):
        task = record["task"]
        tasks[task] += 1
        opinion = annotator.opinion(record["instruction"], task=task, references=record["references"])
        ids, _ = choose(opinion.calibrated, taxonomy=taxonomy, task=task)
        found = set(taxonomy.names(ids))
        wanted = {record["scope"][0], *record["types"][0], *record["preservation"]}
        open_tags = ({*record["scope"], *record["allowed_types"]} - {record["scope"][0]}) - {*record["required_types"]}
        open_tags |= {record["scope"][0]} if len(record["scope"]) > 1 else set()
        hits += [(opinion.calibrated[tag.id], tag.name in wanted) for tag in taxonomy.tags if tag.name not in open_tags]
        if task == "generation":
            continue
        scope = next(name for name in taxonomy.names(ids, tier="scope"))
        right["scope"].append(scope in record["scope"])
        if len(record["scope"]) == 1:
            scopes[record["scope"][0]].append(scope in record["scope"])
        if record["required_types"]:
            right["types"].append({*record["required_types"]} <= found)
            right["any_type"].append(bool({*record["required_types"]} & found))
        for name in record["required_types"]:
            types[name].append(name in found)
        superfluous += len({*taxonomy.names(ids, tier="type")} - {*record["allowed_types"]})
        kept = {*taxonomy.names(ids, tier="preservation")}
        keeps.update(tp=len(kept & {*record["preservation"]}), wrong=len(kept ^ {*record["preservation"]}))
    by_scope, by_type = ({name: _share(values) for name, values in sorted(table.items())} for table in (scopes, types))
    return {
        "records": dict(tasks),
        "scope_right": _share(right["scope"]),
        "all_required_types_found": _share(right["types"]),
        "a_required_type_found": _share(right["any_type"]),
        "superfluous_types_per_record": round(superfluous / len(right["scope"]), 3),
        "recall_by_scope": by_scope,
        "macro_scope_recall": _mean(by_scope),
        "recall_by_type": by_type,
        "macro_type_recall": _mean(by_type),
        "preservation_micro_f1": round(2 * keeps["tp"] / (2 * keeps["tp"] + keeps["wrong"]), 3),
        "ece": round(expected_calibration_error(hits), 4),
    }


def _share(values: list[bool]) -> dict[str, float | int]:
    return rate(sum(values), len(values))


def _mean(table: dict[str, dict[str, float | int]]) -> float:
    return round(sum(figures["rate"] for figures in table.values()) / len(table), 3)


def authored_summary(fresh: dict[str, Any]) -> str:
    """The section of RESULTS.md about records written by authors."""
    sets = ", ".join(f"{name.upper()} {sum(figures['records'].values())}" for name, figures in fresh.items())
    rows = [
        "",
        f"Held-out sets ({sets} records written for testing, an author each, no pictures): the shipped model has not learned "
        "from them.",
        "",
        *_table({f"set {name.upper()}": figures for name, figures in fresh.items()}),
        "",
        "| tag | " + " | ".join(f"recall on set {name.upper()}" for name in fresh) + " |",
        "|---|" + "---|" * len(fresh),
    ]
    recalls = [{**figures["recall_by_scope"], **figures["recall_by_type"]} for figures in fresh.values()]
    for tag in recalls[0]:
        cells = (_rate(table[tag]) if tag in table else "no example" for table in recalls)
        rows.append(f"| {tag} | " + " | ".join(cells) + " |")
    for name, figures in fresh.items():
        before = "; ".join(f"({i}) {text}" for i, text in enumerate(figures["scored_before"], 1))
        rows += ["", f"Set {name.upper()} was scored before: {before or 'never'}."]
    return "\n".join(rows)


def authors_summary(authors: dict[str, Any]) -> str:
    """The section about training authors held out in turn."""
    rows = [
        "### Local annotator: another author",
        "",
        "Each training author's records labelled by a model that learned from the other authors, the phrases and the lists, "
        "without calibration. Phrases and word classes were extended after reading held-out errors on all four, so these are "
        "figures of a development set.",
        "",
        *_table({f"author {name.upper()}": figures for name, figures in authors.items()}),
    ]
    return "\n".join(rows)


def _table(lines: dict[str, dict[str, Any]]) -> list[str]:
    return [
        "| | scope right | every required type found | one required type found | superfluous types | macro type recall "
        "| macro scope recall | preservation micro-F1 | ECE |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {_rate(f['scope_right'])} | {_rate(f['all_required_types_found'])} | {_rate(f['a_required_type_found'])} "
            f"| {f['superfluous_types_per_record']} | {f['macro_type_recall']} | {f['macro_scope_recall']} "
            f"| {f['preservation_micro_f1']} | {f['ece']} |"
            for name, f in lines.items()
        ),
    ]


def _rate(figures: dict[str, Any]) -> str:
    return f"{figures['rate']} ({figures['low']} to {figures['high']}, n {figures['n']})"
