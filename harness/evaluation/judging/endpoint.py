"""A judge behind an OpenAI-compatible endpoint: its settings in a suite, and how it is asked.

With log-probabilities a question is one request at temperature 0, and the verdict's weights are
the probabilities of the first token that says something. Without them it is asked several times,
and the weights are the shares of the answers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from harness.api.judge import NoVerdict, Question, Reply
from harness.api.model import Progress
from harness.api.task import Suite
from harness.config.endpoint_settings import BaseUrl, BudgetSettings, KeyName, PriceSettings
from harness.config.strict_yaml import StrictModel
from harness.errors import CellFailed, UserError
from harness.evaluation.judging.kept_verdicts import Kept, KeptVerdicts
from harness.evaluation.judging.verdicts import MOST_MISSING
from harness.system.endpoint.client import Client, Endpoint
from harness.system.endpoint.completion import ChatRequest, Choice, Completion, Failure, Position

__all__ = [
    "NOT_SAID",
    "PROTOCOL",
    "EndpointBackend",
    "EndpointSettings",
    "backend_of",
    "identity_of",
    "warnings",
]

PROTOCOL = 1
"""Part of a suite's hash: raised with every change of what is sent and how a verdict is read."""

TOP_LOGPROBS = (20, 5)
"""So many of the likeliest tokens are asked for: the most that OpenAI gives, then what older
servers give."""

TRIES = 3
"""Questions that may stay without an answer before the first that has one; each is sent again as
often as the client does that."""

NOT_SAID = "not said"
"""In place of the name of a model that answered."""

TEMPERATURE = 1.0
"""Of the samples that stand in for log-probabilities: their shares then estimate the same."""


class EndpointSettings(StrictModel):
    """An OpenAI-compatible endpoint whose model judges."""

    url: BaseUrl
    """The base URL, such as https://api.openai.com/v1."""
    model: str = Field(min_length=1)
    """As the endpoint lists it."""
    key: KeyName | None = "OPENAI_API_KEY"
    """NAME of the environment variable with the key; null for a server that asks for none."""
    in_flight: int = Field(16, ge=1, le=1000)
    """Requests under way at once."""
    timeout: float = Field(60.0, gt=0)
    """Seconds for one answer."""
    samples: int = Field(5, ge=1, le=128)
    """Answers to each question where the endpoint gives no log-probabilities."""
    max_tokens: int = Field(8, ge=1)
    """Of an answer; a model that reasons before it answers needs hundreds."""
    model_answered: str | None = Field(default=None, min_length=1)
    """The model that must answer, by the endpoint's own word, where `model` is an alias."""
    budget: BudgetSettings = BudgetSettings()
    """The most that one cell may spend."""
    price: PriceSettings | None = None
    """Without it no cost in dollars is known."""

    @property
    def identity(self) -> dict[str, object]:
        """What a verdict depends on, for the suite's hash."""
        scored = self.model_dump(mode="json", include={"url", "model", "samples", "max_tokens"})
        pinned = {"model_answered": self.model_answered} if self.model_answered else {}
        return {**scored, **pinned, "protocol": PROTOCOL}

    def fault_of(self, answered: Iterable[str]) -> str | None:
        """What is wrong with the models that answered, as a sentence; None where nothing is."""
        others = [name for name in answered if name != self.model_answered]
        if self.model_answered is None or not others:
            return None
        who = f"the model '{others[0]}' answered"
        if others[0] in ("", NOT_SAID):
            who = "the endpoint does not say which model answered"
        return (
            f"{who}, and model_answered is '{self.model_answered}': ask for that one with `model`, "
            "or correct model_answered"
        )

    def endpoint(self) -> Endpoint:
        """What the client takes."""
        return Endpoint(
            url=self.url,
            model=self.model,
            key=self.key,
            in_flight=self.in_flight,
            timeout=self.timeout,
            budget=self.budget.as_budget(),
            price=self.price.as_price() if self.price else None,
        )


