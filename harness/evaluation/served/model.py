"""A model behind an OpenAI-compatible server, as suites see it."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.api.model import Generation, LogLikelihood, Progress, Request
from harness.config.served_settings import ServedSettings
from harness.data.tokenization import encode_after
from harness.errors import CellFailed, UserError
from harness.evaluation.judging.endpoint import NOT_SAID
from harness.evaluation.served import letters
from harness.evaluation.tasks.sample_rows import NO_ANSWER, NO_LETTER
from harness.models.served import byte_tokenizer, stand_in
from harness.system import llama_server
from harness.system.endpoint.client import Client, Endpoint
from harness.system.endpoint.completion import (
    Call,
    ChatRequest,
    Completion,
    Failure,
    TextRequest,
)
from harness.system.endpoint.spending import Budget
from harness.system.measure import StepClock
from harness.types import Artifact, SuiteResult

__all__ = ["MOST_MISSING", "ServedModel", "open_served", "warnings"]

MOST_MISSING = 0.05
"""The share of prompts that may stay without an answer: they are then missing values."""
STREAMED = 5
"""Prompts that are asked once more, one at a time, for the time to the first token."""


class ServedModel:
    """Asks a server for answers, the letters of choices and, where it gives them, for
    log-probabilities of prompts.

    It is a `harness.Model`. Its token ids are those of the tokenizer in the folder that stands for
    it: of the model whose prompts are sent, or bytes.
    """

    def __init__(self, artifact: Artifact) -> None:
        """Raises EnvironmentLack where the key or the client library is missing."""
        self.reference = artifact.opened
        self.settings = stand_in.settings_of(self.reference)
        self.chat_template = artifact.chat_template
        self.tokenizer = stand_in.load_tokenizer(self.reference)
        self._max_length = (
            byte_tokenizer.MOST
            if self.settings.tokenizer is None
            else stand_in.context_of(self.reference)
        )
        self._opened = ExitStack()
        self.client = Client(endpoint_of(self.settings, self._address()))
        self._answered_by: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._first_token: list[float] = []
        self._clock = StepClock()
        """Of calls that generate."""
        self._generated = 0
        """Tokens, by the server's count."""

    @property
    def name(self) -> str:
        """Its name, and where it is."""
        return self.reference.name

    @property
    def asks_letters(self) -> bool:
        """Whether choices are asked by their letters: it gives no log-probabilities of prompts."""
        return not self.settings.prompt_logprobs

    @property
    def max_length(self) -> int:
        """Of the model whose tokenizer it has; without one the server alone knows."""
        return self._max_length

    @property
    def prefix_token(self) -> int:
        """BOS, else EOS."""
        bos = self.tokenizer.bos_token_id
        return self.end_token if bos is None else int(bos)

    @property
    def end_token(self) -> int:
        """EOS. Raises UserError where the tokenizer has none."""
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise UserError(f"the tokenizer of '{self.name}' has no EOS token: set eos_token")
        return int(eos)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Greedy answers (temperature 0), several under way at once.

        Raises CellFailed where more than MOST_MISSING of the prompts get no answer.
        """
        requests = [self._request(prompt, max_new_tokens, stops) for prompt in prompts]
        self._clock.begin()
        answers = self.complete(requests, progress)
        self._clock.end()
        found = [
            self._generation(answer, request, stops)
            for answer, request in zip(answers, requests, strict=True)
        ]
        self._generated += sum(answer.tokens for answer in found)
        if not self._first_token and self.client.ledger.budget == Budget():
            first = (self.client.first_token_seconds(request) for request in requests[:STREAMED])
            self._first_token = [seconds for seconds in first if seconds is not None]
        return found

    def loglikelihood(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> list[LogLikelihood]:
        """Of token ids by the server's log-probabilities of prompts; else of choices' letters.

        Raises UserError for what a server without such log-probabilities cannot tell, and
        CellFailed where more than MOST_MISSING of the requests get no answer.
        """
        if self.asks_letters:
            return letters.loglikelihood(self, requests, MOST_MISSING, progress)
        room = self.max_length
        asked = [
            TextRequest(
                [*context[-max(1, room - len(continuation)) :], *continuation],
                max_tokens=1,  # servers that refuse 0 are more than those that need it
                top_logprobs=1,
                echo=True,
            )
            for context, continuation in requests
        ]
        answers = self.complete(asked, progress)
        return [
            self._scored(answer, one, len(continuation), len(context) + len(continuation) > room)
            for answer, one, (context, continuation) in zip(answers, asked, requests, strict=True)
        ]

    def told(self, result: SuiteResult) -> SuiteResult:
        """A suite's result in the words of a served model: why a row is missing, and no metric
        that letters say nothing of."""
        result = letters.without_lengths(result) if self.asks_letters else result

        def reason(row: Mapping[str, Any]) -> Mapping[str, Any]:
            lettered = self.asks_letters and "logprobs" in row
            return {**row, "missing": NO_LETTER if lettered else NO_ANSWER}

        rows = [reason(row) if "missing" in row else row for row in result.rows]
        return replace(result, rows=rows)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def info(self) -> Mapping[str, Any]:
        """How it was asked and what that cost, for the record; the key is in none of it."""
        ledger = self.client.ledger
        return {
            "batch": self.settings.at_once,
            "shared_prefixes": False,
            "why_not_shared": "the model is behind a server",
            "served": {
                "url": self.settings.served,
                "gguf": Path(self.settings.gguf).name if self.settings.gguf else None,
                "model": str(self.settings.model),
                "answered_by": dict(self._answered_by),
                "form": self.settings.form,
                "prompt_logprobs": self.settings.prompt_logprobs,
                "in_flight": self.settings.at_once,
                "requests": ledger.requests,
                "retried": dict(ledger.retried),
                "failed": dict(self._failed),
                "tokens": {**asdict(ledger.spent), "guessed_requests": ledger.guessed},
                "dollars": ledger.dollars,
                "seconds_to_first_token": statistics.median(self._first_token)
                if self._first_token
                else None,
                "tokens_per_second": self._generated / sum(self._clock.seconds)
                if self._generated
                else None,
            },
        }

    def close(self) -> None:
        """Stop the server, where this started it."""
        self._opened.close()

    def _address(self) -> str:
        """The base URL; a GGUF file's server is started for it."""
        if self.settings.served is not None:
            return self.settings.served
        settings = self.settings
        running = llama_server.running(
            Path(str(settings.gguf)), context=settings.context, slots=settings.at_once
        )
        return f"{self._opened.enter_context(running)}/v1"

    def conversation(self, ids: Sequence[int]) -> byte_tokenizer.Conversation:
        """The messages that token ids spell; a text that is no conversation is a user's turn."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
        return byte_tokenizer.conversation(text) or byte_tokenizer.Conversation(
            [{"role": "user", "content": text}], []
        )

    def prompt(self, ids: Sequence[int]) -> str | list[int]:
        """What is sent for token ids: these, or their text where they are bytes."""
        if self.settings.tokenizer is not None:
            return list(ids)
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _request(
        self, prompt: Sequence[int], cap: int, stops: Sequence[str]
    ) -> ChatRequest | TextRequest:
        if self.settings.form == "chat":
            asked = self.conversation(prompt)
            return ChatRequest(asked.messages, max_tokens=cap, stops=stops, tools=asked.tools)
        return TextRequest(self.prompt(prompt), max_tokens=cap, stops=stops)

    def complete(
        self, requests: Sequence[ChatRequest | TextRequest], progress: Progress | None
    ) -> list[Completion | Failure]:
        """The answers to requests; CellFailed where more than MOST_MISSING have none."""
        answers = self.client.complete(requests, tolerated=MOST_MISSING, progress=progress)
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        self._failed.update(failure.kind for failure in failures)
        self._answered_by.update(
            answer.model or NOT_SAID for answer in answers if isinstance(answer, Completion)
        )
        if len(failures) > MOST_MISSING * len(answers):
            raise CellFailed(
                f"'{self.name}' gave no answer to {len(failures)} of {len(answers)} requests "
                f"({_reason(failures)}), more than {MOST_MISSING:.0%}: {_mend(failures)}"
            )
        return answers

    def _generation(
        self,
        answer: Completion | Failure,
        request: ChatRequest | TextRequest,
        stops: Sequence[str],
    ) -> Generation:
        """An answer as token ids; one that is missing has none, and says so.

        It is `cut` where the server read fewer tokens than it was sent, as some do in silence.
        """
        if isinstance(answer, Failure):
            return Generation((), capped=False, finite=False)
        choice = answer.choices[0]
        text = choice.text + "".join(map(_written, choice.calls))
        for stop in stops:  # those beyond the few that are sent
            text = text.split(stop)[0]
        ids = encode_after(self.tokenizer, text) if text else []
        usage = answer.usage
        ids_sent = isinstance(request, TextRequest) and not isinstance(request.prompt, str)
        sent = len(request.prompt) if ids_sent else 0  # type: ignore[union-attr]
        return Generation(
            tuple(ids),
            choice.finish_reason == "length",
            cut=usage is not None and 0 < usage.input < sent,
            counted=usage.output if usage else None,
        )

    def _scored(
        self, answer: Completion | Failure, asked: TextRequest, length: int, cut: bool
    ) -> LogLikelihood:
        if isinstance(answer, Failure):
            return LogLikelihood(math.nan, False, (math.nan,) * length, cut)
        places = answer.choices[0].positions or ()
        if len(places) < len(asked.prompt):
            raise UserError(
                f"'{self.name}' gives no log-probabilities of prompts ({len(places)} places for "
                f"{len(asked.prompt)} tokens): leave prompt_logprobs out"
            )
        end = len(asked.prompt)
        own = places[end - length : end]
        values = tuple(place.logprob for place in own)
        if not all(map(math.isfinite, values)):
            return LogLikelihood(math.nan, False, values, cut)
        greedy = all(
            place.logprob >= max((logprob for _, logprob in place.top), default=-math.inf)
            for place in own
        )
        return LogLikelihood(math.fsum(values), greedy, values, cut)


def _written(call: Call) -> str:
    """A call that the server has parsed, as Hermes and Qwen write one, for scorers to read."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    body = json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)
    return f"\n<tool_call>\n{body}\n</tool_call>"


