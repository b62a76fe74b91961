"""Multiple choice: the likeliest continuation of a question is the model's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.api.model import Model
from harness.data.tokenization import Pair, encode_pair
from harness.errors import UserError
from harness.evaluation.suite import Suite, samples_of
from harness.evaluation.tasks.protocol import Question, cluster, missing
from harness.types import Metric, Sample, SuiteResult


def ask(suite: Suite, model: Model) -> Question:
    """A scored pair for each choice of each sample.

    Raises UserError where a choice has no token, or two of a sample have the same.
    """
    samples = samples_of(suite)
    pairs: list[tuple[list[int], list[int]]] = []
    apart = 0
    for sample in samples:
        prompt = suite["prompt"].replace("{question}", sample.question)
        own = [_pair(model.tokenizer, prompt, choice, sample) for choice in sample.choices or ()]
        _check_distinct(own, sample)
        apart += sum(pair.apart for pair in own)
        pairs += [(pair.context, pair.continuation) for pair in own]
    return Question(pairs=pairs, keep=(samples, apart))


def _pair(tokenizer: Any, prompt: str, choice: str, sample: Sample) -> Pair:
    try:
        return encode_pair(tokenizer, prompt, f" {choice}")
    except UserError as error:
        raise UserError(f"sample {sample.id}: {error}") from error


def _check_distinct(pairs: Sequence[Pair], sample: Sample) -> None:
    """Choices of the same tokens have the same probability, and the first would always win."""
    first: dict[tuple[int, ...], str] = {}
    for pair, choice in zip(pairs, sample.choices or (), strict=True):
        known = first.setdefault(tuple(pair.continuation), choice)
        if known != choice:
            raise UserError(
                f"sample {sample.id}: the tokenizer writes the choices {known!r} and {choice!r} "
                "as the same tokens, so the model cannot tell them apart: write them otherwise"
            )


def metrics(suite: Suite) -> list[str] | None:
    """Accuracy, plain and by length."""
    return ["acc", "acc_norm"]


def answer(suite: Suite, question: Question, tools: Any) -> SuiteResult:
    """`acc`: the likeliest choice is right; `acc_norm`: the likeliest per byte of its text."""
    samples, apart = question.keep
    rows, at = [], 0
    for sample in samples:
        choices = sample.choices or ()
        logprobs = [s.logprob for s in question.scores[at : at + len(choices)]]
        at += len(choices)
        each = [value / len(c.encode()) for value, c in zip(logprobs, choices, strict=True)]
        best = max(range(len(choices)), key=logprobs.__getitem__)
        normed = max(range(len(choices)), key=each.__getitem__)
        unanswered = missing(logprobs)
        rows.append(
            {
                "id": sample.id,
                "group": sample.group,
                **cluster(suite["cluster"], {"group": sample.group, **sample.extra}, sample.id),
                "prompt": sample.question,
                "reference": choices[sample.answer or 0],
                "output": None if unanswered else choices[best],
                "logprobs": logprobs,
                **unanswered,
                "scores": {
                    "acc": None if unanswered else float(best == sample.answer),
                    "acc_norm": None if unanswered else float(normed == sample.answer),
                },
            }
        )
    metrics = [Metric("acc", True, "share"), Metric("acc_norm", True, "share")]
    notes = {"encoded_apart": apart} if apart else {}
    warnings = [_joined(apart, len(question.pairs))] if apart else []
    return SuiteResult(rows, metrics, notes, warnings)


def _joined(apart: int, total: int) -> str:
    return (
        f"{apart} of {total} choices begin within a token that also ends the prompt: they were "
        "encoded on their own; a prompt that ends in a line break avoids that"
    )
