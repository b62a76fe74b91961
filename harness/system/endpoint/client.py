"""Asks an OpenAI-compatible endpoint for completions: several at once, again, and counted."""

from __future__ import annotations

import asyncio
import email.utils
import importlib.util
import math
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.errors import EnvironmentLack
from harness.system.endpoint import completion
from harness.system.endpoint.completion import (
    ChatRequest,
    Completion,
    Failure,
    FailureKind,
    Request,
)
from harness.system.endpoint.spending import Budget, Ledger, Price
from harness.system.security import secrets

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

__all__ = ["RETRIES", "Client", "Endpoint", "check_installed", "read_key", "url_fault"]

Progress = Callable[[int, int], None]
Answered = Callable[[int, Completion | Failure], None]
"""`answered(place, answer)`: what came of the request at that place."""

RETRIES = 5
"""How often a request is sent again, at most."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before a request is sent again: doubled each time, less up to a quarter by chance, so
that requests which failed together do not come back together."""
LONGEST_RETRY_AFTER = 120.0
"""Seconds. An endpoint that asks for a longer wait is not waited for."""
_LISTING_SECONDS = 10.0
_SECRET = 8
"""Characters from which a key is taken out of texts: what a server that needs none is given, such
as `x`, is no secret, and would be found in answers."""
_MOST_STOPS = 4
"""Of a request, as OpenAI takes them; an answer is cut at the others where it is read."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]]+?)(:\d*)?")
"""Of a URL, with its port."""
_SHOWN = 200
"""Characters of an endpoint's error that are kept."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served, and how it is asked."""

    url: str
    """The base URL, before `/chat/completions`."""
    model: str
    key: str | None = "OPENAI_API_KEY"
    """NAME of the environment variable that holds the key; None where none is needed."""
    in_flight: int = 16
    """Requests under way at once."""
    timeout: float = 60.0
    """Seconds until an answer is whole."""
    budget: Budget = field(default_factory=Budget)
    price: Price | None = None


def url_fault(url: str) -> str | None:
    """What is wrong with a base URL, as the end of a sentence; None where nothing is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no URL ({error})"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is no URL: write one such as https://api.openai.com/v1"
    # what stands around the brackets of an IPv6 address is no part of `hostname`
    if not _HOST.fullmatch(parts.netloc.rpartition("@")[2]):
        return "is no URL: write one such as https://api.openai.com/v1"
    if any(character.isspace() or not character.isprintable() for character in url):
        return "holds a space or a control character"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return (
            "may hold no user, password, query or fragment: it is recorded; a key belongs into an "
            "environment variable"
        )
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return "is not the base URL: leave /chat/completions out"
    return None


def check_installed(whose: str) -> None:
    """Raise EnvironmentLack where the client library is missing; `whose` begins its sentence."""
    if importlib.util.find_spec("openai") is None:
        raise EnvironmentLack(f"{whose} needs openai: pip install 'finetune-harness[judge]'")


def read_key(name: str | None) -> str | None:
    """The key in the environment variable `name`. Raises EnvironmentLack, without the key."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise EnvironmentLack(
            f"the environment variable {name} holds no key: export {name}=..., name another "
            "variable with `key:`, or write `key: null` for a server that asks for none"
        )
    if not (key.isascii() and key.isprintable()):
        raise EnvironmentLack(
            f"the environment variable {name} holds characters that no key has: set it anew"
        )
    secrets.add(key)
    return key


