"""Multiple choice: the likeliest continuation of a question is the model's answer."""

from __future__ import annotations

from typing import Any

from harness.asks import Question, cluster
from harness.suite import Suite, samples_of
from harness.types import Metric, SuiteResult


def ask(suite: Suite, model: Any) -> Question:
    """A scored pair for each choice of each sample."""
    samples = samples_of(suite)
    pairs = []
    for sample in samples:
        prompt = suite["prompt"].replace("{question}", sample.question)
        context = model.tokenizer(prompt)["input_ids"]
        for choice in sample.choices or ():
            whole = model.tokenizer(f"{prompt} {choice}")["input_ids"]
            pairs.append((context, whole[len(context) :]))
    return Question(pairs=pairs, keep=samples)


def metrics(suite: Suite) -> list[str] | None:
    """Accuracy, plain and by length."""
    return ["acc", "acc_norm"]


def answer(suite: Suite, question: Question, tools: Any) -> SuiteResult:
    """`acc`: the likeliest choice is right; `acc_norm`: the likeliest per byte of its text."""
    rows, at = [], 0
    for sample in question.keep:
        choices = sample.choices or ()
        logprobs = [s.logprob for s in question.scores[at : at + len(choices)]]
        at += len(choices)
        each = [value / len(c.encode()) for value, c in zip(logprobs, choices, strict=True)]
        best = max(range(len(choices)), key=logprobs.__getitem__)
        normed = max(range(len(choices)), key=each.__getitem__)
        rows.append(
            {
                "id": sample.id,
                "group": sample.group,
                **cluster(suite["cluster"], {"group": sample.group, **sample.extra}, sample.id),
                "prompt": sample.question,
                "reference": choices[sample.answer or 0],
                "output": choices[best],
                "logprobs": logprobs,
                "scores": {
                    "acc": float(best == sample.answer),
                    "acc_norm": float(normed == sample.answer),
                },
            }
        )
    return SuiteResult(rows, [Metric("acc", True, "share"), Metric("acc_norm", True, "share")])
