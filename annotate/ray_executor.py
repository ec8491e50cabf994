"""`--executor ray`: pictures are read, decoded and measured by Ray tasks, and asked about by Ray actors, on any node.

Both classes take the place of their local counterparts, so ledger, parts and promises stay what they are. Decoded
pictures stay in Ray's object store: the driver sees hashes and measurements only, and hands on references. A lost node
costs what it was doing: Ray runs the tasks again elsewhere, and batches go to another actor.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from typing import Any

from PIL import Image

from ..schema import ConfigError, Pair, StoppedError
from ..schema.configs.annotate import AnnotateConfig
from ..schema.configs.ray import RayConfig
from .base import Annotator, Failure, Labels, Prepared, Provenance
from .factory import make_annotator
from .outcome import crashed
from .work import Worked, Worker, make_worker

Pixels = tuple[Image.Image, ...]
_RETRIES = 3
_ALL_DYING = 10
_SEATS_AHEAD = 1
"""Batches that wait inside an actor, so that its engine goes on without a round trip to the driver."""


@dataclass(frozen=True, slots=True)
class RemotePrepared(Prepared):
    """A Prepared whose pictures lie in the object store: entry `index` of the list that `pixels_ref` points to."""

    pixels_ref: Any = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What an actor's annotator says about itself."""

    provenance: Provenance
    max_pixels: int
    sees_pixels: bool
    batch_size: int
    parallel_batches: int


@dataclass(frozen=True, slots=True)
class _Seat:
    """The right to send one batch to an actor; void once the actor has died and come back."""

    actor: int
    life: int


