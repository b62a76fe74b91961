"""Multiple choice by letters, for a model that gives no log-probabilities of whole texts.

The choices are listed behind letters and the model is asked for one, whose probability is read off
the first token of its answer. This is another question than which continuation is likeliest, so a
suite that is asked so has another hash.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.api.judge import Question, Reply
from harness.api.model import LogLikelihood, Progress, Request
from harness.errors import UserError
from harness.evaluation.judging.endpoint import (
    EndpointBackend,
    EndpointSettings,
    first_token_weights,
)
from harness.system.endpoint.completion import Completion, Failure, TextRequest
from harness.types import Message, SuiteResult

if TYPE_CHECKING:
    from harness.evaluation.served.model import ServedModel

__all__ = ["LEAST", "loglikelihood", "without_lengths"]

LEAST = 1e-10
"""Probability of a letter that is not among the likeliest tokens which the server names."""
_TOP = 5
"""Likeliest tokens that are asked for in a text completion, the most that OpenAI's form gives."""
_TOKENS = 8
"""Of an answer: a letter, and blanks or words around it."""
_BY_LENGTH = frozenset({"acc_norm", "acc_bytes", "acc_mutual_info"})
"""Metrics that weigh the log-probability of a whole continuation, which a letter has not."""


@dataclass(frozen=True)
class _Choices:
    """A question with its choices."""

    context: Sequence[int]
    texts: tuple[str, ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """What stands for each choice: itself where it is a letter."""
        if all(len(text) == 1 and text in string.ascii_uppercase for text in self.texts):
            return self.texts
        return tuple(string.ascii_uppercase[: len(self.texts)])

    @property
    def listed(self) -> str:
        """The choices behind letters, one a line; empty where the question lists them itself."""
        if self.letters == self.texts:
            return ""
        pairs = zip(self.letters, self.texts, strict=True)
        return "".join(f"\n{letter}. {text}" for letter, text in pairs)


def loglikelihood(
    model: ServedModel, requests: Sequence[Request], most_missing: float, progress: Progress | None
) -> list[LogLikelihood]:
    """For each choice the log-probability of its letter; NaN where the server gave none.

    Consecutive requests with one context are the choices of one question. Raises UserError for a
    request that is alone, which is no choice.
    """
    asked = list(_questions(model, requests))
    chat = model.settings.form == "chat"
    replies = (_by_chat if chat else _by_text)(model, asked, most_missing, progress)
    scores = (_scores(one, reply) for one, reply in zip(asked, replies, strict=True))
    return list(itertools.chain.from_iterable(scores))


def _left_out(metric: str) -> bool:
    """Whether a letter's probability says nothing of a metric."""
    return metric.rpartition(".")[2] in _BY_LENGTH


def without_lengths(result: SuiteResult) -> SuiteResult:
    """A result without the metrics that a letter's probability says nothing of."""
    rows = [
        {**row, "scores": {k: v for k, v in row["scores"].items() if not _left_out(k)}}
        for row in result.rows
    ]
    metrics = [metric for metric in result.metrics if not _left_out(metric.name)]
    return replace(result, rows=rows, metrics=metrics)


def _questions(model: ServedModel, requests: Sequence[Request]) -> Iterator[_Choices]:
    for context, same in itertools.groupby(requests, key=lambda request: tuple(request[0])):
        texts = tuple(model.text(continuation).strip() for _, continuation in same)
        if len(texts) < 2 or len(set(texts)) < len(texts):
            raise UserError(
                f"'{model.name}' gives no log-probabilities of texts, and what the suite asks is "
                "no choice between continuations of one question: leave the suite out, or set "
                "prompt_logprobs for a server that gives them (vLLM)"
            )
        if len(texts) > len(string.ascii_uppercase):
            raise UserError(f"a question has {len(texts)} choices, more than there are letters")
        yield _Choices(context, texts)


def _by_chat(
    model: ServedModel, asked: Sequence[_Choices], most_missing: float, progress: Progress | None
) -> list[Reply]:
    settings = model.settings
    backend = EndpointBackend(
        EndpointSettings(
            url=model.client.endpoint.url,
            model=str(settings.model),
            key=settings.key,
            in_flight=settings.at_once,
            timeout=settings.timeout,
            samples=1,
            max_tokens=_TOKENS,
        ),
        most_missing,
        client=model.client,
        temperature=0.0,
    )
    questions = [
        Question(_listed(model.conversation(one.context).messages, one.listed), one.letters)
        for one in asked
    ]
    return backend.ask(questions, progress)


def _listed(messages: Sequence[Mapping[str, str]], listed: str) -> list[Message]:
    """The conversation with the choices after its last turn's text."""
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}{listed}"}]


def _by_text(
    model: ServedModel, asked: Sequence[_Choices], most_missing: float, progress: Progress | None
) -> list[Reply]:
    requests = [TextRequest(_prompt(model, one), max_tokens=3, top_logprobs=_TOP) for one in asked]
    answers = model.complete(requests, progress)
    return [_read(one, answer) for one, answer in zip(asked, answers, strict=True)]


def _prompt(model: ServedModel, one: _Choices) -> str | list[int]:
    if not one.listed:
        return model.prompt(one.context)
    text = f"{model.tokenizer.decode(list(one.context))}{one.listed}\nAnswer:"
    return model.prompt(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _read(one: _Choices, answer: Completion | Failure) -> Reply:
    """The letters' weights; where the server names no tokens, the letter that it wrote."""
    if isinstance(answer, Failure):
        return Reply(None, "no_reply", answer.message)
    choice = answer.choices[0]
    if choice.positions:
        return Reply(first_token_weights(choice.positions, one.letters), text=choice.text)
    said = choice.text.strip()[:1]
    if said not in one.letters:
        return Reply(None, "unparseable", choice.text)
    return Reply({letter: float(letter == said) for letter in one.letters}, text=choice.text)


def _scores(one: _Choices, reply: Reply) -> list[LogLikelihood]:
    if reply.weights is None:
        return [LogLikelihood(math.nan, False, (math.nan,), False) for _ in one.texts]
    weights = [max(reply.weights[letter], LEAST) for letter in one.letters]
    most = max(weights)
    return [LogLikelihood(math.log(w), w == most, (math.log(w),), False) for w in weights]
