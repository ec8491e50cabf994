"""Run the model over fixed samples at fixed noise levels, and write the routing report.

Notation: V noise levels; see `statistics` for the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from ...schema import ConfigError
from ..data import BatchSource, MicroBatch, Sample
from ..sources import open_source
from ..step import Forward, forward_micro
from .picture import draw_routing
from .samples import draw_samples
from .statistics import Observations, routing_statistics

if TYPE_CHECKING:
    from ..engine.journal import Journal
    from ..loop import Run

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
EVALUATION_EPOCH = 2**31 - 1
"""Noise of the evaluation belongs to no training epoch."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Samples of each split that the reports are about, read once."""

    splits: dict[str, list[list[Sample]]]

    @classmethod
    def open(cls, run: Run, *, shards: str | None) -> Watcher:
        """Take up to `log.routing_samples` different samples of the training split and of the held-out one."""
        limit = run.config.log.routing_samples
        splits = {run.config.data.split: distinct_batches(run.source, limit=limit)}
        held_out = run.config.data.val_split
        if shards is not None and held_out not in splits:
            try:
                source = open_source(run.config, shards=shards, split=held_out)
            except ConfigError:
                return cls(splits)
            splits[held_out] = distinct_batches(source, limit=limit)
        return cls(splits)

    def report(self, run: Run, *, journal: Journal, final: bool) -> dict[str, Any]:
        """Write routing/step-N.json and one PNG a split; log the main numbers. Dense models give flow only."""
        reports: dict[str, Any] = {}
        for split, batches in self.splits.items():
            seen = observe(run, batches)
            if seen is None:
                continue
            reports[split] = routing_statistics(seen, taxonomy=run.taxonomy)
        self._draw(run, journal=journal)
        if not run.ranks.is_main or not reports:
            return reports
        folder = run.out / "routing"
        folder.mkdir(exist_ok=True)
        document = {"format_version": 1, "step": run.step, "taxonomy": run.taxonomy.ref, "splits": reports}
        for name in (f"step-{run.step:06d}.json", *(["report.json"] if final else [])):
            (folder / name).write_text(json.dumps(document, indent=1) + "\n")
        for split, report in reports.items():
            journal.log({f"routing/{split}/{k}": v for k, v in headline(report).items()}, step=run.step)
            if report["layers"]:
                path = folder / (f"{split}.png" if final else f"{split}-{run.step:06d}.png")
                draw_routing(report, path, title=f"{split}: {report['samples']} samples after step {run.step}")
                journal.picture(f"routing/{split}", path, step=run.step)
        return reports

    def _draw(self, run: Run, *, journal: Journal) -> None:
        """Pictures of the first sample of as many micro-batches, held-out ones where there are."""
        count = run.config.log.samples
        batches = self.splits.get(run.config.data.val_split) or next(iter(self.splits.values()))
        chosen = [batch[0] for batch in batches][:count]
        chosen += [sample for batch in batches for sample in batch[1:]][: count - len(chosen)]
        path = run.out / "samples" / f"step-{run.step:06d}.png"
        if chosen and draw_samples(run, chosen, path) and run.ranks.is_main:
            journal.picture("samples", path, step=run.step)


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The numbers worth a curve."""
    numbers = {"flow": report["flow"]["mean"]}
    if report["layers"]:
        numbers |= {
            "nmi_scope": report["mean_nmi_scope"],
            "nmi_scope_shuffled": report["mean_nmi_scope_shuffled"],
            "alignment_lift": report["alignment"]["lift"],
            "dead_experts": sum(len(layer["dead_experts"]) for layer in report["layers"]),
        }
        if report["probe"]["mean_auc"] is not None:
            numbers["probe_auc"] = report["probe"]["mean_auc"]
    return numbers


def distinct_batches(source: BatchSource, *, limit: int) -> list[list[Sample]]:
    """Micro-batches of the first epoch without repeated samples, up to `limit` samples."""
    batches: list[list[Sample]] = []
    seen: set[str] = set()
    number = 0
    while len(seen) < limit:
        epoch, samples = source.batch(number)
        if epoch > 0:
            break
        fresh = [s for s in samples if s.uid not in seen][: limit - len(seen)]
        seen.update(s.uid for s in fresh)
        if fresh:
            batches.append(fresh)
        number += 1
    return batches


@torch.no_grad()
def observe(run: Run, batches: Sequence[Sequence[Sample]]) -> Observations | None:
    """Every rank takes a part of the batches, with equally many forwards on each; None without samples."""
    model = run.trained.model
    was_training = model.training
    model.eval()
    rows: list[dict[str, Any]] = []
    for mine, batch in _share(run, batches):
        forwards = [_at(run, batch, sigma) for sigma in SIGMAS]
        if mine:
            rows.extend(_rows(batch, forwards))
    model.train(was_training)
    rows = _gather(run, rows)
    if not rows:
        return None
    embedding = np.zeros((run.taxonomy.size, 1))
    if run.trained.model.routers:
        ids = torch.arange(run.taxonomy.size, device=run.ranks.device)
        embedding = model.tag_embedding(ids).double().cpu().numpy()
    return Observations(
        sigmas_V=list(SIGMAS),
        counts_SVLE=np.stack([r["counts"] for r in rows]),
        signature_SVN=np.stack([r["signature"] for r in rows]),
        predicted_SVD=np.stack([r["predicted"] for r in rows]),
        flow_SV=np.stack([r["flow"] for r in rows]),
        tags_SK=np.stack([r["tags"] for r in rows]),
        tasks=[r["task"] for r in rows],
        embedding_KD=embedding,
    )


def _share(run: Run, batches: Sequence[Sequence[Sample]]) -> Iterator[tuple[bool, MicroBatch]]:
    world, rank = run.ranks.world, run.ranks.rank
    for start in range(0, len(batches), world):
        mine = start + rank < len(batches)
        samples = batches[start + rank] if mine else batches[0]
        yield mine, run.batches.collate(samples, epoch=EVALUATION_EPOCH, instruction_dropout=0.0, own_tags=True)


def _at(run: Run, batch: MicroBatch, sigma: float) -> Forward:
    noise = replace(batch, uids=tuple(f"{uid}@{sigma}" for uid in batch.uids))
    return forward_micro(
        run.trained.model, noise, run.config, device=run.ranks.device, sigma_B=torch.full((batch.size,), sigma)
    )


def _rows(batch: MicroBatch, forwards: list[Forward]) -> Iterator[dict[str, Any]]:
    """One dict a sample, its arrays stacked over noise levels."""
    target = batch.clean_BTC.shape[1]
    for b in range(batch.size):
        yield {
            "counts": np.stack([_counts(f, b, target) for f in forwards]),
            "signature": np.stack([_row(f.signature, b) for f in forwards]),
            "predicted": np.stack([_row(f.predicted_BD, b) for f in forwards]),
            "flow": np.array([float(f.flow_B[b]) for f in forwards]),
            "tags": batch.tags_BK[b].bool().numpy(),
            "task": batch.tasks[b],
        }


def _counts(forward: Forward, b: int, target: int) -> np.ndarray:
    layers = [
        torch.bincount(r.ids_BTK[b, :target].flatten(), minlength=r.experts).double().cpu().numpy()
        for r in forward.routing
    ]
    return np.stack(layers) if layers else np.zeros((0, 1))


def _row(values: torch.Tensor | None, b: int) -> np.ndarray:
    return np.zeros(1) if values is None else values[b].double().cpu().numpy()


def _gather(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if run.ranks.world == 1:
        return rows
    parts: list[list[dict[str, Any]]] = [[] for _ in range(run.ranks.world)]
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
