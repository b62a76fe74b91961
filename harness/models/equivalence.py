"""Whether two models are the same one: what they answer, what they think likely, how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.data.tokenization import encode_prompt
from harness.errors import UserError
from harness.models.inference.generation import Ending, greedy
from harness.models.language_model import LanguageModel
from harness.system.measure import StepClock
from harness.types import Sample

NEW_TOKENS = 32
"""Of an answer, and of a run that is timed."""
TIMED = 3
"""Prompts that are timed."""
SHOWN = 3
"""Changed answers that are told in full."""


@dataclass(frozen=True)
class Said:
    """What a model said of some prompts."""

    ids: tuple[str, ...]
    """Of the samples."""
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    """Greedy ones, as token ids."""
    texts: tuple[str, ...]
    scored: tuple[tuple[int, ...], ...]
    """Continuations that were scored, two a prompt: the reference and the first model's answer."""
    logprobs: tuple[tuple[float, ...], ...]
    """Nats, one a token of `scored`."""
    end_ids: tuple[int, ...]
    left_out: int
    """Samples too long for the model."""
    seconds_per_token: tuple[float, ...]
    """One a timed prompt: greedy, one sequence at a time, reading the prompt left out."""


def listen(model: LanguageModel, samples: Sequence[Sample], after: Said | None = None) -> Said:
    """What an open LanguageModel says; with `after` to what that one was asked.

    Raises UserError where no sample fits into the model's length.
    """
    prompts = [tuple(_prompt(model, sample)) for sample in samples]
    fits = [len(p) + NEW_TOKENS < model.max_length for p in prompts]
    asked = [(s, p) for s, p, fit in zip(samples, prompts, fits, strict=True) if fit]
    if not asked:
        raise UserError(
            f"no prompt leaves room for {NEW_TOKENS} tokens in the model's {model.max_length}: "
            "give shorter ones with --prompts FILE"
        )
    inputs = [prompt for _, prompt in asked]
    answers = [a.ids for a in model.generate(inputs, max_new_tokens=NEW_TOKENS)]
    references = [_reference(model, sample, prompt) for sample, prompt in asked]
    scored = [*references, *answers] if after is None else list(after.scored)
    scores = model.loglikelihood(list(zip([*inputs, *inputs], scored, strict=True)))
    return Said(
        ids=tuple(sample.id for sample, _ in asked),
        prompts=tuple(inputs),
        answers=tuple(answers),
        texts=tuple(model.text(answer).strip() for answer in answers),
        scored=tuple(scored),
        logprobs=tuple(score.token_logprobs for score in scores),
        end_ids=tuple(model.end_ids),
        left_out=len(samples) - len(asked),
        seconds_per_token=_timed(model, inputs[:TIMED]),
    )


def compare(before: Said, now: Said) -> dict[str, Any]:
    """How far `now` is from `before`.

    `largest_difference` and `mean_difference` are of the log-probability of a token, in nats;
    None with a `reason` where one is not finite. `other_inputs` says what was not even asked alike.
    """
    pairs = [
        (a, b)
        for one, other in zip(before.logprobs, now.logprobs, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    distances = [abs(a - b) for a, b in pairs]
    broken = sum(not math.isfinite(distance) for distance in distances)
    changed = [i for i, answer in enumerate(before.answers) if answer != now.answers[i]]
    return {
        "prompts": len(before.prompts),
        "left_out": before.left_out,
        "tokens": len(pairs),
        "largest_difference": None if broken else max(distances, default=0.0),
        "mean_difference": None if broken else sum(distances) / max(1, len(distances)),
        "reason": f"{broken} of {len(pairs)} log-probabilities are not finite" if broken else None,
        "changed_answers": len(changed),
        "changed_share": len(changed) / len(before.answers),
        "changed": [
            {"id": before.ids[i], "before": before.texts[i], "now": now.texts[i]}
            for i in changed[:SHOWN]
        ],
        "other_inputs": _other_inputs(before, now),
    }


def _other_inputs(before: Said, now: Said) -> list[str]:
    told = []
    if before.prompts != now.prompts:
        told.append("the tokenizer or the chat template gives other tokens")
    if before.end_ids != now.end_ids:
        told.append(f"answers end at {list(now.end_ids)} instead of {list(before.end_ids)}")
    return told


def _prompt(model: LanguageModel, sample: Sample) -> list[int]:
    """As it was evaluated; a conversation as its last question where there is no template."""
    if sample.messages and not (model.chat_template or model.tokenizer.chat_template):
        sample = Sample(sample.id, prompt=sample.question)
    return encode_prompt(model.tokenizer, sample, model.chat_template)


def _reference(model: LanguageModel, sample: Sample, prompt: Sequence[int]) -> tuple[int, ...]:
    """Cut to the model's length; none is no token."""
    ids = model.tokenizer(sample.reference or "", add_special_tokens=False)["input_ids"]
    return tuple(ids[: model.max_length - len(prompt)])


def _timed(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Seconds of each further token after the first, which has the prompt to read."""
    clock = StepClock()
    for prompt in prompts:
        for tokens in (1, 1 + NEW_TOKENS):
            clock.begin()
            greedy(
                model.model,
                [prompt],
                Ending(frozenset(), tokens),
                limit=model.limit,
                share=model.not_shared is None,
                pad=model.padding_token,
            )
            clock.end()
    first, whole = clock.seconds[::2], clock.seconds[1::2]
    return tuple((b - a) / NEW_TOKENS for a, b in zip(first, whole, strict=True))


def latency(unmerged: Said, merged: Said) -> dict[str, Any]:
    """Seconds a token of both, the median over the timed prompts; `ratio` is merged to unmerged."""
    both = {"unmerged": unmerged.seconds_per_token, "merged": merged.seconds_per_token}
    middle = {name: median(seconds) for name, seconds in both.items()}
    return {
        "unit": "seconds a token, greedy, one sequence, the prompt left out",
        **{k: {"median": middle[k], "runs": list(both[k])} for k in both},
        "ratio": middle["merged"] / middle["unmerged"],
    }