class EndpointBackend:
    """Asks the model of an endpoint (`harness.JudgeBackend`)."""

    def __init__(
        self,
        settings: EndpointSettings,
        most_missing: float,
        kept: KeptVerdicts | None = None,
        *,
        client: Client | None = None,
        temperature: float = TEMPERATURE,
    ) -> None:
        """`most_missing` is the share of questions that may stay without an answer.

        With `kept` no question is asked that has a verdict there. `client` counts what else is
        asked too; `temperature` is that of samples. Raises EnvironmentLack where the key or the
        client library is missing.
        """
        self.temperature = temperature
        self.settings = settings
        self.most_missing = most_missing
        self.kept = kept
        self.client = client or Client(settings.endpoint())
        self._top = list(TOP_LOGPROBS)
        """What is left to try; empty once the endpoint is known to give no log-probabilities."""
        self._together = True
        """Whether the samples of a question may be one request; some servers refuse that."""
        self._answered = False
        """Whether an answer has shown what it gives."""
        self._asked = self._found = 0
        self._verdicts: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._lost_samples = 0
        self._models: Counter[str] = Counter()
        self._last_failure: str | None = None
        self._end: Failure | None = None
        """Why nothing more is sent."""

    def ask(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Reply]:
        """The replies, in the questions' order; one without a verdict says why.

        Raises CellFailed where more of them than `most_missing` get no answer, because the endpoint
        is down or the budget is spent; those left are then not asked.
        """
        self._asked += len(questions)
        known = [self._known(question) for question in questions]
        new = [q for q, reply in zip(questions, known, strict=True) if reply is None]
        fresh = iter(self._ask_new(new, self.most_missing * len(questions), progress))
        replies = [next(fresh) if reply is None else reply for reply in known]
        self._missing.update(reply.missing for reply in replies if reply.missing)
        self._check_answered(replies)
        return replies

    def _known(self, question: Question) -> Reply | None:
        """The reply of an earlier run; None where there is none."""
        found = self.kept.find(question) if self.kept else None
        if found is None:
            return None
        self._found += 1
        self._models[found.model or NOT_SAID] += 1
        self._verdicts[found.by] += 1
        return found.reply

    def _ask_new(
        self, questions: Sequence[Question], most: float, progress: Progress | None
    ) -> list[Reply]:
        """Replies to questions without a verdict; `most` of them may stay without an answer."""
        replies: list[Reply] = []
        # One shows what the endpoint gives, so that no other is sent in vain.
        while not self._answered and len(replies) < min(TRIES, len(questions)):
            replies += self._ask(questions[len(replies) : len(replies) + 1], 1.0, None)
        rest = questions[len(replies) :]
        if not self._answered:
            return replies + [Reply(None, "no_reply")] * len(rest)
        return replies + self._ask(rest, min(1.0, most / max(len(rest), 1)), progress)

    def info(self) -> Mapping[str, Any]:
        """For the record. The key is in none of it, and its variable's name neither."""
        ledger, wanted = self.client.ledger, self.settings.model
        return {
            "backend": "endpoint",
            "url": self.settings.url,
            "model": wanted,
            "model_answered": self.settings.model_answered,
            "answered_by": dict(self._models),
            "protocol": PROTOCOL,
            "asked": self._asked,
            "kept": self._found,
            "verdicts_by": dict(self._verdicts),
            "missing": dict(self._missing),
            "samples": self.settings.samples,
            "temperature": {"logprobs": 0.0, "samples": self.temperature},
            "lost_samples": self._lost_samples,
            "requests": ledger.requests,
            "retried": dict(ledger.retried),
            "failed": dict(self._failures),
            "last_failure": self._last_failure,
            "tokens": {**asdict(ledger.spent), "guessed_requests": ledger.guessed},
            "dollars": ledger.dollars,
        }

    def _check_answered(self, replies: Sequence[Reply]) -> None:
        """Raise CellFailed where too many questions have no answer for a fair picture."""
        lost = sum(reply.missing == "no_reply" for reply in replies)
        if lost <= self.most_missing * len(replies):
            return
        ledger = self.client.ledger
        cost = "" if ledger.dollars is None else f" ({ledger.dollars:.4g} dollars)"
        raise CellFailed(
            f"the judge's endpoint gave no answer to {lost} of {len(replies)} questions "
            f"({self._last_failure}), more than {self.most_missing:.0%}: {ledger.requests} "
            f"requests and {ledger.spent.total} tokens{cost} were spent; {self._mend()}"
        )

    def _mend(self) -> str:
        if self._end is not None and self._end.kind == "budget":
            return "raise the budget of judge.endpoint, or ask less with `limit`"
        return "run it again once the endpoint answers"

    def _ask(
        self, questions: Sequence[Question], tolerated: float, progress: Progress | None
    ) -> list[Reply]:
        """Replies by log-probabilities where there are some, else by samples."""
        replies: dict[int, Reply] = {}
        left = list(range(len(questions)))
        while left and self._top:
            top = self._top[0]
            requests = [self._request(questions[i], top_logprobs=top) for i in left]

            def read(place: int, answer: Completion | Failure, asked: Sequence[int] = left) -> None:
                i = asked[place]
                reply = self._by_logprobs(questions[i], answer)
                if reply is not None:
                    replies[i] = reply
                    self._keep(questions[i], reply, answer, "logprobs")

            answers = self._complete(requests, tolerated, progress, read)
            left = [i for i in left if i not in replies]
            if any(isinstance(answer, Completion) for answer in answers):
                self._answered = True
                if len(left) == len(answers):  # it leaves them out without a word
                    self._top.clear()
                break
            if left:  # refused as such
                self._top.pop(0)
        replies |= self._by_samples([(i, questions[i]) for i in left], tolerated, progress)
        return [replies[i] for i in range(len(questions))]

    def _keep(
        self, question: Question, reply: Reply, answer: Completion | Failure, by: str
    ) -> None:
        """Keep a verdict for a later run, unless it is none or another model's than is pinned."""
        if self.kept is None or reply.missing or not reply.weights:
            return
        model = answer.model if isinstance(answer, Completion) else ""
        if self.settings.fault_of([model]) is None:
            self.kept.keep(question, Kept(reply.weights, reply.text, model, by))

    def _complete(
        self,
        requests: Sequence[ChatRequest],
        tolerated: float,
        progress: Progress | None,
        read: Callable[[int, Completion | Failure], None],
    ) -> list[Completion | Failure]:
        """The answers, with who gave them and why some are missing kept for the record.

        `read(place, answer)` is called for each as it comes. Raises UserError where another model
        answered than is pinned.
        """
        if self._end is not None:
            for place in range(len(requests)):
                read(place, self._end)
            return [self._end] * len(requests)
        answers = self.client.complete(
            requests, tolerated=tolerated, progress=progress, answered=read
        )
        for answer in answers:
            if isinstance(answer, Completion):
                self._models[answer.model or NOT_SAID] += 1
            else:
                self._failures[answer.kind] += 1
                if answer.kind != "given_up":
                    self._last_failure = answer.message
                if answer.final or answer.kind == "budget":
                    self._end = answer
        if fault := self.settings.fault_of(self._models):
            raise UserError(f"the judge's endpoint: {fault}")
        return answers

    def _request(self, question: Question, **how: Any) -> ChatRequest:
        return ChatRequest(_messages(question), max_tokens=self.settings.max_tokens, **how)

    def _by_logprobs(self, question: Question, answer: Completion | Failure) -> Reply | None:
        """None where the endpoint gives no log-probabilities for it."""
        if isinstance(answer, Failure):
            return None if _lacks_logprobs(answer) else _no_reply(answer)
        choice = answer.choices[0]
        if choice.refused:
            return Reply(None, "refused", choice.text)
        if not choice.positions:
            return None if choice.text.strip() else Reply(None, _nothing(choice), choice.text)
        weights = first_token_weights(choice.positions, question.choices)
        if not math.isfinite(sum(weights.values())):
            return Reply(None, "not_finite", choice.text)
        if not any(weights.values()):
            return Reply(None, _no_verdict(choice), choice.text)
        self._verdicts["logprobs"] += 1
        return Reply(weights, text=choice.text)

    def _by_samples(
        self,
        questions: Sequence[tuple[int, Question]],
        tolerated: float,
        progress: Progress | None,
    ) -> dict[int, Reply]:
        """Index -> the shares of the verdicts among samples."""
        if not questions:
            return {}
        wanted, how = self.settings.samples, {"temperature": self.temperature}
        got: list[list[Choice]] = [[] for _ in questions]
        failures: list[Failure | None] = [None] * len(questions)

        def ask(places: Sequence[int], samples: int) -> None:
            def read(place: int, answer: Completion | Failure) -> None:
                at = places[place]
                if isinstance(answer, Failure):
                    failures[at] = answer
                    return
                got[at] += answer.choices[:samples]
                if len(got[at]) == wanted:
                    question = questions[at][1]
                    self._keep(question, _shares(question, got[at]), answer, "samples")

            requests = [self._request(questions[at][1], samples=samples, **how) for at in places]
            self._complete(requests, tolerated, progress, read)

        if self._together and wanted > 1:
            ask(range(len(questions)), wanted)
            rejected = any(failure and failure.kind == "rejected" for failure in failures)
            # others give one answer whatever `n` says
            self._together = not rejected and all(len(of) in (0, wanted) for of in got)
        hopeless = [failure is not None and failure.kind != "rejected" for failure in failures]
        alone = [
            at
            for at, choices in enumerate(got)
            if not hopeless[at]
            for _ in range(wanted - len(choices))
        ]
        ask(alone, 1)
        self._answered |= any(got)
        return {
            i: self._share(question, choices, failure)
            for (i, question), choices, failure in zip(questions, got, failures, strict=True)
        }

    def _share(
        self, question: Question, choices: Sequence[Choice], failure: Failure | None
    ) -> Reply:
        """The shares among samples; those that are no verdict count in what they are shares of."""
        if not choices:
            assert failure is not None
            return _no_reply(failure)
        self._lost_samples += self.settings.samples - len(choices)
        reply = _shares(question, choices)
        if reply.missing is None:
            self._verdicts["samples"] += 1
        return reply