class Client:
    """Asks one endpoint, and counts what that costs. The key is in no text that it gives.

    Requests are sent by an event loop of its own: not to be called inside another.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises EnvironmentLack where the key or the client library is missing."""
        check_installed("an endpoint")
        self.endpoint = endpoint
        self.ledger = Ledger(endpoint.budget, endpoint.price)
        self._key = read_key(endpoint.key)
        # Not the module's own generator, which a caller may have seeded.
        self._random = random.Random()
        self._length = "max_tokens"
        """Newer models of OpenAI know `max_completion_tokens` alone, other servers not at all."""

    def complete(
        self,
        requests: Sequence[Request],
        *,
        tolerated: float = 1.0,
        progress: Progress | None = None,
        answered: Answered | None = None,
    ) -> list[Completion | Failure]:
        """An answer to each request, in their order, or why there is none.

        Where more than the share `tolerated` of them fail, those left are not sent. `answered` is
        told of each as it comes, before the others are there.
        """
        if not requests:
            return []
        return asyncio.run(_Batch(self, requests, tolerated, progress, answered).run())

    def models(self) -> list[str] | Failure:
        """The models that the endpoint lists, asked at most twice in ten seconds each."""
        timeout = min(self.endpoint.timeout, _LISTING_SECONDS)

        async def listed() -> list[str] | Failure:
            async with self._opened(timeout) as http:
                for left in (1, 0):
                    body = await self._body(http.models.with_raw_response.list, {}, timeout)
                    names: list[str] | Failure = _parsed(completion.model_names, body)
                    if not (left and isinstance(names, Failure) and names.passes):
                        break
                return names

        return asyncio.run(listed())

    def first_token_seconds(self, request: Request) -> float | None:
        """Seconds until the first token of an answer arrives, by a request of its own.

        None where the server does not stream, or gives no answer.
        """
        self.ledger.begin(request)
        try:
            return asyncio.run(self._first_token(request))
        finally:
            self.ledger.settle(request, None)

    async def _first_token(self, request: Request) -> float | None:
        import openai

        async with self._opened(self.endpoint.timeout) as http:
            chat = isinstance(request, ChatRequest)
            create: Any = http.chat.completions if chat else http.completions
            begun = time.monotonic()
            try:
                stream = await create.create(**self._arguments(request), stream=True)
                async with stream:
                    async for chunk in stream:
                        if any(map(_said, chunk.choices)):
                            return time.monotonic() - begun
            except (openai.OpenAIError, ValueError):
                return None
        return None

    @asynccontextmanager
    async def _opened(self, timeout: float) -> AsyncIterator[AsyncOpenAI]:
        from openai import AsyncOpenAI

        http = AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.endpoint.url,
            timeout=timeout,
            max_retries=0,  # requests are counted one by one
        )
        async with http:
            yield http

    async def _send(self, http: AsyncOpenAI, request: Request) -> Completion | Failure:
        """The answer to one HTTP request."""
        chat = isinstance(request, ChatRequest)
        create = http.chat.completions if chat else http.completions
        arguments = self._arguments(request)
        body = await self._body(
            create.with_raw_response.create,
            arguments,
            self.endpoint.timeout,
        )
        answer: Completion | Failure = _parsed(
            completion.parse if chat else completion.parse_text, body
        )
        return answer

    def _arguments(self, request: Request) -> dict[str, Any]:
        """What a request is in the words of the API."""
        arguments: dict[str, Any] = {
            "model": self.endpoint.model,
            "temperature": request.temperature,
        }
        if request.samples > 1:
            arguments["n"] = request.samples
        if request.stops:
            arguments["stop"] = list(request.stops[:_MOST_STOPS])
        if isinstance(request, ChatRequest):
            arguments["messages"] = [
                {key: _sendable(value) for key, value in message.items()}
                for message in request.messages
            ]
            if request.tools:
                arguments["tools"] = list(request.tools)
            arguments[self._length] = request.max_tokens
            if request.top_logprobs is not None:
                arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
            return arguments
        text = request.prompt
        arguments["prompt"] = (
            text.encode("utf-8", "replace").decode() if isinstance(text, str) else list(text)
        )
        arguments["max_tokens"] = request.max_tokens
        if request.top_logprobs is not None:
            arguments["logprobs"] = request.top_logprobs
        if request.echo:
            arguments["echo"] = True
        return arguments

    async def _body(
        self, call: Callable[..., Any], arguments: Mapping[str, Any], timeout: float
    ) -> bytes | Failure:
        """The body of a successful response, without the key should the endpoint repeat it."""
        import openai

        try:
            # A server that sends a byte now and then meets no time-out of a single read.
            response = await asyncio.wait_for(call(**arguments), timeout)
        except (asyncio.TimeoutError, openai.APITimeoutError) as error:
            late = f"no whole answer in {timeout:g} s"
            return Failure("time_out", late, billed=_arrived(error))
        except openai.APIStatusError as error:
            return self._status(error)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            line = self._line(f"{type(cause).__name__}: {cause}")
            return Failure("no_connection", line, billed=_arrived(error))
        except openai.OpenAIError as error:
            return Failure("rejected", self._line(f"{type(error).__name__}: {error}"))
        return self._without_key(response.http_response.content)

    def _status(self, error: APIStatusError) -> Failure:
        """An HTTP error as a failure."""
        status, body = error.status_code, error.body
        detail = body.get("message") if isinstance(body, Mapping) else body
        code = body.get("code") if isinstance(body, Mapping) else None
        kind: FailureKind = "rejected"
        if status == 429:
            kind = "rate_limited"
        elif status in (408, 409) or status >= 500:
            kind = "server_error"
        elif code == "content_filter":
            kind = "filtered"
        elif _says_too_long(status, body, detail):
            kind = "too_long"
        return Failure(
            kind,
            self._line(f"HTTP {status}: {detail or 'without a word'}"),
            status=status,
            retry_after=_retry_after(error.response.headers),
            final=status in (401, 402, 404) or code == "insufficient_quota",
        )

    def _line(self, text: str) -> str:
        """One short line without the key."""
        text = " ".join(self._without_key(text.encode()).decode().split())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."

    def _without_key(self, text: bytes) -> bytes:
        """A text or JSON that may repeat the key."""
        if self._key is None or len(self._key) < _SECRET:
            return text
        for written in (self._key, self._key.replace("/", "\\/")):  # as some JSON has it
            text = text.replace(written.encode(), b"***")
        return text


