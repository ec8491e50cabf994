"""Endpoints that may be busy, flaky or dead: seats, backoff, leaving and returning, and when to give up.

Three kinds of trouble are kept apart. A request that an endpoint refuses (4xx) is that record's own failure. A fault
(5xx, timeout, reset, nonsense) is retried elsewhere; a record is blamed only when the endpoint answers a known good
control request right after the record failed every attempt. Trouble of an endpoint (dead, wrong model, wrong key)
takes it out of the pool until a control request succeeds. When nothing answers for `patience_seconds`, work stops.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from ...schema import ConfigError, StoppedError
from ...schema.configs.vlm import Server
from ..base import Failure
from .wire import Completion

Body = Mapping[str, JsonValue]
Send = Callable[[str, Body], Awaitable[Completion]]
"""Carries one body to the endpoint of that URL; raises one of the exceptions below."""

_LOOK_AGAIN_SECONDS = 1.0
"""A request that waits for a seat looks at patience at least this often."""


class Refused(Exception):
    """The endpoint understood the request and will not serve it (4xx)."""


class Fault(Exception):
    """Something went wrong that may go well the next time."""

    def __init__(self, message: str, *, retry_after: float | None = None, blames_request: bool = True) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.blames_request = blames_request
        """False for a fault that says nothing about the request, such as a refused connection."""


class Busy(Fault):
    """The endpoint asks to be left alone for a while (429)."""


class Misplaced(Exception):
    """The endpoint is not the one wanted: wrong key, wrong path, wrong model."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One endpoint and how it is doing."""

    url: str
    under_way: int = 0
    faults_in_a_row: int = 0
    resting_until: float = 0.0
    out: str = ""
    """Why it is outside the pool; empty inside."""
    misplaced: bool = False
    prober: asyncio.Task[None] | None = field(default=None, repr=False)