def _shares(question: Question, choices: Sequence[Choice]) -> Reply:
    """The share of each verdict among the answers to one question."""
    verdicts = [None if c.refused else verdict(c.text, question) for c in choices]
    text = "\n".join(choice.text for choice in choices)
    said = Counter(verdict for verdict in verdicts if verdict is not None)
    if not said:
        why = Counter("refused" if c.refused else _no_verdict(c) for c in choices)
        (missing, _), *_ = why.most_common()
        return Reply(None, missing, text)
    return Reply({word: said[word] / len(choices) for word in question.choices}, text=text)


def identity_of(settings: Mapping[str, object]) -> dict[str, object]:
    """What a verdict depends on, of an endpoint's settings as plain data."""
    return EndpointSettings.model_validate(settings).identity


def backend_of(suite: Suite, *, keeping: bool = False) -> EndpointBackend:
    """What answers the judge of a suite that names an endpoint.

    With `keeping` its verdicts stay in the cache and those that are there are not asked again.
    Raises EnvironmentLack where the key or the client library is missing.
    """
    judge = suite.settings["judge"]
    assert isinstance(judge, Mapping)
    settings = EndpointSettings.model_validate(suite.judge_endpoint)
    kept = KeptVerdicts(settings.identity) if keeping else None
    return EndpointBackend(settings, float(judge.get("max_missing", MOST_MISSING)), kept)


