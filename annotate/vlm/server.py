"""The `server` annotator: any OpenAI-compatible endpoint, or several, asked asynchronously and with patience."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from PIL import Image
from pydantic import JsonValue

from ...schema import ConfigError, Taxonomy
from ...schema.configs.vlm import VlmConfig
from ..base import Failure, Labels, Prepared
from .control import control_record
from .dialogue import Answer, Request, dialogue, first_request
from .pool import Busy, EndpointPool, Fault, Misplaced, Refused
from .settings import provenance_of
from .wire import Completion, MalformedBody, chat_body, data_url, read_completion

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
_STATUS_MISPLACED = (401, 403, 404)
_STATUS_TRANSIENT = (408, 409, 425)


class ServerAnnotator:
    """Labels records through endpoints. `annotate` may be called from several threads at once."""

    embedded = False
    sees_pixels = True

    def __init__(self, config: VlmConfig, *, taxonomy: Taxonomy) -> None:
        """Set up clients; the endpoints are first asked when the first batch comes.

        Raises:
            ConfigError: the `openai` package is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise ConfigError("annotator=server needs the openai package: pip install 'tagmoe[server]'") from error
        self.provenance = provenance_of("server", config=config, taxonomy=taxonomy)
        self.max_pixels = config.pictures.max_pixels
        seats = config.server.concurrency * len(config.server.endpoints)
        self.batch_size = max(1, seats // 2)
        self.parallel_batches = 4
        self._openai = openai
        self._config = config
        self._taxonomy = taxonomy
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pool: EndpointPool | None = None
        self._clients: dict[str, openai.AsyncOpenAI] = {}
        self._encoders = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="encode")

    def annotate(self, batch: Sequence[Prepared]) -> Sequence[Labels | Failure]:
        """Results in the order of `batch`, one each.

        Raises:
            StoppedError: no endpoint answered for `server.patience_seconds`.
            ConfigError: the endpoints refuse this configuration.
        """
        loop = self._started()
        return _wait(self._batch(batch), loop)

    def close(self) -> None:
        """Cancel what is under way and close the connections; when it returns, nothing of it runs any more."""
        with self._lock:
            if self._loop is not None:
                self._end(self._loop)
        self._encoders.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(loop,), name="tagmoe-server", daemon=True)
                self._thread.start()
                try:
                    _wait(self._open(), loop)
                except BaseException:
                    self._end(loop)
                    raise
                self._loop = loop
            return self._loop

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._thread is not None
        self._loop = None
        try:
            _wait(self._close(), loop)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    async def _open(self) -> None:
        server = self._config.server
        key = os.environ.get(server.api_key_env) or "none"
        timeout = self._openai.Timeout(server.timeout_seconds, connect=server.connect_seconds)
        self._clients = {
            url: self._openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)
            for url in server.endpoints
        }
        self._pool = EndpointPool(server, send=self._send, control=self._control())
        await self._pool.start()

    async def _close(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    async def _batch(self, batch: Sequence[Prepared]) -> list[Labels | Failure]:
        return await _all(self._record(record) for record in batch)

    async def _record(self, record: Prepared) -> Labels | Failure:
        conversation = dialogue(record, taxonomy=self._taxonomy, config=self._config)
        pictures = await asyncio.get_running_loop().run_in_executor(self._encoders, self._encoded, record.pixels)
        requests = next(conversation)
        while True:
            answers = await _all(self._answer(request, pictures) for request in requests)
            try:
                requests = conversation.send(answers)
            except StopIteration as end:
                return end.value

    async def _answer(self, request: Request, pictures: Sequence[str]) -> Answer:
        assert self._pool is not None
        body = chat_body(request, pictures=pictures, config=self._config)
        completion = await self._pool.ask(body)
        return completion if isinstance(completion, Failure) else completion.answer()

    def _encoded(self, pixels: Sequence[Image.Image]) -> list[str]:
        return [data_url(picture, encoding=self._config.pictures.format) for picture in pixels]

    async def _send(self, url: str, body: Mapping[str, JsonValue]) -> Completion:
        """One HTTP request; every trouble is sorted into the pool's exceptions."""
        openai, server = self._openai, self._config.server
        create = self._clients[url].chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(server.timeout_seconds):
                response = await create(**body)  # type: ignore[call-overload]
            completion = read_completion(response.content)
        except openai.APIStatusError as error:
            raise _sorted(error) from error
        except (TimeoutError, openai.APITimeoutError) as error:
            raise Fault(f"no answer within {server.timeout_seconds:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            connected = "connect" not in type(cause).__name__.lower()
            raise Fault(f"{type(cause).__name__}: {cause}", blames_request=connected) from error
        except MalformedBody as error:
            raise Fault(f"the response is no chat completion: {error}") from error
        except openai.OpenAIError as error:
            raise Fault(f"{type(error).__name__}: {error}") from error
        if completion.model not in (self._config.model, *server.also_answers_as):
            raise Misplaced(
                f"answers as model {completion.model!r}, expected {self._config.model!r} (if it is the same model, "
                "add the name to server.also_answers_as)"
            )
        return completion

    def _control(self) -> Mapping[str, JsonValue]:
        count = self._config.server.control_pictures
        record = control_record(count)
        request = first_request(record, taxonomy=self._taxonomy, config=self._config)
        return chat_body(request, pictures=self._encoded(record.pixels), config=self._config)


def _sorted(error: openai.APIStatusError) -> Exception:
    status, text = error.status_code, _message(error)
    retry_after = _seconds(error.response.headers.get("retry-after"))
    if status == 429:
        return Busy(f"429: {text}", retry_after=retry_after)
    if status in _STATUS_MISPLACED:
        return Misplaced(f"{status}: {text}")
    if status >= 500 or status in _STATUS_TRANSIENT:
        return Fault(f"{status}: {text}", retry_after=retry_after, blames_request=status not in (502, 503, 504))
    return Refused(f"{status}: {text}")


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    inner = body.get("message") if isinstance(body, dict) else None
    text = inner if isinstance(inner, str) else str(body or error.message)
    return " ".join(text.split())[:300]


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; dates and nonsense count as absent, and nothing above an hour is believed."""
    try:
        return min(max(float(header), 0.0), 3600.0) if header is not None else None
    except ValueError:
        return None


async def _all(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Results of coroutines run together; the first error cancels the rest."""
    tasks = [asyncio.create_task(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _wait(work: Coroutine[None, None, T], loop: asyncio.AbstractEventLoop) -> T:
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
