"""Equivalence of two models: their answers, log-probabilities and speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.data.tokenization import encode_prompt
from harness.errors import UserError
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.greedy import greedy
from harness.models.language_model import LanguageModel
from harness.system.measure import StepClock
from harness.types import Sample

NEW_TOKENS = 32
"""Tokens of an answer, and of a timed run."""
TIMED = 3
"""Prompts that are timed."""
SHOWN = 3
"""Changed answers that are reported in full."""


@dataclass(frozen=True)
class Outputs:
    """A model's outputs on some prompts."""

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


def observe(
    model: LanguageModel, samples: Sequence[Sample], reference: Outputs | None = None
) -> Outputs:
    """The outputs of an open LanguageModel; with `reference`, on that one's continuations.

    Raises UserError where no sample fits into the model's length.
    """
    fitted = fitting(model, samples)
    if not fitted:
        raise UserError(
            f"no prompt leaves room for {NEW_TOKENS} tokens in the model's {model.max_length}: "
            "give shorter ones with --prompts FILE"
        )
    inputs = [tuple(_prompt(model, sample)) for sample in fitted]
    answers = [a.ids for a in model.generate(inputs, max_new_tokens=NEW_TOKENS)]
    references = [_reference(model, s, prompt) for s, prompt in zip(fitted, inputs, strict=True)]
    scored = [*references, *answers] if reference is None else list(reference.scored)
    scores = model.loglikelihood(list(zip([*inputs, *inputs], scored, strict=True)))
    return Outputs(
        ids=tuple(sample.id for sample in fitted),
        prompts=tuple(inputs),
        answers=tuple(answers),
        texts=tuple(model.text(answer).strip() for answer in answers),
        scored=tuple(scored),
        logprobs=tuple(score.token_logprobs for score in scores),
        end_ids=tuple(model.end_ids),
        left_out=len(samples) - len(fitted),
        seconds_per_token=_timed(model, inputs[:TIMED]),
    )


def fitting(model: LanguageModel, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that leave room for an answer in the model's length, which `observe` asks."""
    room = model.max_length - NEW_TOKENS
    return [sample for sample in samples if len(_prompt(model, sample)) < room]


def compare(reference: Outputs, candidate: Outputs) -> dict[str, object]:
    """The differences of `candidate` from `reference`.

    `largest_difference` and `mean_difference` are of the log-probability of a token, in nats;
    None with a `reason` where one is not finite. `other_inputs` names inputs that differ.
    """
    pairs = [
        (a, b)
        for reference_row, candidate_row in zip(reference.logprobs, candidate.logprobs, strict=True)
        for a, b in zip(reference_row, candidate_row, strict=True)
    ]
    differences = [abs(a - b) for a, b in pairs]
    nonfinite = sum(not math.isfinite(distance) for distance in differences)
    changed = [i for i, answer in enumerate(reference.answers) if answer != candidate.answers[i]]
    reason = f"{nonfinite} of {len(pairs)} log-probabilities are not finite" if nonfinite else None
    return {
        "prompts": len(reference.prompts),
        "left_out": reference.left_out,
        "tokens": len(pairs),
        "largest_difference": None if nonfinite else max(differences, default=0.0),
        "mean_difference": None if nonfinite else sum(differences) / max(1, len(differences)),
        "reason": reason,
        "changed_answers": len(changed),
        "changed_share": len(changed) / len(reference.answers),
        "changed": [
            {"id": reference.ids[i], "before": reference.texts[i], "now": candidate.texts[i]}
            for i in changed[:SHOWN]
        ],
        "other_inputs": _other_inputs(reference, candidate),
    }


def _other_inputs(reference: Outputs, candidate: Outputs) -> list[str]:
    changes = []
    if reference.prompts != candidate.prompts:
        changes.append("the tokenizer or the chat template gives other tokens")
    if reference.end_ids != candidate.end_ids:
        changes.append(
            f"answers end at {list(candidate.end_ids)} instead of {list(reference.end_ids)}"
        )
    return changes


def _prompt(model: LanguageModel, sample: Sample) -> list[int]:
    """Token ids of the prompt as evaluated; without a template a conversation's last question."""
    if sample.messages and not (model.chat_template or model.tokenizer.chat_template):
        sample = Sample(sample.id, prompt=sample.question)
    return encode_prompt(model.tokenizer, sample, model.chat_template)


def _reference(model: LanguageModel, sample: Sample, prompt: Sequence[int]) -> tuple[int, ...]:
    """Token ids of the reference, cut to the model's length; empty where there is none."""
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
                share=model.packs,
                pad=model.padding_token,
            )
            clock.end()
    first, full = clock.seconds[::2], clock.seconds[1::2]
    return tuple((b - a) / NEW_TOKENS for a, b in zip(first, full, strict=True))


def latency(unmerged: Outputs, merged: Outputs) -> dict[str, object]:
    """Seconds a token of both, the median over the timed prompts; `ratio` is merged to unmerged."""
    durations = {"unmerged": unmerged.seconds_per_token, "merged": merged.seconds_per_token}
    medians = {name: median(seconds) for name, seconds in durations.items()}
    return {
        "unit": "seconds a token, greedy, one sequence, the prompt left out",
        **{k: {"median": medians[k], "runs": list(durations[k])} for k in durations},
        "ratio": medians["merged"] / medians["unmerged"],
    }