def warnings(suite: str, info: Mapping[str, Any]) -> list[str]:
    """A line where other models answered than was asked; a dated name of the same is none."""
    asked, answered = info["model"], [name for name in info["answered_by"] if name != NOT_SAID]
    expected = info["model_answered"] or asked
    if len(answered) < 2 and all(name.startswith(expected) for name in answered):
        return []
    return [
        f"suite '{suite}': the judge '{asked}' was asked, and {' and '.join(answered)} answered"
    ]


def first_token_weights(positions: Sequence[Position], choices: Sequence[str]) -> dict[str, float]:
    """Probability of each choice by the first token that says something.

    Variants such as `4` and ` 4` add up, and so do the ways over leading blank tokens, each with
    its own probability. A token that begins one choice alone counts for it (`Y` for `Yes`). Tokens
    that are not among the likeliest count for nothing.
    """
    weights = dict.fromkeys(choices, 0.0)
    way = 1.0
    for position in positions:
        for token, logprob in position.top or ((position.token, position.logprob),):
            choice = _begun(token.strip(_BLANK), choices)
            if choice is not None:
                weights[choice] += way * _probability(logprob)
        if position.token.strip(_BLANK):
            break
        way *= _probability(position.logprob)
    return weights


_BLANK = " \t\r\n\u2581\u0120\u010a"
"""White space, and what tokenizers write for it where a server gives raw tokens."""


