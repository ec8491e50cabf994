"""Temperatures from verified records: the one number per kind of decision that makes the gold answers likeliest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...schema import Annotation, ConfigError, Run, Taxonomy, load_taxonomy
from ...schema.configs.vlm import Temperatures
from ..audit.gold import Gold, GoldRecord
from .confidence import CERTAIN, logit

_LOWEST, _HIGHEST = 0.05, 20.0
MIN_RECORDS = 20
"""Fewer verified records say more about chance than about the model."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted temperatures and what they are worth: mean negative log-likelihood a decision, before and after."""

    temperatures: Temperatures
    records: int
    decisions: int
    loss_before: float
    loss_after: float

    def toml(self) -> str:
        """The setting, ready for a configuration file."""
        t = self.temperatures
        numbers = f"scope = {t.scope:.4f}\ntypes = {t.types:.4f}\npreservation = {t.preservation:.4f}\n"
        return f'[vlm.calibration]\nname = "{t.name}"\n{numbers}'


def fit_calibration(run: Path, *, gold: Path, name: str) -> Fit:
    """Fit temperatures from a run's raw probabilities and verified records.

    Raises:
        DataError: the run or the gold file cannot be read.
        ConfigError: fewer than 20 verified records of the run have probabilities.
    """
    opened = Run.open(run)
    taxonomy = load_taxonomy(opened.info.taxonomy)
    by_uid, by_name = _keys(Gold.load(gold).records)
    scopes: list[tuple[list[float], int]] = []
    booleans: dict[str, list[tuple[float, bool]]] = {"type": [], "preservation": []}
    records = 0
    for annotation in opened.annotations():
        truth = by_uid.get(annotation.uid) or by_name.get((annotation.corpus, annotation.id))
        if truth is None or all(p is None for p in annotation.tag_probs_raw):
            continue
        if annotation.calibration.startswith("votes:"):
            raise ConfigError(f"{run} holds shares of votes, which temperatures do not apply to: use sampling.votes=1")
        records += 1
        _collect(taxonomy, annotation, truth, scopes=scopes, booleans=booleans)
    if records < MIN_RECORDS:
        raise ConfigError(
            f"{records} verified records of {run} have probabilities, at least {MIN_RECORDS} are needed: verify more, "
            "or annotate with log-probabilities (sampling.top_logprobs)"
        )
    fitted = Temperatures(
        name=name,
        scope=fit_scope_temperature(scopes),
        types=fit_temperature(booleans["type"]),
        preservation=fit_temperature(booleans["preservation"]),
    )
    before = _loss(scopes, booleans, Temperatures())
    decisions = len(scopes) + sum(map(len, booleans.values()))
    after = _loss(scopes, booleans, fitted)
    return Fit(fitted, records, decisions, before / decisions, after / decisions)


def fit_temperature(decisions: Sequence[tuple[float, bool]]) -> float:
    """The temperature (0.05 to 20) under which binary decisions (P, truth) are likeliest; 1 without any."""
    return _minimum(lambda t: binary_loss(decisions, t)) if decisions else 1.0


def fit_scope_temperature(decisions: Sequence[tuple[Sequence[float], int]]) -> float:
    """The same for choices: (probabilities of the options, index of the true one)."""
    return _minimum(lambda t: choice_loss(decisions, t)) if decisions else 1.0


def binary_loss(decisions: Iterable[tuple[float, bool]], temperature: float) -> float:
    """Sum of the negative log-likelihoods of binary decisions under `temperature`."""
    signed = ((logit(p) if truth else -logit(p)) / temperature for p, truth in decisions)
    return sum(max(-z, 0.0) + math.log1p(math.exp(-abs(z))) for z in signed)


def choice_loss(decisions: Iterable[tuple[Sequence[float], int]], temperature: float) -> float:
    """Sum of the negative log-likelihoods of choices under `temperature`."""
    total = 0.0
    for probs, true in decisions:
        logs = [math.log(max(p, CERTAIN)) / temperature for p in probs]
        top = max(logs)
        total += top + math.log(sum(math.exp(x - top) for x in logs)) - logs[true]
    return total


def _keys(gold: Sequence[GoldRecord]) -> tuple[dict[str, GoldRecord], dict[tuple[str, str], GoldRecord]]:
    return {r.uid: r for r in gold if r.uid}, {(r.corpus, r.id): r for r in gold if r.id}


def _collect(
    taxonomy: Taxonomy,
    annotation: Annotation,
    truth: GoldRecord,
    *,
    scopes: list[tuple[list[float], int]],
    booleans: dict[str, list[tuple[float, bool]]],
) -> None:
    probs, right, disputed = annotation.tag_probs_raw, set(truth.tags), set(truth.disputed)
    options = [tag for tag in taxonomy.tier("scope") if probs[tag.id] is not None]
    true = [i for i, tag in enumerate(options) if tag.name in right and tag.name not in disputed]
    if len(true) == 1 and len(options) > 1:
        scopes.append(([probs[tag.id] or 0.0 for tag in options], true[0]))
    for tag in taxonomy.tags:
        p = probs[tag.id]
        if tag.tier != "scope" and p is not None and tag.name not in disputed:
            booleans[tag.tier].append((p, tag.name in right))


def _loss(
    scopes: Sequence[tuple[Sequence[float], int]],
    booleans: dict[str, list[tuple[float, bool]]],
    temperatures: Temperatures,
) -> float:
    return (
        choice_loss(scopes, temperatures.scope)
        + binary_loss(booleans["type"], temperatures.types)
        + binary_loss(booleans["preservation"], temperatures.preservation)
    )


def _minimum(loss: Callable[[float], float]) -> float:
    """Golden-section search over the logarithm of the temperature; the loss has one valley in 1 / T."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    while high - low > 1e-6:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(math.exp(left)) < loss(math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)