def open_served(artifact: Artifact) -> ServedModel | None:
    """A served model, ready to be asked; None for an artifact of a model in this process."""
    return ServedModel(artifact) if stand_in.is_served(artifact.opened) else None


def endpoint_of(settings: ServedSettings, url: str) -> Endpoint:
    """What the client takes."""
    return Endpoint(
        url=url,
        model=str(settings.model),
        key=settings.key,
        in_flight=settings.at_once,
        timeout=settings.timeout,
        budget=settings.budget.as_budget(),
        price=settings.price.as_price() if settings.price else None,
    )


def warnings(told: Mapping[str, Any]) -> list[str]:
    """A line where another model answered than was asked, by `info()["served"]`."""
    asked, place = told["model"], told["url"] or told["gguf"]
    others = [name for name in told["answered_by"] if name not in (asked, NOT_SAID)]
    if not others or told["gguf"]:  # llama.cpp answers in a name of its own
        return []
    return [f"'{asked}' was asked at {place}, and '{', '.join(sorted(others))}' answered"]


def _reason(failures: Sequence[Failure]) -> str:
    told = [failure.message for failure in failures if failure.kind != "given_up"]
    return told[-1] if told else failures[-1].message


def _mend(failures: Sequence[Failure]) -> str:
    kinds = Counter(failure.kind for failure in failures if failure.kind != "given_up")
    kind = kinds.most_common(1)[0][0] if kinds else "no_connection"
    if kind == "too_long":
        return "start the server with a longer context, or leave the longest questions out"
    if kind == "budget":
        return "raise the budget, or ask less with --limit"
    if kind == "rejected":
        return "correct what the server refuses"
    return "run it again once the server answers: what was measured is kept"