class EndpointPool:
    """Sends bodies to whichever endpoint is alive and least busy. Used from one event loop."""

    def __init__(self, config: Server, *, send: Send, control: Body, jitter: random.Random | None = None) -> None:
        """Set up; nothing is sent before `start`.

        Args:
            config: endpoints, limits and patience.
            send: the transport.
            control: a small request that any healthy endpoint answers.
            jitter: source of the random part of pauses.
        """
        self._config = config
        self._send = send
        self._control = control
        self._random = jitter or random.Random()
        self._endpoints = [Endpoint(url) for url in config.endpoints]
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._asking = 0
        self._last_answer = time.monotonic()

    async def start(self) -> None:
        """Try every endpoint once.

        Raises:
            ConfigError: the control request is refused, or every endpoint has a wrong key, path or model.
        """
        await asyncio.gather(*(self._check(endpoint) for endpoint in self._endpoints))
        if all(endpoint.misplaced for endpoint in self._endpoints):
            raise ConfigError(f"no endpoint can be used: {self._troubles()}")

    async def close(self) -> None:
        """Stop probing."""
        probers = [endpoint.prober for endpoint in self._endpoints if endpoint.prober is not None]
        for prober in probers:
            prober.cancel()
        await asyncio.gather(*probers, return_exceptions=True)

    async def ask(self, body: Body) -> Completion | Failure:
        """The endpoint's answer to `body`, or why this request cannot be answered.

        Raises:
            StoppedError: no endpoint answered anything for `patience_seconds`.
        """
        if self._asking == 0:
            self._last_answer = time.monotonic()
        self._asking += 1
        try:
            return await self._ask(body)
        finally:
            self._asking -= 1

    async def _ask(self, body: Body) -> Completion | Failure:
        blamed = 0
        pause = self._config.backoff_seconds
        while True:
            endpoint = await self._seat()
            try:
                completion = await self._send(endpoint.url, body)
            except Refused as refusal:
                self._answered(endpoint)
                return Failure("refused_by_endpoint", f"{endpoint.url}: {refusal}")
            except Misplaced as trouble:
                self._take_out(endpoint, str(trouble), misplaced=True)
                continue
            except Fault as fault:
                blamed += self._note(endpoint, fault)
                if blamed >= self._config.attempts:
                    if await self._check(endpoint):
                        tries = f"{blamed} tries failed while {endpoint.url} answered a control request"
                        return Failure("refused_by_endpoint", f"{tries}; the last: {fault}")
                    blamed = 0
                wait = fault.retry_after if fault.retry_after is not None else pause * self._random.uniform(0.5, 1)
            else:
                self._answered(endpoint)
                return completion
            finally:
                self._stand_up(endpoint)
            self._check_patience()
            await asyncio.sleep(min(wait, self._config.patience_seconds))
            pause = min(2 * pause, self._config.backoff_max_seconds)

    def _note(self, endpoint: Endpoint, fault: Fault) -> int:
        """Put a fault on the endpoint's account; 1 if it may be the request's own, else 0."""
        if fault.retry_after is not None:
            endpoint.resting_until = time.monotonic() + fault.retry_after
        if isinstance(fault, Busy):
            return 0
        endpoint.faults_in_a_row += 1
        if endpoint.faults_in_a_row >= self._config.failures_to_leave:
            self._take_out(endpoint, str(fault))
        return int(fault.blames_request)

    def _answered(self, endpoint: Endpoint) -> None:
        endpoint.faults_in_a_row = 0
        self._last_answer = time.monotonic()

    async def _seat(self) -> Endpoint:
        """A place at the least busy endpoint that is in the pool and not resting."""
        while True:
            now = time.monotonic()
            free = [
                endpoint
                for endpoint in self._endpoints
                if not endpoint.out and endpoint.under_way < self._config.concurrency and endpoint.resting_until <= now
            ]
            if free:
                chosen = min(free, key=lambda endpoint: endpoint.under_way)
                chosen.under_way += 1
                return chosen
            self._check_patience()
            rests = [endpoint.resting_until - now for endpoint in self._endpoints if endpoint.resting_until > now]
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(called)
            try:
                await asyncio.wait([called], timeout=min([_LOOK_AGAIN_SECONDS, *rests]))
            finally:
                called.cancel()

    def _stand_up(self, endpoint: Endpoint) -> None:
        endpoint.under_way -= 1
        self._call(1)

    def _call(self, count: int) -> None:
        """Wake up to `count` requests that wait for a seat."""
        while count and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                count -= 1

    async def _check(self, endpoint: Endpoint) -> bool:
        """Whether `endpoint` answers the control request; takes it out of the pool if not."""
        try:
            await self._send(endpoint.url, self._control)
        except Refused as refusal:
            raise ConfigError(
                f"{endpoint.url} refuses even a plain request of this configuration: {refusal}. Check the model, "
                "server.constraint, sampling.top_logprobs and server.extra_body (a text-only model: "
                "server.control_pictures=0)"
            ) from refusal
        except Misplaced as trouble:
            self._take_out(endpoint, str(trouble), misplaced=True)
            return False
        except Busy as busy:
            self._note(endpoint, busy)
        except Fault as fault:
            self._take_out(endpoint, str(fault))
            return False
        else:
            self._answered(endpoint)
        endpoint.out, endpoint.misplaced = "", False
        return True

    def _take_out(self, endpoint: Endpoint, reason: str, *, misplaced: bool = False) -> None:
        endpoint.out, endpoint.misplaced = reason, misplaced
        if endpoint.prober is None or endpoint.prober.done():
            endpoint.prober = asyncio.create_task(self._probe(endpoint))

    async def _probe(self, endpoint: Endpoint) -> None:
        while endpoint.out:
            await asyncio.sleep(self._config.probe_seconds * self._random.uniform(0.75, 1.25))
            try:
                back = await self._check(endpoint)
            except ConfigError as error:
                endpoint.out = str(error)
                continue
            if back:
                self._call(self._config.concurrency)

    def _check_patience(self) -> None:
        silent = time.monotonic() - self._last_answer
        if silent >= self._config.patience_seconds:
            raise StoppedError(
                f"no endpoint answered for {silent:.0f} s ({self._troubles()}): start or fix them and run the same "
                "command again; finished work is kept"
            )

    def _troubles(self) -> str:
        return "; ".join(f"{endpoint.url}: {endpoint.out or 'busy or faulty'}" for endpoint in self._endpoints)
