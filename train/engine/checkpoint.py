"""Checkpoints: sharded (DCP), written in the background, published by a rename, so that the last good one survives.

RUN/checkpoints/step-000100/   DCP files and trainer.json
RUN/checkpoints/step-000200.partial/   being written, or left by a crash
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ...schema import DataError, StoppedError
from ..model import TagMoETransformer
from .optimizer import Ema
from .ranks import Ranks

_NAME = re.compile(r"^step-(\d{6,})$")


@dataclass(slots=True)
class Trained:
    """Everything that training changes; the tensors are saved sharded, `counts_MLE` and `bias_LE` whole."""

    model: TagMoETransformer
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    counts_MLE: torch.Tensor
    """float64: expert counts of the last M micro-batches over all ranks."""
    bias_LE: torch.Tensor
    """Selection bias, equal on every rank."""

    def state_dict(self) -> dict[str, Any]:
        """What DCP saves; parameters keep their names whatever the sharding."""
        state: dict[str, Any] = {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
            "router": {"counts": self.counts_MLE, "bias": self.bias_LE},
        }
        if self.ema is not None:
            state["ema"] = self.ema.shadow
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what DCP read into the tensors of `state_dict()`."""
        set_model_state_dict(self.model, state["model"])
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])
        self.counts_MLE.copy_(state["router"]["counts"])
        self.bias_LE.copy_(state["router"]["bias"])


class Checkpoints:
    """Writes, keeps and finds the checkpoints of one run."""

    def __init__(self, folder: Path, *, ranks: Ranks, keep: int):
        self.folder, self._ranks, self._keep = folder, ranks, keep
        self._pending: tuple[Future[Any], Path, Path] | None = None
        # Background saving talks among ranks too: a group of its own cannot interleave with training's collectives.
        self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        if not self.folder.is_dir():
            return None
        found = [(int(m[1]), p) for p in self.folder.iterdir() if (m := _NAME.match(p.name))]
        complete = [(step, p) for step, p in found if (p / ".metadata").is_file() and (p / "trainer.json").is_file()]
        return max(complete)[1] if complete else None

    def save(self, trained: Trained, *, step: int, trainer: dict[str, Any], wait: bool = False) -> None:
        """Start saving step `step`; returns once the tensors are copied, or when written if `wait`.

        Raises:
            StoppedError: this or the previous save failed (full disk): names the last good checkpoint.
        """
        self.finish()
        final = self.folder / f"step-{step:06d}"
        partial = self.folder / f"step-{step:06d}.partial"
        if final.is_dir():
            return
        if self._ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            (partial / "trainer.json").write_text(json.dumps(trainer, indent=2) + "\n")
        self._ranks.barrier()
        future = dcp.async_save(trained.state_dict(), checkpoint_id=partial, process_group=self._group)
        self._pending = (cast("Future[Any]", future), partial, final)
        if wait:
            self.finish()

    def finish(self) -> None:
        """Wait for the save under way and publish it.

        Raises:
            StoppedError: it failed; the last good checkpoint is untouched.
        """
        if self._pending is None:
            return
        future, partial, final = self._pending
        self._pending = None
        error = future.exception()
        failed = self._ranks.sum_(torch.tensor([0.0 if error is None else 1.0])).item()
        if failed:
            if self._ranks.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            last = self.latest()
            raise StoppedError(
                f"saving {final.name} failed ({_last_line(error)}); last good checkpoint: "
                f"{last.name if last else 'none'}. Free some space, then start the same command again"
            )
        if self._ranks.is_main:
            partial.replace(final)
            self._remove_old()
        self._ranks.barrier()

    def load(self, trained: Trained, *, path: Path) -> dict[str, Any]:
        """Read `path` into the trained state, resharding as needed; returns trainer.json."""
        trainer = read_trainer(path)
        saved = dcp.FileSystemReader(path).read_metadata().state_dict_metadata["router.counts"].size[0]  # pyright: ignore
        window = trained.counts_MLE
        if saved != len(window):
            # Another accumulation (same global batch on other ranks): keep the mean of the window.
            trained.counts_MLE = window.new_zeros((saved, *window.shape[1:]))
        state = trained.state_dict()
        dcp.load(state, checkpoint_id=path, process_group=self._group)
        trained.load_state_dict(state)
        if saved != len(window):
            trained.counts_MLE = trained.counts_MLE.mean(0, keepdim=True).expand_as(window).clone()
        return trainer

    def _remove_old(self) -> None:
        complete = sorted(p for p in self.folder.iterdir() if _NAME.match(p.name))
        for old in complete[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


def _last_line(error: BaseException | None) -> str:
    """DCP wraps every rank's traceback in one text: its last line is the cause."""
    lines = str(error).strip().splitlines() if error else []
    return lines[-1].strip() if lines else type(error).__name__ if error else "on another rank"


def read_weights(path: Path, into: dict[str, torch.Tensor], *, ema: bool = False) -> None:
    """Fill `into` (name to tensor) from a checkpoint without any process group; EMA weights where they exist.

    Raises:
        DataError: the checkpoint lacks a tensor or has it in another shape.
    """
    saved = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    names = {n: f"ema.{n}" if ema and f"ema.{n}" in saved else f"model.{n}" for n in into}
    for name, key in names.items():
        size = getattr(saved.get(key), "size", None)
        if size != into[name].shape:
            raise DataError(f"{path.name}: {key} is {size and tuple(size)}, expected {tuple(into[name].shape)}")
    nested: dict[str, Any] = {"model": {}, "ema": {}}
    for name, key in names.items():
        nested[key.split(".", 1)[0]][name] = into[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        dcp.load({part: tensors for part, tensors in nested.items() if tensors}, checkpoint_id=path, no_dist=True)


def read_trainer(path: Path) -> dict[str, Any]:
    """trainer.json of a checkpoint.

    Raises:
        DataError: missing or not JSON.
    """
    try:
        return json.loads((path / "trainer.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no checkpoint of tagmoe train: {error}") from error
