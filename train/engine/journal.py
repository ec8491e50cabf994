"""What a run writes about itself: metrics.jsonl, TensorBoard, and optionally W&B and MLflow; rank 0 only."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Protocol

from ...schema import ConfigError
from ...schema.configs.train import TrainConfig
from ..seeding import key


class _Sink(Protocol):
    def log(self, values: dict[str, float], *, step: int) -> None: ...
    def close(self) -> None: ...


class _Lines:
    """metrics.jsonl; lines after the resumed step are dropped, so that every step stands there once."""

    def __init__(self, path: Path, *, resumed_step: int):
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= resumed_step]
            path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a", buffering=1)

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    def __init__(self, folder: Path, *, resumed_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=resumed_step + 1)

    def log(self, values: dict[str, Any], *, step: int) -> None:
        for name, value in _numbers(values).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, config: TrainConfig, out: Path):
        wandb = _optional("wandb", "log.wandb_project")
        self._run = wandb.init(
            project=config.log.wandb_project,
            dir=str(out),
            # One run of the service for one folder, also when training goes on; names of folders repeat.
            id=f"{key(str(out.resolve())):016x}",
            name=out.name,
            resume="allow",
            config=config.model_dump(),
        )

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self._run.log(_numbers(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, config: TrainConfig, out: Path):
        self._mlflow = _optional("mlflow", "log.mlflow_experiment")
        known = out / "mlflow-run"
        try:
            self._mlflow.set_experiment(config.log.mlflow_experiment)
            if known.exists():
                self._mlflow.start_run(run_id=known.read_text().strip())
            else:
                known.write_text(self._mlflow.start_run(run_name=out.name).info.run_id + "\n")
        except self._mlflow.MlflowException as error:
            raise ConfigError(
                f"log.mlflow_experiment is set, but MLflow cannot use its store ({str(error).splitlines()[0]}): name "
                "another in MLFLOW_TRACKING_URI, such as a server's address"
            ) from error

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self._mlflow.log_metrics(_numbers(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class Journal:
    """All sinks of a run; silent on ranks other than 0."""

    def __init__(self, out: Path, *, config: TrainConfig, resumed_step: int, is_main: bool):
        self._sinks: list[_Sink] = []
        self._board: _TensorBoard | None = None
        if not is_main:
            return
        try:
            self._open(out, config=config, resumed_step=resumed_step)
        except BaseException:
            self.close()
            raise

    def _open(self, out: Path, *, config: TrainConfig, resumed_step: int) -> None:
        self._sinks.append(_Lines(out / "metrics.jsonl", resumed_step=resumed_step))
        if config.log.tensorboard:
            self._board = _TensorBoard(out / "tensorboard", resumed_step=resumed_step)
            self._sinks.append(self._board)
        if config.log.wandb_project:
            self._sinks.append(_Wandb(config, out))
        if config.log.mlflow_experiment:
            self._sinks.append(_MLflow(config, out))

    def log(self, values: dict[str, Any], *, step: int) -> None:
        """One line of named values."""
        for sink in self._sinks:
            sink.log(values, step=step)

    def picture(self, name: str, path: Path, *, step: int) -> None:
        """Show a PNG in TensorBoard."""
        if self._board is None:
            return
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._board.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close every sink."""
        for sink in self._sinks:
            sink.close()


def check_sinks(config: TrainConfig) -> None:
    """Raise ConfigError, naming the package, where a chosen sink is not installed: before any work."""
    if config.log.wandb_project:
        _optional("wandb", "log.wandb_project")
    if config.log.mlflow_experiment:
        _optional("mlflow", "log.mlflow_experiment")


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line torn by a crash


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """What has a curve; names of samples stand in metrics.jsonl only."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _optional(module: str, setting: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{setting} is set, but the package {module} is not installed: pip install {module}"
        ) from error