def _probability(logprob: float) -> float:
    return math.exp(min(logprob, 0.0))  # NaN stays NaN


def _begun(token: str, choices: Sequence[str]) -> str | None:
    """The choice that the token is, or that it alone begins."""
    if not token:
        return None
    if token in choices:
        # `1` is also how `10` may begin: what follows is not known
        return token
    begun = [choice for choice in choices if choice.startswith(token)]
    return begun[0] if len(begun) == 1 else None


def verdict(text: str, question: Question) -> str | None:
    """The choice that an answer is, and nothing beside it but its start and a full stop."""
    said = text.strip()
    said = said.removeprefix(question.start.strip()).strip() if question.start else said
    said = said.removesuffix(".").strip()
    return said if said in question.choices else None


_CHAT_MARK = re.compile(
    r"(<)(\|[\w \-]*\|>|/?s>|(?:start|end)_of_turn>)|(\[)(/?INST\])", re.IGNORECASE
)
"""What tells turns apart in the templates of common families: a text that spells it must not end a
turn, and which template an endpoint has is not known."""


def _messages(question: Question) -> list[Mapping[str, str]]:
    """The question, and what an answer may be: an endpoint cannot be given an answer's start."""
    messages = list(question.messages)
    if question.literal:
        messages = [{**m, "content": _without_marks(m["content"])} for m in messages]
    *before, last = messages
    ask = f"Answer with one of these and nothing else: {', '.join(question.choices)}."
    return [*before, {**last, "content": f"{last['content']}\n\n{ask}"}]


def _without_marks(text: str) -> str:
    """A space parts what would be a mark."""
    return _CHAT_MARK.sub(lambda found: f"{found[1] or found[3]} {found[2] or found[4]}", text)


def _lacks_logprobs(failure: Failure) -> bool:
    """Whether a request was refused for what samples do without."""
    words = ("logprobs", "temperature")
    return failure.kind == "rejected" and any(word in failure.message for word in words)


def _no_reply(failure: Failure) -> Reply:
    return Reply(None, "refused" if failure.kind == "filtered" else "no_reply", failure.message)


def _nothing(choice: Choice) -> NoVerdict:
    """Why an answer without text has none: a model that reasons may have used up its tokens."""
    return "truncated" if choice.finish_reason == "length" else "empty"


def _no_verdict(choice: Choice) -> NoVerdict:
    """Why an answer is no verdict."""
    if not choice.text.strip():
        return _nothing(choice)
    return "truncated" if choice.finish_reason == "length" else "unparseable"
