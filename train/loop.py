"""The training loop: set up, step, log, save; each detail is a named function or module."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from ..schema import ConfigError, StoppedError, Taxonomy, load_taxonomy
from ..schema.config import resolved_json
from ..schema.configs.train import TrainConfig
from ..shards.console import err, progress
from .build import build_model, build_sharded
from .data import Batches, BatchSource, MicroBatch
from .engine.checkpoint import Checkpoints, Trained, read_trainer
from .engine.flops import micro_batch_flops
from .engine.journal import Journal, check_sinks
from .engine.measure import step_metrics
from .engine.optimizer import Ema, learning_rate, make_optimizer, set_learning_rate
from .engine.ranks import Ranks, start_ranks, stop_ranks
from .engine.sharding import shard, sync_gradients
from .engine.stop import StopFlag, catch_signals
from .engine.sums import StepSums
from .model import TagMoETransformer
from .report.evaluate import Watcher
from .seeding import key
from .sources import make_encoder, open_source, shuffled_tags
from .step import forward_micro, total_loss


@dataclass(slots=True)
class Run:
    """One training run in progress."""

    config: TrainConfig
    taxonomy: Taxonomy
    ranks: Ranks
    trained: Trained
    batches: Batches
    source: BatchSource
    checkpoints: Checkpoints
    out: Path
    step: int = 0
    """Finished steps."""
    position: int = 0
    """Global number of the next micro-batch."""
    upcycling: dict[str, float] | None = None
    replaced: list[str] = field(default_factory=list)
    """Samples of any rank that could not be read since the last line of metrics."""


def train(config: TrainConfig, *, out: Path, shards: str | None = None, source: BatchSource | None = None) -> Path:
    """Train until `config.steps`, resuming from RUN/checkpoints; returns RUN.

    Args:
        config: what to build and how.
        out: the run's folder.
        shards: folder or URL of shards; or give `source`.
        source: samples from elsewhere.

    Raises:
        ConfigError: the run in `out` had another configuration, or this one cannot work.
        StoppedError: a signal, a bad loss or a full disk; the message says how to go on.
    """
    check_sinks(config)
    ranks = start_ranks(config.engine.device)
    try:
        run = set_up(config, out=out, shards=shards, source=source, ranks=ranks)
        watcher = Watcher.open(run, shards=shards)
        journal = Journal(out, config=config, resumed_step=run.step, is_main=ranks.is_main)
        try:
            with catch_signals() as flag:
                _steps(run, journal=journal, watcher=watcher, flag=flag)
            watcher.report(run, journal=journal, final=True)
        finally:
            run.batches.close()
            journal.close()
    finally:
        stop_ranks(ranks)
    return out


def set_up(config: TrainConfig, *, out: Path, shards: str | None, source: BatchSource | None, ranks: Ranks) -> Run:
    """Build everything and resume from the newest checkpoint."""
    taxonomy = load_taxonomy(config.data.taxonomy)
    checkpoints = Checkpoints(out / "checkpoints", ranks=ranks, keep=config.engine.keep_checkpoints)
    config = _as_begun(out, config=config, checkpoints=checkpoints)
    source = source or open_source(config, shards=shards, split=config.data.split)
    config = _with_snapshot(config, source.snapshot)
    _write_config(out, config=config, ranks=ranks)
    model, upcycling = _build(config, taxonomy=taxonomy, ranks=ranks)
    model.set_activation_checkpointing(config.engine.activation_checkpointing)
    if config.engine.compile:
        for block in model.transformer_blocks:
            block.compile()
    model.train()
    optimizer = make_optimizer(model, config.optimizer)
    ema = Ema(model, decay=config.engine.ema) if config.engine.ema else None
    layers, experts = len(model.moe_blocks), config.moe.experts
    counts = torch.zeros(config.accumulation, layers, experts, dtype=torch.float64, device=ranks.device)
    bias = torch.stack([router.selection_bias.cpu() for router in model.routers]) if layers else torch.zeros(0, experts)
    trained = Trained(model, optimizer, ema, counts, bias)
    run = Run(config, taxonomy, ranks, trained, Batches.__new__(Batches), source, checkpoints, out)
    run.upcycling = upcycling
    _resume(run)
    _announce(run)
    retag = shuffled_tags(source, seed=config.seed) if config.alignment.control == "shuffled" else None
    start, world = run.position, ranks.world
    run.batches = Batches(
        source,
        encoder=make_encoder(config, shards=shards),
        config=config,
        tags=taxonomy.size,
        numbers=lambda n: start + n * world + ranks.rank,
        retag=retag,
    )
    return run


def _build(config: TrainConfig, *, taxonomy: Taxonomy, ranks: Ranks) -> tuple[TagMoETransformer, dict[str, float]]:
    """The model on its device, sharded where there is more than one rank or a narrower compute dtype."""
    sharded = ranks.world > 1 or config.engine.dtype == "bfloat16"

    def place(model: TagMoETransformer) -> None:
        shard(model, config, ranks)
        model.to_empty(device=ranks.device)

    if sharded and config.model.pretrained is not None and config.engine.train != "lora":
        return build_sharded(config, taxonomy=taxonomy, place=place)
    model, upcycling = build_model(config, taxonomy=taxonomy)
    model.to(ranks.device)  # pyright: ignore[reportArgumentType] - diffusers decorates it
    if sharded:
        shard(model, config, ranks)
    return model, upcycling


def _steps(run: Run, *, journal: Journal, watcher: Watcher, flag: StopFlag) -> None:
    config, checkpoints = run.config, run.checkpoints
    first = run.step
    with progress("train", total=config.steps, unit="steps", quiet=not run.ranks.is_main) as meter:
        meter.skip(first)
        while run.step < config.steps:
            metrics, stop = train_step(run, first=first, flag=flag)
            if run.step % config.log.every == 0 or run.step in (1, config.steps):
                if run.replaced:
                    metrics |= {"replaced": len(run.replaced), "replaced_samples": run.replaced}
                    run.replaced = []
                journal.log(metrics, step=run.step)
            meter.update(note=f"flow {metrics['flow']:.3f}")
            if stop:
                checkpoints.save(run.trained, step=run.step, trainer=_trainer_state(run), wait=True)
                raise StoppedError(
                    f"stopped by {flag.name or 'a signal on another rank'} after step {run.step}, which is saved: "
                    "start the same command again to go on"
                )
            if run.step % config.engine.checkpoint_every == 0 or run.step == config.steps:
                checkpoints.save(run.trained, step=run.step, trainer=_trainer_state(run))
            if config.log.routing_every and run.step % config.log.routing_every == 0 and run.step < config.steps:
                watcher.report(run, journal=journal, final=False)
    checkpoints.finish()


def train_step(run: Run, *, first: int, flag: StopFlag) -> tuple[dict[str, Any], bool]:
    """One optimizer step over `accumulation` micro-batches of every rank; metrics, and whether to stop."""
    config, trained, ranks = run.config, run.trained, run.ranks
    model, started, waited = trained.model, time.perf_counter(), run.batches.waited
    sums, seen = StepSums(), torch.zeros(1, dtype=torch.int64)
    micro_batches: list[MicroBatch] = []
    for m in range(config.accumulation):
        n = (run.step - first) * config.accumulation + m
        batch = run.batches.get(n)
        micro_batches.append(batch)
        seen += key(*batch.uids, run.position + m * ranks.world + ranks.rank)
        if config.moe.jitter:
            # Jitter draws from the global generator, which recomputation under checkpointing replays.
            torch.manual_seed(key(config.seed, run.step, m, ranks.rank))
        if config.engine.accumulate == "local":
            sync_gradients(model, m == config.accumulation - 1)
        forward = forward_micro(model, batch, config, device=ranks.device)
        loss = total_loss(forward, config, balance_counts_LE=_balance_counts(run, forward, m=m))
        # The share of a full micro-batch: a ragged one weighs as many samples as it has.
        (loss * (batch.size / (config.micro_batch * config.accumulation))).backward()
        sums.add(forward, loss=loss)
        image = batch.clean_BTC.shape[1] + batch.condition_BIC.shape[1]
        sums.flops += micro_batch_flops(config, batch=batch.size, image=image, text=batch.text_BSD.shape[1])
    sums.stop, sums.wait = float(bool(flag)), run.batches.waited - waited
    sums.sum_over(ranks, limit=config.engine.max_loss)
    ranks.sum_(seen)
    if sums.bad:
        raise _bad_loss(run, micro_batches)
    if sums.replaced:
        run.replaced += _of_all_ranks(run, [name for batch in micro_batches for name in batch.replaced])
    rate = learning_rate(run.step + 1, steps=config.steps, config=config.optimizer)
    norm = _update(run, rate=rate)
    run.step += 1
    run.position += config.accumulation * ranks.world
    metrics = step_metrics(run, sums, seconds=time.perf_counter() - started)
    metrics |= {"grad_norm": norm, "lr": rate, "epoch": micro_batches[-1].epoch, "samples": int(seen)}
    return metrics, bool(sums.stop)


def _balance_counts(run: Run, forward: Any, *, m: int) -> torch.Tensor | None:
    """Counts to balance: those of the last `accumulation` micro-batches of all ranks, or this one's (`micro`).

    A micro-batch's gradient is taken before the step's later micro-batches have run, so the window slides: it always
    holds one global batch worth of counts, and with accumulation 1 it is exactly this step's.
    """
    if not forward.routing:
        return None
    own = forward.counts_LE
    window_MLE = run.trained.counts_MLE
    window_MLE[m] = own
    run.ranks.sum_(window_MLE[m])
    if run.config.loss.load_balance_scope == "micro":
        return own
    return window_MLE.sum(0)


def _update(run: Run, *, rate: float) -> float:
    """Clip, step, average, move the selection bias; returns the gradient norm before clipping."""
    trained, config = run.trained, run.config
    parameters = [p for p in trained.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.clip, foreach=True)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    set_learning_rate(trained.optimizer, rate)
    trained.optimizer.step()
    trained.optimizer.zero_grad(set_to_none=True)
    if trained.ema is not None:
        trained.ema.update(trained.model, step=run.step)
    if config.moe.selection_bias_rate:
        load_LE = trained.counts_MLE.sum(0).cpu()
        trained.bias_LE += config.moe.selection_bias_rate * (load_LE.mean(1, keepdim=True) - load_LE).sign().float()
        apply_selection_bias(trained)
    return float(norm)


def apply_selection_bias(trained: Trained) -> None:
    """Give every router its row of the bias."""
    for router, bias_E in zip(trained.model.routers, trained.bias_LE, strict=True):
        router.selection_bias.copy_(bias_E)


def _bad_loss(run: Run, micro_batches: list[MicroBatch]) -> StoppedError:
    """Name the records of the step whose loss is not finite or beyond the limit; nothing of it was applied."""
    ids = _of_all_ranks(run, [record for batch in micro_batches for record in batch.ids])
    if run.ranks.is_main:
        (run.out / "failed-step.json").write_text(json.dumps({"step": run.step + 1, "records": ids}, indent=2) + "\n")
    return StoppedError(
        f"the loss of step {run.step + 1} is not finite or above engine.max_loss ({run.config.engine.max_loss:g}); "
        f"records {', '.join(ids[:8])}{'...' if len(ids) > 8 else ''}; all {len(ids)} in {run.out.name}/failed-step.json. "
        f"The weights are those of step {run.step}. Leave the records out, or lower optimizer.lr, and start again"
    )


def _of_all_ranks(run: Run, mine: list[str]) -> list[str]:
    everyone: list[list[str]] = [mine]
    if run.ranks.world > 1:
        everyone = [[] for _ in range(run.ranks.world)]
        dist.all_gather_object(everyone, mine)
    return [name for part in everyone for name in part]


def _resume(run: Run) -> None:
    latest = run.checkpoints.latest()
    if latest is None:
        return
    trainer = run.checkpoints.load(run.trained, path=latest)
    run.source.check(trainer["stream"])
    run.step, run.position = trainer["step"], trainer["position"]
    apply_selection_bias(run.trained)


def _trainer_state(run: Run) -> dict[str, Any]:
    return {
        "format_version": 1,
        "step": run.step,
        "position": run.position,
        "stream": run.source.state(),
        "world": run.ranks.world,
        "config": run.config.model_dump(mode="json"),
    }


def _as_begun(out: Path, *, config: TrainConfig, checkpoints: Checkpoints) -> TrainConfig:
    """The configuration, checked against the run in `out` (steps, engine and log may change), with its snapshot."""
    path = out / "config.json"
    if not path.exists():
        return config
    before = TrainConfig.model_validate_json(path.read_text())
    if config.data.snapshot is None:
        config = _with_snapshot(config, before.data.snapshot)
    free = {"steps": config.steps, "engine": config.engine, "log": config.log, "accumulation": config.accumulation}
    changed = [n for n in TrainConfig.model_fields if getattr(before.model_copy(update=free), n) != getattr(config, n)]
    if changed:
        raise ConfigError(f"{out} holds a run with another {', '.join(changed)}: use another --out, or restore it")
    same = {"dtype", "train", "ema"}
    if before.engine.model_dump(include=same) != config.engine.model_dump(include=same):
        raise ConfigError(f"{out} holds a run with another engine.dtype, train or ema: use another --out")
    latest = checkpoints.latest()
    done = read_trainer(latest)["step"] if latest else 0
    if done > config.steps:
        raise ConfigError(f"{out} has {done} steps, more than steps={config.steps}: set steps={done} or more")
    return config


def _with_snapshot(config: TrainConfig, number: int | None) -> TrainConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"snapshot": number})})


def _write_config(out: Path, *, config: TrainConfig, ranks: Ranks) -> None:
    """Write config.json once every rank has read the old one."""
    ranks.barrier()
    if ranks.is_main:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(resolved_json(config))
    ranks.barrier()


def _announce(run: Run) -> None:
    if not run.ranks.is_main:
        return
    model = run.trained.model
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    err.print(
        f"model: {total:,} parameters, {trainable:,} trained, {len(model.moe_blocks)} MoE layers, {run.ranks.world} ranks",
        markup=False,
    )
    for layer, error in (run.upcycling or {}).items():
        err.print(
            f"upcycling ({run.config.moe.upcycle}) {layer}: relative output error {error:.2e} at step 0", markup=False
        )
    if run.step:
        err.print(f"resuming after step {run.step}", markup=False)
