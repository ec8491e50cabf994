"""`tagmoe fit-local`: composed phrases and labelled lists in, one small model file out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ...schema.errors import ConfigError
from ...shards.console import print_json, say
from .annotator import shipped_weights
from .compose import FOLDS, Example, several, singles
from .corpora import read_gold, read_lists
from .fusion import Calibration
from .intents import KEEPS, LOCAL, SCOPES, TYPES, combined_keeps, intents
from .model import Floats, Model, save
from .pixels import OUTPUTS, PIXEL_FEATURES
from .record import NAMES, Reading, features, read

try:
    from .fit_fusion import fit_fusion, judge
    from .fit_pixels import fit_pixels
    from .stages import FirstStage, fit_choice, fit_first, fit_flag
except ImportError as error:
    raise ConfigError(f"fitting needs scikit-learn ({error}): pip install 'tagmoe[fit]'") from error

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


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much is composed, and the regularisation of the second stage."""

    english: int = 240
    chinese: int = 110
    english_several: int = 5000
    chinese_several: int = 1800
    seed: int = 17
    strength: float = 0.3
    steps: int = 60


def fit(corpora_root: Path | None, *, out: Path, recipe: Recipe | None = None) -> FitReport:
    """Fit on the labelled lists under `corpora_root` (none: composed phrases alone) and write the model to `out`.

    Records that gold-pairs labels are left out: they are for testing. Equal input gives equal bytes with the same
    versions of numpy and scikit-learn.

    Raises:
        ConfigError: `corpora_root` holds no labelled list, or scikit-learn (extra `fit`) is missing.
    """
    recipe = recipe or Recipe()
    lists = read_lists(corpora_root) if corpora_root is not None else []
    model, resolved, counts = train([*compose(recipe), *lists], recipe)
    if corpora_root is not None:
        model = complete(model, corpora_root, recipe)
    digest = save(model, out)
    return FitReport(str(out), digest, out.stat().st_size, counts, len(model.ids_V), resolved)


def complete(model: Model, root: Path, recipe: Recipe) -> Model:
    """Add the pixel model (photos under `root`) and the calibration (gold records under `root`) to a text model."""
    pixels = fit_pixels(root, seed=recipe.seed)
    if pixels is not None:
        coef, bias, pairs = pixels
        model = replace(model, pixel_FO=coef, pixel_bias_O=bias, about={**model.about, "made_pairs": pairs})
    gold = read_gold(root)
    if not gold:
        return model
    calibration = fit_fusion(model, judge(model, gold))
    return replace(model, calibration=calibration.to_dict(), about={**model.about, "calibrated_on": len(gold)})


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


def _fold(group: str) -> int:
    """Composed phrases by their own fold; a whole list is held out at once."""
    if group.startswith("phrases-"):
        return int(group.removeprefix("phrases-"))
    return sum(map(ord, group)) % FOLDS


def _first(
    examples: Sequence[Example], readings: Sequence[Reading], which: Sequence[int], recipe: Recipe
) -> FirstStage:
    used = [i for i in which if examples[i].intent is not None and readings[i].vectors]
    totals = Counter(
        (examples[i].group, examples[i].intent) for i in used if not examples[i].group.startswith("phrases-")
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
                if examples[i].group.startswith("phrases-")
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
            flag, offset = fit_flag(scaled, values, weights, strength=recipe.strength)
            coef.append(flag[:, None])
            bias.append(np.array([offset], dtype=np.float32))
    head = np.concatenate(coef, axis=1) / spread[:, None]
    one_hot = np.eye(len(SCOPES), dtype=np.float32)[scopes]
    types = np.array([examples[i].types for i in used], dtype=np.float32)
    keeps = np.array([examples[i].keeps for i in used], dtype=np.float32)
    link = _linked(np.concatenate([one_hot, types], axis=1), keeps, weights)
    return head.astype(np.float32), (np.concatenate(bias) - center @ head).astype(np.float32), link


def _linked(tags_NT: Floats, keeps_NK: Floats, weights_N: Floats) -> Floats:
    """Weighted ridge regression of the preservation tags on scope and types."""
    weighted = tags_NT * weights_N[:, None]
    gram = tags_NT.T @ weighted + np.eye(tags_NT.shape[1], dtype=np.float32)
    return np.linalg.solve(gram, weighted.T @ keeps_NK).astype(np.float32)


def fit_command(corpora: Path, *, out: Path | None = None, json: bool = False) -> None:
    """Body of `tagmoe fit-local`: fit, then print what was fitted on what.

    Raises:
        ConfigError: no labelled list under `corpora`, or scikit-learn is missing.
    """
    report = fit(corpora, out=out or shipped_weights())
    if json:
        print_json(asdict(report))
        return
    lists = {group: count for group, count in report.examples.items() if not group.startswith("phrases-")}
    composed = sum(report.examples.values()) - sum(lists.values())
    say(f"{report.path}: {report.bytes / 1e6:.2f} MB, {report.features} features, sha256 {report.sha256[:16]}")
    say(
        f"  {composed} composed examples, {sum(lists.values())} labelled ones: {', '.join(f'{k} {v}' for k, v in lists.items())}"
    )
