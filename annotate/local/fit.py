"""`tagmoe fit-local`: composed phrases and labelled lists in, one small model file out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...schema.errors import ConfigError
from ...shards.console import print_json, say
from .annotator import shipped_weights
from .authored import authored_examples
from .compose import FOLDS, Example, several, singles
from .corpora import read_gold, read_lists
from .fusion import Calibration
from .intents import KEEPS, LOCAL, SCOPES, TYPES, combined_keeps, intents
from .known import Known, Verdicts, examples, read_verdicts
from .model import Floats, Model, load, save
from .pixels import OUTPUTS, PIXEL_FEATURES
from .record import NAMES, Reading, features, read

try:
    from .fit_fusion import Judged, fit_fusion, judge
    from .fit_pixels import fit_pixels
    from .fit_verdicts import Checked, cross_fit
    from .stages import FirstStage, fit_choice, fit_first, fit_flag
except ImportError as error:
    raise ConfigError(f"fitting needs scikit-learn ({error}): pip install 'tagmoe[fit]'") from error

_FOLDED = ("phrases", "verdicts", "authored")
"""Groups that are split into folds by record; any other group is one list, held out whole."""
_UNCAPPED = ("phrases-", "authored-")
_CAP = 120
"""A list's label weighs at most as much as this many records, so that no long list drowns the others."""


@dataclass(frozen=True, slots=True)
class FitReport:
    """What was fitted on what."""

    path: str
    sha256: str
    bytes: int
    examples: dict[str, int]
    features: int
    resolved: dict[str, dict[str, int]] = field(default_factory=dict)
    """Corpus -> intent chosen -> records, for labels that allow several."""
    verdicts: Checked | None = None
    """Cross-fitted figures on reviewed records, without and with the other reviewed records."""
    verdicts_without_text: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much is composed, and the regularisation of the second stage."""

    english: int = 300
    chinese: int = 130
    english_several: int = 5000
    chinese_several: int = 1800
    seed: int = 17
    strength: float = 0.3
    steps: int = 60
    verdict_weight: float = 8.0
    """A reviewed record weighs as much as this many composed examples."""


def fit(
    corpora_root: Path | None, *, out: Path, recipe: Recipe | None = None, verdicts: Verdicts | None = None
) -> FitReport:
    """Fit on composed phrases, authored records, the lists under `corpora_root` and verdicts; write the model to `out`.

    Without `corpora_root` there are no lists, and pixel model and calibration are those of the shipped weights. Records
    that gold-pairs labels are left out: they are for testing. Equal input gives equal bytes with the same versions of
    numpy and scikit-learn.

    Raises:
        ConfigError: `corpora_root` holds no labelled list, or scikit-learn (extra `fit`) is missing.
    """
    recipe, verdicts = recipe or Recipe(), verdicts or Verdicts()
    lists = read_lists(corpora_root) if corpora_root is not None else []
    gold = read_gold(corpora_root) if corpora_root is not None else []
    basis = [*compose(recipe), *authored_examples(), *lists]
    rest = _fit_rest(corpora_root, recipe) if corpora_root is not None else _shipped_rest()

    def learn(known: Sequence[Known]) -> tuple[Model, dict[str, dict[str, int]], dict[str, int]]:
        told = examples(known, group="verdicts", weight=recipe.verdict_weight)
        model, resolved, counts = train([*basis, *told], recipe)
        return replace(model, **{**rest, "about": {**model.about, **rest["about"]}}), resolved, counts

    model, resolved, counts = learn(())
    model = _calibrated(model, judge(model, gold))
    checked = None
    if verdicts.records:
        rest["calibration"] = model.calibration
        checked, heard = cross_fit(verdicts.records, model, lambda known: learn(known)[0])
        model, resolved, counts = learn(verdicts.records)
        model = _calibrated(model, [*judge(model, gold), *heard])
    digest = save(model, out)
    size = out.stat().st_size
    return FitReport(str(out), digest, size, counts, len(model.ids_V), resolved, checked, verdicts.without_text)


def _fit_rest(root: Path, recipe: Recipe) -> dict[str, Any]:
    """Fields of `Model` beside the text: the pixel model fitted on the photos under `root`."""
    pixels = fit_pixels(root, seed=recipe.seed)
    if pixels is None:
        return {"about": {}}
    coef, bias, pairs = pixels
    return {"pixel_FO": coef, "pixel_bias_O": bias, "about": {"made_pairs": pairs}}


def _shipped_rest() -> dict[str, Any]:
    """Fields of `Model` beside the text, from the shipped weights."""
    model = load(shipped_weights())
    about = {name: model.about[name] for name in ("made_pairs", "calibrated_on") if name in model.about}
    return {
        "pixel_FO": model.pixel_FO,
        "pixel_bias_O": model.pixel_bias_O,
        "calibration": model.calibration,
        "about": about,
    }


def _calibrated(model: Model, heard: Sequence[Judged]) -> Model:
    """With the calibration that fits `heard`, starting from the model's own; unchanged where nothing was heard."""
    if not heard:
        return model
    calibration = fit_fusion(model, heard, start=Calibration.from_dict(model.calibration))
    return replace(model, calibration=calibration.to_dict(), about={**model.about, "calibrated_on": len(heard)})


