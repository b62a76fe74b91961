"""A model in this process as a judge's backend: verdicts are read, none is generated."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.api.judge import Question, Reply
from harness.api.model import LogLikelihood, Model, Progress, Request
from harness.evaluation.judging.prompts import encode_continuations, without_special_tokens

__all__ = ["LocalBackend"]


class LocalBackend:
    """Reads the probability of every choice, as in G-Eval (Liu et al. 2023, arXiv 2303.16634).

    One pass over all questions computes each beginning that several share once. Nothing is sampled,
    so a question has the same reply each time it is asked. It is a `JudgeBackend`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._asked = 0
        self._missing: Counter[str] = Counter()

    def ask(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Reply]:
        """The weights of each question's choices, in the questions' order.

        `missing` is `not_finite` where the model's log-probabilities are not, and `truncated`,
        with weights, where the question lost its beginning to fit the model's length. `progress`
        counts choices. Raises UserError where the model has no chat template.
        """
        if not questions:
            return []
        requests = [self._requests(question) for question in questions]
        scores = iter(self.model.loglikelihood([*itertools.chain(*requests)], progress))
        replies = [
            _reply(question, own, list(itertools.islice(scores, len(own))))
            for question, own in zip(questions, requests, strict=True)
        ]
        self._asked += len(replies)
        self._missing.update(reply.missing for reply in replies if reply.missing)
        return replies

    def info(self) -> Mapping[str, Any]:
        """`backend`, `model`, and the questions that were asked and had no verdict so far."""
        return {
            "backend": "local",
            "model": self.model.name,
            "asked": self._asked,
            "missing": dict(self._missing),
        }

    def _requests(self, question: Question) -> list[Request]:
        """One for each choice, which a space parts from what the answer begins with."""
        space = " " if question.start and not question.start[-1].isspace() else ""
        texts = [f"{space}{choice}" for choice in question.choices]
        messages = question.messages
        if question.literal:
            messages = without_special_tokens(self.model, messages)
        return encode_continuations(self.model, messages, texts, start=question.start)


def _reply(
    question: Question, requests: Sequence[Request], scores: Sequence[LogLikelihood]
) -> Reply:
    if not all(math.isfinite(score.logprob) for score in scores):
        return Reply(None, "not_finite")
    tokens = [tuple(continuation) for _, continuation in requests]
    weights = _weights(tokens, [score.logprob for score in scores])
    cut = any(score.cut for score in scores)
    return Reply(
        dict(zip(question.choices, weights, strict=True)), missing="truncated" if cut else None
    )


def _weights(tokens: Sequence[tuple[int, ...]], logprobs: Sequence[float]) -> list[float]:
    """Probability of each choice, without what goes on to a longer one.

    Where `10` is written as `1` and `0`, the probability of `1` holds that of `10`.
    """
    whole = [math.exp(logprob) for logprob in logprobs]
    weights = list(whole)
    for longer, probability in zip(tokens, whole, strict=True):
        begun = [i for i, short in enumerate(tokens) if _begins(short, longer)]
        if begun:  # the longest of them alone: its own beginnings hold it already
            nearest = max(begun, key=lambda i: len(tokens[i]))
            weights[nearest] = max(0.0, weights[nearest] - probability)
    return weights


def _begins(short: tuple[int, ...], longer: tuple[int, ...]) -> bool:
    return len(short) < len(longer) and longer[: len(short)] == short
