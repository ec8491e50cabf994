"""Planted faults in real pairs: what each queue of the audit finds, as AUROC with intervals.

    python benchmarks/audit.py --only faults

Real pairs with verified tags; in each of four folds a quarter of them gets one fault, so every pair is planted once and
clean three times. Planted tags replace the probabilities as well: the audit cannot simply read the annotator's doubt.
The embedded annotator, one of the two second opinions, never trained on these pairs, but the few numbers that join its text
with its pixels were fitted on their verified tags; the consensus of the corpus alone is free of that.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _audit_words import count as count_words
from PIL import Image, ImageChops
from tagmoe.annotate import evidence
from tagmoe.annotate.audit.columns import Columns
from tagmoe.annotate.audit.consensus import predict_tags
from tagmoe.annotate.audit.duplicates import picture_groups
from tagmoe.annotate.audit.embedded import read_records
from tagmoe.annotate.audit.label_errors import blend, scope_margin, surprise
from tagmoe.annotate.audit.queues import rank_all
from tagmoe.annotate.audit.reading import load_columns
from tagmoe.annotate.audit.sampling import nothing_verified
from tagmoe.annotate.audit.statistics import auroc, auroc_interval
from tagmoe.annotate.audit.textfeatures import TextVectors
from tagmoe.annotate.local.annotator import LocalAnnotator
from tagmoe.annotate.local.decide import choose
from tagmoe.annotate.local.fusion import Calibration
from tagmoe.schema import Annotation, CorpusSpec, Evidence, ImageInfo, Pair, Run, RunInfo, load_taxonomy, make_uid
from tagmoe.schema.arrow import ANNOTATIONS, REJECTS, write_part
from tagmoe.schema.configs.audit import AuditConfig
from tagmoe.schema.report import Estimate
from tagmoe.schema.runs import PartInfo, hash_part, part_name, save_run_info
from tagmoe.shards.corpus import open_corpus, open_image, phash

SETS = ("comfy-template-pairs", "magicbrush-sample", "demo-pairs", "uno-subject-demos")
FOLDS = 4
TAXONOMY = load_taxonomy()


@dataclass(frozen=True, slots=True)
class Item:
    """A real pair in memory with its verified tags."""

    pair: Pair
    pictures: dict[str, Image.Image]
    tags: tuple[int, ...]
    mismatch: bool


def load_items(corpora: Path) -> list[Item]:
    gold = {(g["set"], g["id"]): g for g in map(json.loads, (corpora / "gold-pairs/gold.jsonl").open(encoding="utf-8"))}
    items: list[Item] = []
    for name in SETS:
        corpus = open_corpus(CorpusSpec(uri=str(corpora / name)))
        for pair in corpus.records():
            known = gold.get((name, pair.id))
            if known is None or not isinstance(pair, Pair):
                continue
            pictures = {ref.role: open_image(corpus.read_image(ref)).image for ref in pair.images}
            items.append(Item(pair, pictures, TAXONOMY.ids(known["tags"]), known["mismatch"] is not None))
    return items


Fault = Callable[[Item, Item, np.random.Generator], Item]


def _retarget(item: Item, target: Image.Image) -> Item:
    return replace(item, pictures={**item.pictures, "target": target})


def reencoded(item: Item, _other: Item, rng: np.random.Generator) -> Item:
    stream = io.BytesIO()
    item.pictures["source"].save(stream, "JPEG", quality=int(rng.integers(60, 92)))
    return _retarget(item, Image.open(stream).convert("RGB"))


def shifted_a_pixel(item: Item, _other: Item, rng: np.random.Generator) -> Item:
    dx, dy = [(1, 0), (0, 1), (1, 1), (-1, 0)][int(rng.integers(4))]
    return _retarget(item, ImageChops.offset(item.pictures["source"], dx, dy))


def colour_shifted(item: Item, _other: Item, rng: np.random.Generator) -> Item:
    shift = rng.uniform(-6, 6, 3)
    pixels = np.asarray(item.pictures["source"], np.float32) + shift
    return _retarget(item, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


def foreign_target(item: Item, other: Item, _rng: np.random.Generator) -> Item:
    return _retarget(item, other.pictures["target"])


def swapped(item: Item, _other: Item, _rng: np.random.Generator) -> Item:
    return replace(item, pictures={"source": item.pictures["target"], "target": item.pictures["source"]})


def moved(item: Item, _other: Item, rng: np.random.Generator) -> Item:
    target = item.pictures["target"]
    share = rng.uniform(0.04, 0.1) * rng.choice([-1, 1], 2)
    dx, dy = int(share[0] * target.width), int(share[1] * target.height)
    return _retarget(item, target.transform(target.size, Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy)))


def tags_of_another(item: Item, other: Item, _rng: np.random.Generator) -> Item:
    return replace(item, tags=other.tags)


def style_on_local(item: Item, _other: Item, _rng: np.random.Generator) -> Item:
    names = ("global editing", "style transfer", "structure preservation", "identity preservation")
    return replace(item, tags=TAXONOMY.ids(names))


def _scope(item: Item) -> int:
    return next((i for i in item.tags if TAXONOMY.by_id[i].tier == "scope"), -1)


FAULTS: dict[str, tuple[str, Fault, Callable[[Item, Item], bool]]] = {
    "noop: target is the source re-encoded": ("noop", reencoded, lambda a, b: True),
    "noop: shifted by a pixel": ("noop", shifted_a_pixel, lambda a, b: True),
    "noop: slight colour shift": ("noop", colour_shifted, lambda a, b: True),
    "foreign target": ("foreign_target", foreign_target, lambda a, b: a.pair.images[0].uri != b.pair.images[0].uri),
    "swapped source and target": ("swapped", swapped, lambda a, b: True),
    "target moved by 4 to 10 %": ("misregistered", moved, lambda a, b: TAXONOMY.by_name["viewpoint editing"].id not in a.tags),
    "tags of another record (other scope)": ("wrong_tags", tags_of_another, lambda a, b: _scope(a) != _scope(b)),
    "wrong scope: tags of another record": ("wrong_scope", tags_of_another, lambda a, b: _scope(a) != _scope(b)),
    "wrong scope: style tags on local edits": (
        "wrong_scope",
        style_on_local,
        lambda a, b: TAXONOMY.by_name["local editing"].id in a.tags,
    ),
}  # fmt: skip


def record(row: int, item: Item) -> Annotation:
    pixels = {role: np.asarray(picture) for role, picture in item.pictures.items()}
    measured = None
    if {"source", "target"} <= set(pixels):
        measured = evidence.measure(pixels["source"], pixels["target"])
    infos = tuple(
        ImageInfo(role=role, uri=f"{item.pair.id}-{role}", sha256=hashlib.sha256(pixels[role].tobytes()).hexdigest(),
                  phash=phash(picture), width=picture.width, height=picture.height, format="png")
        for role, picture in item.pictures.items()
    )  # fmt: skip
    names = {tier: TAXONOMY.names(item.tags, tier=tier) for tier in ("scope", "type", "preservation")}
    unknown = (None,) * TAXONOMY.size
    name = f"{item.pair.corpus}/{item.pair.id}"
    return Annotation(
        corpus="planted", row=row, uid=make_uid("planted", name), id=name, task=item.pair.task,
        instruction=item.pair.instruction, scope=(*names["scope"], "")[0], types=names["type"],
        preservation=names["preservation"], tag_ids=item.tags, tag_probs=unknown, tag_probs_raw=unknown,
        calibration="none", annotator="planted@1", model="", model_revision="", prompt_version="",
        taxonomy=TAXONOMY.ref, evidence=measured, images=infos, warnings=(), extra={},
    )  # fmt: skip


def write_run(root: Path, records: list[Annotation], *, annotator: str) -> Run:
    write_part(root / "annotations" / part_name(0), records, schema=ANNOTATIONS)
    write_part(root / "rejects" / part_name(0), [], schema=REJECTS)
    part = PartInfo(part=0, annotations=len(records), rejects=0, sha256=hash_part(root, 0))
    info = RunInfo(
        complete=True, run_hash="0" * 64, taxonomy=TAXONOMY.ref, annotator=annotator, corpus_name="planted",
        corpus=CorpusSpec(uri="planted"), fingerprint="0" * 64, rows=len(records), parts=[part],
    )  # fmt: skip
    save_run_info(root, info)
    return Run.open(root)


READERS = ("", "unfitted", "consensus alone")
"""Second opinions that are compared: as shipped; without what was fitted on these pairs; without the annotator."""


def queue_scores(records: list[Annotation], *, reader: str = "", annotator: str = "planted@1") -> dict[str, np.ndarray]:
    """Scores of every queue; of the two that rest on a second opinion only, where that is not the shipped one."""
    with TemporaryDirectory() as folder:
        run = write_run(Path(folder), records, annotator=annotator)
        columns = load_columns(run)
        if reader:
            chances = _opinion(run, columns, reader)
            return {"wrong_scope": scope_margin(columns, chances), "wrong_tags": surprise(columns, chances)}
        config = AuditConfig()
        pictures = picture_groups(columns, bits=config.near_duplicate_bits)
        ranked = rank_all(run, columns, pictures, verified=nothing_verified(columns), config=config)
        return {ranking.name: ranking.scores for ranking in ranked}


def _opinion(run: Run, columns: Columns, reader: str) -> np.ndarray:
    consensus = predict_tags(columns, TextVectors(run), seed=0)
    if reader == "consensus alone":
        return consensus
    unfitted = LocalAnnotator()
    unfitted.calibration = Calibration()
    reading = read_records(run, columns, np.arange(len(columns)), annotator=unfitted)
    assert reading is not None
    return blend([consensus, reading.tags], columns)


def plant(
    items: list[Item], clean: list[Annotation], name: str, seed: int, *, reader: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """Scores, labels and pair numbers of each fold."""
    queue, fault, possible = FAULTS[name]
    rng = np.random.default_rng(seed)
    edits = [
        i for i, item in enumerate(items) if item.pair.task == "edit" and {"source", "target"} <= set(item.pictures)
    ]
    order = rng.permutation(edits)
    for fold in range(FOLDS):
        records, labels = list(clean), np.zeros(len(items), bool)
        for i in order[fold::FOLDS].tolist():
            others = [j for j in order.tolist() if j != i and possible(items[i], items[j])]
            if others:
                planted = fault(items[i], items[int(rng.choice(others))], rng)
                records[i] = record(i, planted)
                labels[i] = True
        scores = queue_scores(records, reader=reader).get(queue, np.full(len(items), np.nan))
        usable = ~np.isnan(scores)
        usable[[i for i in range(len(items)) if i not in set(edits)]] = False
        yield scores[usable], labels[usable], np.flatnonzero(usable)


def interval_over_pairs(scores: np.ndarray, labels: np.ndarray, pair: np.ndarray, *, draws: int = 400) -> Estimate:
    """AUROC with a bootstrap over pairs: the scores of one pair in several folds are drawn together."""
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(pair == number) for number in np.unique(pair)]
    drawn = []
    for _ in range(draws):
        index = np.concatenate([places[i] for i in rng.integers(0, len(places), len(places))])
        drawn.append(auroc(scores[index], labels[index]))
    value = auroc(scores, labels)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    count = int(labels.sum())
    low = min(low, value * len(places) / (len(places) + 1)) if value == 1 else low
    return Estimate(value=value, low=float(low), high=float(high), n=count)


def measure(corpora: Path, *, seeds: int) -> dict[str, object]:
    """AUROC of the queues for planted faults, and for the faults that are really there."""
    items = load_items(corpora)
    clean = [record(i, item) for i, item in enumerate(items)]
    planted: dict[str, object] = {}
    for name, (queue, _, _) in FAULTS.items():
        for reader in READERS if queue.startswith("wrong_") else READERS[:1]:
            folds = [fold for seed in range(seeds) for fold in plant(items, clean, name, seed, reader=reader)]
            scores, labels, pair = (np.concatenate(part) for part in zip(*folds, strict=True))
            estimate = interval_over_pairs(scores, labels, pair)
            title = f"{name}, {reader}" if reader else name
            planted[title] = {"queue": queue, "planted": int(labels.sum()), **estimate.model_dump()}
    real = {**_mismatches(items, clean), **_own_errors(items, clean)}
    return {"planted": planted, "real": real, "words": _words(items, clean)}


def _words(items: list[Item], clean: list[Annotation]) -> dict[str, dict[str, dict[str, object]]]:
    """Whether words of direction agree with the pixels, for the corpus they were tried on and for the others."""
    first: list[tuple[str, Evidence]] = []
    others: list[tuple[str, Evidence]] = []
    for item, known in zip(items, clean, strict=True):
        if known.evidence is not None and item.pair.task == "edit":
            (first if item.pair.corpus == SETS[0] else others).append((known.instruction, known.evidence))
    return {SETS[0]: count_words(first), "the other sets": count_words(others)}


def _mismatches(items: list[Item], clean: list[Annotation]) -> dict[str, dict[str, object]]:
    """Targets that reviewers found not to do what is asked."""
    wrong = np.array([item.mismatch for item in items])
    return {"target misses the request": _found(queue_scores(clean), wrong)}


def _own_errors(items: list[Item], clean: list[Annotation]) -> dict[str, dict[str, object]]:
    """The same records as the embedded annotator tags them: do the queues find its real mistakes?"""
    annotator = LocalAnnotator(taxonomy=TAXONOMY)
    tagged = [_tagged(annotator, known) for known in clean]
    scores = queue_scores(tagged, annotator="local@1")
    scope = np.array([_scope(item) not in made.tag_ids for item, made in zip(items, tagged, strict=True)])
    any_tag = np.array([set(item.tags) != set(made.tag_ids) for item, made in zip(items, tagged, strict=True)])
    return {
        "wrong scope by the embedded annotator": _found({k: scores[k] for k in ("wrong_scope", "uncertain")}, scope),
        "any wrong tag by the embedded annotator": _found({k: scores[k] for k in ("wrong_tags", "uncertain")}, any_tag),
    }


def _tagged(annotator: LocalAnnotator, known: Annotation) -> Annotation:
    references = sum(image.role.startswith("ref") for image in known.images)
    opinion = annotator.opinion(known.instruction, task=known.task, references=references, evidence=known.evidence)
    ids, _ = choose(opinion.calibrated, taxonomy=TAXONOMY, task=known.task)
    names = {tier: TAXONOMY.names(ids, tier=tier) for tier in ("scope", "type", "preservation")}
    return known.model_copy(
        update={"tag_ids": ids, "scope": (*names["scope"], "")[0], "types": names["type"], "tag_probs": opinion.calibrated,
                "preservation": names["preservation"], "annotator": annotator.provenance.annotator}
    )  # fmt: skip


def _found(scores: dict[str, np.ndarray], wrong: np.ndarray) -> dict[str, object]:
    """AUROC of each queue that ranks anything."""
    found: dict[str, object] = {}
    for name, values in scores.items():
        known = ~np.isnan(values)
        if known.any() and np.ptp(values[known]) > 0:
            found[name] = auroc_interval(values[known], wrong[known]).model_dump()
    return found