class _Batch:
    """Requests that are asked together."""

    def __init__(
        self,
        client: Client,
        requests: Sequence[Request],
        tolerated: float,
        progress: Progress | None,
        answered: Answered | None,
    ) -> None:
        self.client, self.requests, self.progress = client, requests, progress
        self.answered = answered
        self.most_failures = tolerated * len(requests)
        self.failures = self.done = 0
        self.end: Failure | None = None
        """Why no further request is sent."""
        self.not_before = 0.0
        """The endpoint asked for silence until then, on the monotonic clock."""

    async def run(self) -> list[Completion | Failure]:
        endpoint = self.client.endpoint
        self.slots = asyncio.Semaphore(endpoint.in_flight)
        self.settled = asyncio.Condition()
        async with self.client._opened(endpoint.timeout) as http:
            answers = (self._one(http, *placed) for placed in enumerate(self.requests))
            return await asyncio.gather(*answers)

    async def _one(self, http: AsyncOpenAI, place: int, request: Request) -> Completion | Failure:
        async with self.slots:
            answer = await self._answer(http, request)
        if isinstance(answer, Failure):
            self._failed(answer)
        self.done += 1
        if self.answered is not None:
            self.answered(place, answer)
        if self.progress is not None:
            self.progress(self.done, len(self.requests))
        return answer

    def _failed(self, failure: Failure) -> None:
        """Stop where every other request would fail too, or too many have."""
        self.failures += 1
        if self.end is not None:
            return
        if failure.final or failure.kind == "budget":
            self.end = failure
        elif self.failures > self.most_failures:
            self.end = Failure(
                "given_up",
                f"not asked: {self.failures} of {len(self.requests)} had failed "
                f"({failure.message})",
            )

    async def _answer(self, http: AsyncOpenAI, request: Request) -> Completion | Failure:
        """The answer to a request, sent again where that may help."""
        ledger, sent = self.client.ledger, 0
        while True:
            await self._quiet()
            if failure := self.end or await self._over(request):
                return failure
            ledger.begin(request)
            answer = await self._counted(http, request)
            sent += 1
            if isinstance(answer, Completion):
                return answer
            if self._other_length(answer, request):
                ledger.retried["max_tokens"] += 1
                continue
            wait = self._wait(answer, sent)
            if wait is None:
                return answer
            ledger.retried[answer.kind] += 1
            await asyncio.sleep(wait)

    async def _counted(self, http: AsyncOpenAI, request: Request) -> Completion | Failure:
        """One HTTP request, settled whatever comes of it."""
        answer: Completion | Failure | None = None
        try:
            answer = await self.client._send(http, request)
        finally:
            usage = answer.usage if isinstance(answer, Completion) else None
            billed = answer.billed if isinstance(answer, Failure) else True
            self.client.ledger.settle(request, usage, billed=billed)
        async with self.settled:
            self.settled.notify_all()
        return answer

    async def _over(self, request: Request) -> Failure | None:
        """Waits where requests under way may leave room; the failure where the budget is spent."""
        ledger = self.client.ledger
        async with self.settled:
            await self.settled.wait_for(
                lambda: ledger.exceeded_by(request) is None or not ledger.under_way
            )
        if over := ledger.exceeded_by(request):
            return Failure("budget", f"the budget of {over} is spent")
        return None

    async def _quiet(self) -> None:
        """Waits until the endpoint takes requests again."""
        while (left := self.not_before - time.monotonic()) > 0 and self.end is None:
            await asyncio.sleep(left)

    def _wait(self, failure: Failure, sent: int) -> float | None:
        """Seconds until the request is sent again; None where it is not."""
        if not failure.passes or sent > RETRIES or self.end is not None:
            return None
        asked = failure.retry_after
        if asked is None:
            backoff = min(FIRST_WAIT * 2 ** (sent - 1), LONGEST_WAIT)
            return backoff * (1 - self.client._random.random() / 4)
        if asked > LONGEST_RETRY_AFTER:
            return None
        self.not_before = max(self.not_before, time.monotonic() + asked)
        return 0.0

    def _other_length(self, failure: Failure, request: Request) -> bool:
        """Whether the request must go again under the other name of its length."""
        client, other = self.client, "max_completion_tokens"
        if client._length == other or failure.kind != "rejected" or other not in failure.message:
            return False
        client._length = other
        return True