def compose(recipe: Recipe) -> list[Example]:
    """All composed examples of a recipe."""
    return [
        *singles("en", per_intent=recipe.english, seed=recipe.seed),
        *singles("zh", per_intent=recipe.chinese, seed=recipe.seed),
        *several("en", count=recipe.english_several, seed=recipe.seed),
        *several("zh", count=recipe.chinese_several, seed=recipe.seed),
    ]


def train(examples: Sequence[Example], recipe: Recipe) -> tuple[Model, dict[str, dict[str, int]], dict[str, int]]:
    """Fit both stages; the second on what the first says about wordings and lists it has not seen."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        readings = [read(example.text) for example in examples]
        examples, resolved = _resolve(examples, readings, recipe)
        fold = [_fold(example.group) for example in examples]
        chances: list[Floats] = [np.zeros((0, len(NAMES)), dtype=np.float32)] * len(examples)
        for held in range(FOLDS):
            inside = [i for i in range(len(examples)) if fold[i] != held]
            first = _first(examples, readings, inside, recipe)
            for i in range(len(examples)):
                if fold[i] == held:
                    chances[i] = first.predict(readings[i].vectors)
        head, head_bias, link = _heads(examples, readings, chances, recipe)
        first = _first(examples, readings, range(len(examples)), recipe)
    codes, scale = quantise(first.coef_VK)
    counts = dict(sorted(Counter(example.group for example in examples).items()))
    model = Model(
        ids_V=first.ids_V,
        codes_VK=codes,
        scale_K=scale,
        bias_K=first.bias_K,
        head_DO=head,
        head_bias_O=head_bias,
        link_TK=link,
        pixel_FO=np.zeros((PIXEL_FEATURES, OUTPUTS), dtype=np.float32),
        pixel_bias_O=np.zeros(OUTPUTS, dtype=np.float32),
        calibration=Calibration().to_dict(),
        about={"examples": counts, "seed": recipe.seed},
    )
    return model, resolved, counts


def quantise(coef_VK: Floats) -> tuple[np.ndarray, Floats]:
    """Eight-bit codes of the square root (small weights matter: there are many) and one scale per intent."""
    scale = np.maximum(np.abs(coef_VK).max(axis=0), 1e-9).astype(np.float32)
    roots = np.sign(coef_VK) * np.sqrt(np.abs(coef_VK) / scale)
    return np.round(roots * 127).astype(np.int8), scale


def _family(group: str) -> str:
    """The group's name without its fold."""
    family, _, fold = group.rpartition("-")
    return family if family in _FOLDED and fold.isdecimal() else group


def _fold(group: str) -> int:
    """Records that come one by one have their own fold; a whole list is held out at once."""
    if _family(group) != group:
        return int(group.rpartition("-")[2])
    return sum(map(ord, group)) % FOLDS


def _first(
    examples: Sequence[Example], readings: Sequence[Reading], which: Sequence[int], recipe: Recipe
) -> FirstStage:
    used = [i for i in which if examples[i].intent is not None and readings[i].vectors]
    totals = Counter(
        (examples[i].group, examples[i].intent) for i in used if not examples[i].group.startswith(_UNCAPPED)
    )
    labels, weights = [], []
    for i in used:
        example = examples[i]
        cap = min(1.0, _CAP / totals.get((example.group, example.intent), 1))
        labels.append(NAMES.index(example.intent or ""))
        weights.append(example.weight * cap)
    return fit_first([readings[i].vectors[-1] for i in used], labels, weights, steps=recipe.steps)


def _resolve(
    examples: Sequence[Example], readings: Sequence[Reading], recipe: Recipe
) -> tuple[list[Example], dict[str, dict[str, int]]]:
    """Choose, among the intents a label allows, the one that composed phrases find likeliest."""
    out = list(examples)
    chosen: dict[str, Counter[str]] = {}
    open_ones = [i for i, example in enumerate(examples) if example.candidates and readings[i].vectors]
    if not open_ones:
        return out, {}
    composed = [i for i, example in enumerate(examples) if example.group.startswith("phrases-")]
    first = _first(examples, readings, composed, recipe)
    for i in open_ones:
        example = examples[i]
        allowed = [NAMES.index(name) for name in example.candidates]
        chances = first.predict(readings[i].vectors)[:, allowed].max(axis=0)
        intent = intents()[example.candidates[int(chances.argmax())]]
        chosen.setdefault(example.group, Counter())[intent.name] += 1
        if example.scope is not None or None not in example.types:
            out[i] = replace(example, intent=intent.name)
            continue
        person = any("person" in token.kinds for token in readings[i].tokens)
        keeps = combined_keeps([intent], (), person=person)
        out[i] = replace(
            example,
            intent=intent.name,
            scope=intent.scope,
            types=tuple(intent.types.get(tag, 0.0) for tag in TYPES),
            keeps=tuple(keeps[tag] for tag in KEEPS),
        )
    return out, {group: dict(counter.most_common()) for group, counter in sorted(chosen.items())}