def connect(config: RayConfig) -> Any:
    """Ray, connected to the configured cluster.

    Raises:
        ConfigError: Ray is not installed or the cluster cannot be reached.
    """
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise ConfigError("executor=ray needs Ray: pip install 'tagmoe[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=config.address or None, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"cannot connect to Ray at {config.address or 'this machine'}: {error}") from error
    return ray


class RayPool:
    """Ray tasks that turn pairs into results, in any order, each exactly once; the counterpart of WorkerPool."""

    def __init__(
        self, config: AnnotateConfig, *, ray_config: RayConfig, max_pixels: int | None, embedded: bool, prefetch: int
    ) -> None:
        """Set up.

        Args:
            config: corpus, annotator and sizes.
            ray_config: the cluster.
            max_pixels: see `prepare`.
            embedded: tasks hold the annotator and return finished records.
            prefetch: results to keep in flight beyond two chunks a worker.
        """
        self._ray = ray = connect(ray_config)
        workers = ray_config.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._chunk = config.chunk
        self._in_flight = workers * 2 + -(-prefetch // config.chunk)
        self._arguments = (config.model_dump_json(), max_pixels, embedded)
        self._task = ray.remote(_work).options(num_cpus=1, num_returns=2, max_retries=_RETRIES - 1)

    def run(self, pairs: Iterable[Pair]) -> Iterator[Worked]:
        """One result for each pair.

        Raises:
            StoppedError: records in a row kill their workers: the machines, not the data.
        """
        source = iter(pairs)
        running: dict[Any, tuple[Any, list[Pair]]] = {}
        dying = 0
        while True:
            while len(running) < self._in_flight and (chunk := list(islice(source, self._chunk))):
                self._submit(running, chunk)
            if not running:
                return
            done, _ = self._ray.wait(list(running), num_returns=1)
            for reference in done:
                pixels, chunk = running.pop(reference)
                results = self._results(reference, pixels)
                if results is not None:
                    dying = 0
                    yield from results
                elif len(chunk) > 1:
                    for pair in chunk:
                        self._submit(running, [pair])
                else:
                    dying += 1
                    if dying >= _ALL_DYING:
                        raise StoppedError(
                            f"{dying} records in a row killed their workers, the last is {chunk[0].id!r}: that looks "
                            "like the machines (out of memory?), not the data. Run the same command again"
                        )
                    yield crashed(chunk[0], times=_RETRIES)

    def close(self) -> None:
        """Nothing of its own: tasks end with the driver."""

    def _submit(self, running: dict[Any, tuple[Any, list[Pair]]], chunk: list[Pair]) -> None:
        results, pixels = self._task.remote(*self._arguments, chunk)
        running[results] = (pixels, chunk)

    def _results(self, reference: Any, pixels: Any) -> list[Worked] | None:
        """Results of one task; None if its workers died on every try."""
        errors = self._ray.exceptions
        try:
            results: list[Worked] = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from error
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.ObjectLostError, errors.NodeDiedError):
            return None
        return [_remote(item, pixels, i) if isinstance(item, Prepared) else item for i, item in enumerate(results)]


class RayAnnotator:
    """Annotators in Ray actors; batches go to whichever has a free seat. The counterpart of a local Annotator."""

    embedded = False

    def __init__(self, config: AnnotateConfig, *, ray_config: RayConfig) -> None:
        """Start the actors and wait for the first of them.

        Raises:
            ConfigError: what the annotator raised, or Ray cannot be reached.
            StoppedError: no actor started within the patience.
        """
        self._ray = ray = connect(ray_config)
        self._patience = ray_config.patience_seconds
        actor = ray.remote(_Holder).options(
            num_cpus=ray_config.annotator_cpus,
            num_gpus=ray_config.annotator_gpus,
            max_restarts=-1,
            max_concurrency=16,
        )
        self._actors = [actor.remote(config.model_dump_json()) for _ in range(ray_config.annotators)]
        facts = self._first_facts()
        self.provenance = facts.provenance
        self.max_pixels = facts.max_pixels
        self.sees_pixels = facts.sees_pixels
        self.batch_size = facts.batch_size
        self._seats_each = facts.parallel_batches + _SEATS_AHEAD
        self.parallel_batches = self._seats_each * len(self._actors)
        self._free: queue.Queue[_Seat] = queue.Queue()
        self._lives = [0] * len(self._actors)
        self._away: set[int] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        for index in range(len(self._actors)):
            self._away.add(index)
            self._await(index)

    def annotate(self, batch: Sequence[Prepared]) -> Sequence[Labels | Failure]:
        """Results in the order of `batch`. A batch whose actor dies goes to another one.

        Raises:
            StoppedError: no actor was free or came back within the patience, or the annotator stopped.
        """
        plain = [_plain(item) for item in batch]
        references = [item.pixels_ref if isinstance(item, RemotePrepared) else None for item in batch]
        places = [item.index if isinstance(item, RemotePrepared) else 0 for item in batch]
        distinct = {id(reference): reference for reference in references if reference is not None}
        order = list(distinct)
        found = [
            (order.index(id(r)), place) if r is not None else None for r, place in zip(references, places, strict=True)
        ]
        errors = self._ray.exceptions
        while True:
            seat = self._seat()
            try:
                call = self._actors[seat.actor].annotate.remote(plain, found, *distinct.values())
                results: list[Labels | Failure] = self._ray.get(call)
            except errors.RayTaskError as error:
                self._free.put(seat)
                if isinstance(error.cause, errors.ObjectLostError):
                    raise StoppedError(
                        f"Ray lost decoded pictures: {error.cause}; run the same command again"
                    ) from error
                raise error.cause from error
            except errors.RayActorError:
                self._leave(seat.actor)
            else:
                self._free.put(seat)
                return results

    def close(self) -> None:
        """End the actors."""
        self._closed.set()
        for actor in self._actors:
            self._ray.kill(actor)

    def _first_facts(self) -> Facts:
        asked = [actor.facts.remote() for actor in self._actors]
        done, _ = self._ray.wait(asked, num_returns=1, timeout=self._patience)
        if not done:
            raise StoppedError(
                f"no Ray actor started within {self._patience:.0f} s: does the cluster have the resources?"
            )
        errors = self._ray.exceptions
        try:
            facts: Facts = self._ray.get(done[0])
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.ActorDiedError as error:
            raise ConfigError(f"the annotator cannot start in a Ray actor: {_last_line(error)}") from error
        return facts

    def _seat(self) -> _Seat:
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            try:
                seat = self._free.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                break
            with self._lock:
                if seat.actor not in self._away and seat.life == self._lives[seat.actor]:
                    return seat
        raise StoppedError(f"no Ray actor answered for {self._patience:.0f} s: run the same command again")

    def _leave(self, index: int) -> None:
        """Take an actor out of rotation, with all its seats, until it answers again."""
        with self._lock:
            if index in self._away:
                return
            self._away.add(index)
        self._await(index)

    def _await(self, index: int) -> None:
        threading.Thread(target=self._return_when_alive, args=(index,), daemon=True).start()

    def _return_when_alive(self, index: int) -> None:
        while not self._closed.is_set():
            try:
                self._ray.get(self._actors[index].facts.remote())
            except self._ray.exceptions.RayError:
                self._closed.wait(0.5)
                continue
            with self._lock:
                self._away.discard(index)
                self._lives[index] += 1
                life = self._lives[index]
            for _ in range(self._seats_each):
                self._free.put(_Seat(index, life))
            return


class _Holder:
    """Lives in an actor: an annotator made from settings."""

    def __init__(self, config_json: str) -> None:
        self._config = AnnotateConfig.model_validate_json(config_json)
        self._lock = threading.Lock()
        self._made: Annotator | None = None

    def facts(self) -> Facts:
        annotator = self._annotator()
        return Facts(
            provenance=annotator.provenance,
            max_pixels=annotator.max_pixels,
            sees_pixels=annotator.sees_pixels,
            batch_size=annotator.batch_size,
            parallel_batches=annotator.parallel_batches,
        )

    def annotate(
        self, batch: Sequence[Prepared], found: Sequence[tuple[int, int] | None], *pixels: Sequence[Pixels]
    ) -> list[Labels | Failure]:
        whole = [
            replace(item, pixels=pixels[place[0]][place[1]]) if place is not None else item
            for item, place in zip(batch, found, strict=True)
        ]
        return list(self._annotator().annotate(whole))

    def _annotator(self) -> Annotator:
        with self._lock:
            if self._made is None:
                self._made = make_annotator(self._config)
            return self._made


_workers: dict[tuple[str, int | None, bool], Worker] = {}


def _work(
    config_json: str, max_pixels: int | None, embedded: bool, pairs: list[Pair]
) -> tuple[list[Worked], list[Pixels]]:
    """Runs in a task: results without pictures, and the pictures; Ray reuses processes, so the corpus stays open."""
    key = (config_json, max_pixels, embedded)
    worker = _workers.get(key)
    if worker is None:
        config = AnnotateConfig.model_validate_json(config_json)
        worker = _workers[key] = make_worker(config, max_pixels=max_pixels, embedded=embedded)
    results = list(worker(pairs))
    pixels = [item.pixels if isinstance(item, Prepared) else () for item in results]
    return [replace(item, pixels=()) if isinstance(item, Prepared) else item for item in results], pixels


def _remote(item: Prepared, pixels_ref: Any, index: int) -> RemotePrepared:
    return RemotePrepared(
        pair=item.pair,
        images=item.images,
        evidence=item.evidence,
        warnings=item.warnings,
        pixels_ref=pixels_ref,
        index=index,
    )


def _plain(item: Prepared) -> Prepared:
    if not isinstance(item, RemotePrepared):
        return item
    return Prepared(pair=item.pair, images=item.images, evidence=item.evidence, warnings=item.warnings)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__