def _sendable(value: Any) -> Any:
    """A text without halves of surrogate pairs, which cannot be sent; other values as they are."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _parsed(parse: Callable[[bytes], Any], body: bytes | Failure) -> Any:
    """What a body holds; a failure where there is none, or it is something else."""
    if isinstance(body, Failure):
        return body
    try:
        return parse(body)
    except ValueError as error:
        page = body.lstrip()[:1] == b"<"
        return Failure("invalid", f"{'an HTML page, ' if page else ''}{error}", billed=True)


def _said(choice: Any) -> bool:
    """Whether a part of a streamed answer holds text."""
    delta = getattr(choice, "delta", None)
    return bool(delta.content if delta is not None else getattr(choice, "text", None))


def _arrived(error: BaseException) -> bool:
    """Whether a request without an answer may have reached the model."""
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


_TOO_LONG = ("context length", "context_length", "context size", "context window", "too long")
"""What OpenAI, vLLM, llama.cpp and others write of a prompt beyond the model's context."""


def _says_too_long(status: int, body: object, detail: object) -> bool:
    """Whether an error says that the model's context does not hold the prompt."""
    if status not in (400, 413, 422):
        return False
    kind = body.get("type") if isinstance(body, Mapping) else None
    said = f"{kind} {detail}".lower()
    return any(words in said for words in _TOO_LONG) or "exceed_context_size" in said


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by `retry-after-ms` or by `Retry-After` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(date.timestamp() - time.time(), 0.0)