def _heads(
    examples: Sequence[Example], readings: Sequence[Reading], chances: Sequence[Floats], recipe: Recipe
) -> tuple[Floats, Floats, Floats]:
    """Coefficients and biases of the second stage, and how preservation follows scope and types."""
    used = [i for i, example in enumerate(examples) if example.scope is not None]
    matrix = np.stack(
        [features(readings[i], chances[i], task=examples[i].task, references=examples[i].references) for i in used]
    )
    center, spread = matrix.mean(axis=0), np.maximum(matrix.std(axis=0), 0.02)
    scaled = (matrix - center) / spread
    totals = Counter((examples[i].group, examples[i].intent) for i in used)
    weights = np.array(
        [
            examples[i].weight
            * (
                1
                if examples[i].group.startswith(_UNCAPPED)
                else min(1.0, _CAP / totals[examples[i].group, examples[i].intent])
            )
            for i in used
        ],
        dtype=np.float32,
    )
    scopes = np.array([SCOPES.index(examples[i].scope or LOCAL) for i in used])
    columns = [fit_choice(scaled, scopes, weights, classes=len(SCOPES), strength=recipe.strength)]
    coef, bias = [columns[0][0]], [columns[0][1]]
    for tier, name in ((TYPES, "types"), (KEEPS, "keeps")):
        for position in range(len(tier)):
            values = np.array([getattr(examples[i], name)[position] for i in used], dtype=np.float32)
            said = ~np.isnan(values)
            flag, offset = fit_flag(scaled[said], values[said], weights[said], strength=recipe.strength)
            coef.append(flag[:, None])
            bias.append(np.array([offset], dtype=np.float32))
    head = np.concatenate(coef, axis=1) / spread[:, None]
    one_hot = np.eye(len(SCOPES), dtype=np.float32)[scopes]
    types = np.array([examples[i].types for i in used], dtype=np.float32)
    keeps = np.array([examples[i].keeps for i in used], dtype=np.float32)
    whole = ~np.isnan(np.concatenate([types, keeps], axis=1)).any(axis=1)
    link = _linked(np.concatenate([one_hot, types], axis=1)[whole], keeps[whole], weights[whole])
    return head.astype(np.float32), (np.concatenate(bias) - center @ head).astype(np.float32), link


def _linked(tags_NT: Floats, keeps_NK: Floats, weights_N: Floats) -> Floats:
    """Weighted ridge regression of the preservation tags on scope and types."""
    weighted = tags_NT * weights_N[:, None]
    gram = tags_NT.T @ weighted + np.eye(tags_NT.shape[1], dtype=np.float32)
    return np.linalg.solve(gram, weighted.T @ keeps_NK).astype(np.float32)


def fit_command(
    corpora: Path | None,
    *,
    out: Path | None = None,
    gold: Sequence[Path] = (),
    runs: Sequence[Path] = (),
    weight: float | None = None,
    json: bool = False,
    recipe: Recipe | None = None,
) -> None:
    """Body of `tagmoe fit-local`: fit, then print what was fitted on what.

    Raises:
        ConfigError: nothing to learn from, no labelled list under `corpora`, or scikit-learn is missing.
        DataError: a gold file or run cannot be read.
    """
    if corpora is None and not gold:
        raise ConfigError("nothing to learn from: give a folder of labelled corpora, --gold FILE, or both")
    if gold and out is None:
        raise ConfigError(
            "--gold needs --out: weights that learned from your verdicts do not replace the package's own"
        )
    verdicts = read_verdicts(gold, runs=runs)
    recipe = recipe or Recipe()
    if weight is not None:
        recipe = replace(recipe, verdict_weight=weight)
    report = fit(corpora, out=out or shipped_weights(), recipe=recipe, verdicts=verdicts)
    if json:
        print_json(asdict(report))
        return
    counts = Counter[str]()
    for group, count in report.examples.items():
        counts[_family(group)] += count
    composed, authored = counts.pop("phrases", 0), counts.pop("authored", 0)
    say(f"{report.path}: {report.bytes / 1e6:.2f} MB, {report.features} features, sha256 {report.sha256[:16]}")
    say(
        f"  {composed} composed examples, {authored} authored; {', '.join(f'{k} {v}' for k, v in counts.items()) or 'no labelled ones'}"
    )
    if report.verdicts is not None:
        for line in _about_verdicts(report, recipe):
            say(line)


def _about_verdicts(report: FitReport, recipe: Recipe) -> list[str]:
    checked = report.verdicts
    assert checked is not None
    pairs = zip(asdict(checked.without).items(), asdict(checked.with_others).values(), strict=True)
    moved = "; ".join(f"{name.replace('_', ' ')} {before} -> {after}" for (name, before), after in pairs)
    lines = [
        f"  {checked.records} verdicts, each with the weight of {recipe.verdict_weight:g} composed examples",
        f"  on verdicts held out in {checked.folds} folds, without -> with the others: {moved}",
    ]
    if report.verdicts_without_text:
        lines.append(f"  {report.verdicts_without_text} gold records state no instruction: give their run with --run")
    return lines
