"""What an OpenAI-compatible endpoint is sent and answers: chat and text completions, typed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from harness.types import Message

__all__ = [
    "Call",
    "ChatRequest",
    "Choice",
    "Completion",
    "Failure",
    "FailureKind",
    "Position",
    "TextRequest",
    "Usage",
    "model_names",
    "parse",
    "parse_text",
]

FailureKind = Literal[
    "rate_limited",
    "server_error",
    "time_out",
    "no_connection",
    "invalid",
    "too_long",
    "rejected",
    "filtered",
    "budget",
    "given_up",
]
"""Why a request has no answer. The first five are tried again; `invalid` is an answer that is no
completion, `too_long` a prompt that the model's context does not hold, `filtered` a question that
the provider's content filter holds back, and after `given_up` nothing was sent, for too many others
had failed."""


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that the model is to go on with."""

    messages: Sequence[Message]
    max_tokens: int
    """The most tokens of one answer."""
    temperature: float = 0.0
    samples: int = 1
    """Answers to the same conversation."""
    top_logprobs: int | None = None
    """So many of the likeliest tokens are asked for at each place; None: no log-probabilities."""
    stops: Sequence[str] = ()
    """The answer ends before one of these."""
    tools: Sequence[Mapping[str, Any]] = ()
    """JSON schemas of what the model may call."""

    @property
    def text_bytes(self) -> int:
        """Of all messages, in UTF-8."""
        return sum(len(m["content"].encode("utf-8", "replace")) for m in self.messages)


@dataclass(frozen=True)
class TextRequest:
    """A text that the model is to go on with, as it is: no template is applied."""

    prompt: str | Sequence[int]
    """Text, or token ids."""
    max_tokens: int
    temperature: float = 0.0
    stops: Sequence[str] = ()
    """The answer ends before one of these."""
    top_logprobs: int | None = None
    """So many of the likeliest tokens are asked for at each place; None: no log-probabilities."""
    echo: bool = False
    """Whether the prompt comes back before the answer, with its log-probabilities."""
    samples: int = 1

    @property
    def text_bytes(self) -> int:
        """Of the prompt in UTF-8; of token ids as many as such texts have on average."""
        if isinstance(self.prompt, str):
            return len(self.prompt.encode("utf-8", "replace"))
        return 3 * len(self.prompt)


Request = ChatRequest | TextRequest


@dataclass(frozen=True)
class Position:
    """A token of an answer, and the likeliest ones in its place."""

    token: str
    logprob: float
    """Nats; -inf where the endpoint gives none."""
    top: tuple[tuple[str, float], ...]
    """(token, nats) of the likeliest tokens; several may have the same text."""


@dataclass(frozen=True)
class Call:
    """A tool that the model calls."""

    name: str
    arguments: str
    """JSON, where the model wrote such."""


@dataclass(frozen=True)
class Choice:
    """One answer."""

    text: str
    finish_reason: str | None
    """`stop`, `length` where it was cut, `content_filter` ..."""
    refused: bool
    """Whether the provider marks it as a refusal or has filtered it."""
    positions: tuple[Position, ...] | None
    """Its tokens with log-probabilities; None where the endpoint gives none."""
    calls: tuple[Call, ...] = ()
    """Tools that it calls, where the server reads calls out of answers."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as they are billed."""

    input: int
    output: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.input + self.output


@dataclass(frozen=True)
class Completion:
    """What came back for one request."""

    choices: tuple[Choice, ...]
    model: str
    """The model that answered, by the endpoint's own word; empty where it does not say."""
    usage: Usage | None
    """None where the endpoint does not say."""


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer."""

    kind: FailureKind
    message: str
    """One line; the key stands in none."""
    status: int | None = None
    """The HTTP status, where there was one."""
    retry_after: float | None = None
    """Seconds that the endpoint asks to wait."""
    billed: bool = False
    """Whether its tokens may be billed all the same: the answer was lost, or was none."""
    final: bool = False
    """Whether every other request would fail alike: a wrong key, an unknown model, no credit."""

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later."""
        return not self.final and self.kind in (
            "rate_limited",
            "server_error",
            "time_out",
            "no_connection",
            "invalid",
        )


def parse(body: bytes) -> Completion:
    """The completion in a response's body. Raises ValueError, in one line, where it is none."""
    answer = _validated(_Body, body, "chat completion")
    return Completion(
        choices=tuple(_choice(choice) for choice in answer.choices),
        model=answer.model or "",
        usage=answer.usage
        and Usage(answer.usage.prompt_tokens or 0, answer.usage.completion_tokens or 0),
    )


def parse_text(body: bytes) -> Completion:
    """The same of a text completion, whose log-probabilities have another form."""
    answer = _validated(_TextBody, body, "text completion")
    return Completion(
        choices=tuple(
            Choice(choice.text or "", choice.finish_reason, False, _text_positions(choice))
            for choice in answer.choices
        ),
        model=answer.model or "",
        usage=answer.usage
        and Usage(answer.usage.prompt_tokens or 0, answer.usage.completion_tokens or 0),
    )


def _text_positions(choice: _TextChoice) -> tuple[Position, ...] | None:
    """OpenAI's parallel lists, or the places of a chat completion, which llama.cpp gives here."""
    found = choice.logprobs
    if found is None:
        return None
    if found.content:
        return _positions(found.content)
    if not found.tokens or not found.token_logprobs:
        return None
    tops = found.top_logprobs or [None] * len(found.tokens)
    return tuple(
        Position(token, _nats(logprob), tuple((t, _nats(v)) for t, v in (top or {}).items()))
        for token, logprob, top in zip(found.tokens, found.token_logprobs, tops, strict=True)
    )


def model_names(body: bytes) -> list[str]:
    """The ids in the body of `/models`. Raises ValueError, in one line, where it is no list."""
    return [model.id for model in _validated(_Models, body, "list of models").data]


def _choice(choice: _Choice) -> Choice:
    message, logprobs = choice.message, choice.logprobs
    positions = _positions(logprobs.content) if logprobs is not None and logprobs.content else None
    return Choice(
        text=message.content or "",
        finish_reason=choice.finish_reason,
        refused=bool(message.refusal) or choice.finish_reason == "content_filter",
        positions=positions,
        calls=tuple(
            Call(call.function.name or "", call.function.arguments or "")
            for call in message.tool_calls or ()
        ),
    )


def _positions(places: Sequence[_Place]) -> tuple[Position, ...]:
    return tuple(
        Position(
            place.token,
            _nats(place.logprob),
            tuple((other.token, _nats(other.logprob)) for other in place.top_logprobs or ()),
        )
        for place in places
    )


def _nats(logprob: float | None) -> float:
    """JSON has no infinity: servers write null for it."""
    return -math.inf if logprob is None else logprob


def _validated(kind: type[Any], body: bytes, what: str) -> Any:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise ValueError(f"no {what} ({at + ': ' if at else ''}{first['msg']})") from None


# The parts of the OpenAI schema that are read; servers leave out what they do not have.


class _Token(BaseModel):
    token: str
    logprob: float | None = None


class _Place(_Token):
    top_logprobs: list[_Token] | None = None


class _Logprobs(BaseModel):
    content: list[_Place] | None = None


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _Call(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    tool_calls: list[_Call] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _TextLogprobs(BaseModel):
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None
    content: list[_Place] | None = None


class _TextChoice(BaseModel):
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _TextLogprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Body(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None


class _TextBody(BaseModel):
    choices: list[_TextChoice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]
