"""Whether a GGUF file in llama.cpp is the model that it was converted from, and if not, why.

Prompts are rendered and tokenised there as for any user's request, and held against the token ids
that were evaluated. Answers and log-probabilities are of those token ids, so that no template is in
the way of what is told of the weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.data.tokenization import encode_text, render
from harness.export.differences import (
    first_difference,
    logprob_differences,
    prompt_difference,
    text_difference,
)
from harness.export.llama_client import Answer, Client, Refused
from harness.models import equivalence
from harness.models.equivalence import NEW_TOKENS, Outputs
from harness.models.language_model import LanguageModel
from harness.system import llama_server
from harness.types import Sample

__all__ = ["Told", "ask", "compare", "scored"]

_SPARE = 8
"""Tokens of a server's context beyond prompt and answer."""
_NEARER = 0.5
"""The base is what the file holds where its log-probabilities are nearer to the file's than this
part of the merged model's distance. An F16 file of the base was 150 times nearer to the base than
to its LoRA, a Q8_0 file 10 times."""
_ROUNDING = 1e-3
"""Nats on average, within which nothing tells a merged model from its base."""

Logprobs = Sequence[Sequence[float]]
"""Nats, one a token of each answer."""


@dataclass(frozen=True)
class Told:
    """What llama.cpp made of a file."""

    answers: tuple[Answer, ...]
    """To the token ids that were evaluated."""
    other_inputs: tuple[str, ...]
    """In what its prompts, their ends and its context differ from the evaluation's."""


def ask(file: Path, model: LanguageModel, samples: Sequence[Sample], own: Outputs) -> Told:
    """Serve a file and ask it what the model was asked. Raises UserError where it is not opened."""
    facts = llama_server.check_file(file)
    context = max(map(len, own.prompts)) + NEW_TOKENS + _SPARE
    with llama_server.running(file, context=context) as address:
        client = Client(address)
        answers = tuple(client.answer(prompt, NEW_TOKENS) for prompt in own.prompts)
        others = [
            *_other_prompts(model, equivalence.fitting(model, samples), own, client),
            *_other_ends(model, facts.eos_id, own.prompts[0], client),
        ]
    if facts.context_length is not None and facts.context_length < model.max_length:
        others.append(
            f"truncated context: the file holds {facts.context_length} tokens, the model "
            f"{model.max_length}"
        )
    return Told(answers, tuple(others))


def scored(model: LanguageModel, own: Outputs, told: Told) -> Logprobs:
    """What a model gives the tokens of llama.cpp's answers, each after what is before it."""
    requests = [(p, answer.ids) for p, answer in zip(own.prompts, told.answers, strict=True)]
    return [score.token_logprobs for score in model.loglikelihood(requests)]


def compare(
    model: LanguageModel, own: Outputs, told: Told, merged: Logprobs, base: Logprobs | None
) -> dict[str, object]:
    """How far a file's answers are from the model's: a verification, as of a merge.

    `merged` and `base` are what the model and the untouched base give those answers, in nats. An
    answer that parts from ours where the model itself prefers its token by no more than both
    tokens may have moved, twice the largest difference, is one of the `ties`, and not changed.
    """
    found = logprob_differences(_pairs(merged, told))
    of_base = None if base is None else logprob_differences(_pairs(base, told))
    said = [_without_end(model, answer) for answer in told.answers]
    parted = [at for at, ids in enumerate(said) if ids != own.answers[at]]
    ties = {
        at
        for at in parted
        if found.largest is not None and _gap(own, said[at], merged[at], at) <= 2 * found.largest
    }
    changed = [at for at in parted if at not in ties]
    return {
        "prompts": len(said),
        "left_out": own.left_out,
        "tokens": found.tokens,
        "largest_difference": found.largest,
        "mean_difference": found.mean,
        "reason": None if found.largest is not None else "a log-probability is not a number",
        "mean_difference_of_base": None if of_base is None else of_base.mean,
        "changed_answers": len(changed),
        "ties": len(ties),
        "changed_share": len(changed) / len(said),
        "changed": [
            {"id": own.ids[at], "before": own.texts[at], "now": model.text(said[at]).strip()}
            for at in changed[: equivalence.SHOWN]
        ],
        "other_inputs": list(told.other_inputs),
        "other_weights": _other_weights(found.mean, None if of_base is None else of_base.mean),
    }


def _pairs(given: Logprobs, told: Told) -> list[tuple[float, float]]:
    return [
        (ours, theirs)
        for row, answer in zip(given, told.answers, strict=True)
        for ours, theirs in zip(row, answer.logprobs, strict=True)
        if theirs is not None
    ]


def _without_end(model: LanguageModel, answer: Answer) -> tuple[int, ...]:
    """An answer's ids up to the first token that ends one."""
    ends = set(model.end_ids)
    until = next((at for at, token in enumerate(answer.ids) if token in ends), len(answer.ids))
    return answer.ids[:until]


def _gap(own: Outputs, said: Sequence[int], given: Sequence[float], which: int) -> float:
    """Nats by which the model prefers its own token where an answer parts from its own.

    Infinite where one of the two has ended there.
    """
    ours = own.answers[which]
    at = first_difference(ours, said)
    if at is None or at >= min(len(ours), len(said)):
        return math.inf
    # `own` scores the references first, then its own answers
    return own.logprobs[len(own.prompts) + which][at] - given[at]


def _other_weights(mean: float | None, base: float | None) -> list[str]:
    if mean is None or base is None or mean <= _ROUNDING or base >= _NEARER * mean:
        return []
    return [
        f"adapter not applied: log-probabilities are {base:.2g} nats from the untouched base's on "
        f"average, and {mean:.2g} from the merged model's"
    ]


def _other_prompts(
    model: LanguageModel, samples: Sequence[Sample], own: Outputs, client: Client
) -> list[str]:
    """Why prompts are read otherwise: each cause once, with its first example and its number."""
    seen: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for sample, ids in zip(samples, own.prompts, strict=True):
        found = _other_prompt(model, sample, ids, client)
        if found is not None:
            cause, example = found
            counts[cause] += 1
            seen.setdefault(cause, f"{example} (sample '{sample.id}'")
    others = [
        f"{cause}: {example}, {counts[cause]} of {len(samples)} prompts)"
        for cause, example in seen.items()
    ]
    plain = _other_beginning(model, own, client)
    return others if plain is None or plain.partition(":")[0] in seen else [*others, plain]


def _other_beginning(model: LanguageModel, own: Outputs, client: Client) -> str | None:
    """Whether BOS is put before a plain text otherwise, as where rendered prompts are sent as text.

    llama.cpp takes a BOS that a template writes away before it adds its own, and so has one.
    """
    bos = model.tokenizer.bos_token_id
    ours = encode_text(model.tokenizer, "a")
    found = prompt_difference(ours, client.tokens("a"), bos)
    if found is None or found.cause == "other tokens":  # the prompts tell of those
        return None
    if found.cause == "BOS added" and any(prompt[:1] == (bos,) for prompt in own.prompts):
        return f"BOS doubled: token {bos} is put before texts that begin with it as evaluated"
    return f"{found.cause}: {found.said} (the text 'a')"


def _other_prompt(
    model: LanguageModel, sample: Sample, ids: Sequence[int], client: Client
) -> tuple[str, str] | None:
    """Why one prompt is read otherwise, and how; None where it is not."""
    bos = model.tokenizer.bos_token_id
    templated = sample.messages and (model.chat_template or model.tokenizer.chat_template)
    if not templated:
        there = client.tokens(sample.question if sample.messages else sample.prompt or "")
    else:
        try:
            text = client.rendered(sample.messages or ())
        except Refused as error:
            return "other chat template", f"llama.cpp cannot use it: {error}"
        there = client.tokens(text)
        difference = _other_text(model, sample, text)
        if there != tuple(ids) and difference is not None:
            return "other chat template", difference
    found = prompt_difference(ids, there, bos)
    return None if found is None else (found.cause, found.said)


def _other_text(model: LanguageModel, sample: Sample, text: str) -> str | None:
    """Where a rendering is another than ours, BOS aside: that is put before it here or there."""
    assert sample.messages is not None
    bos = model.tokenizer.bos_token or ""
    ours = render(model.tokenizer, sample.messages, model.chat_template, generation_prompt=True)
    # a template may write the date of the day, which evaluations fix
    today = model.tokenizer.apply_chat_template(
        [dict(message) for message in sample.messages],
        chat_template=model.chat_template,
        add_generation_prompt=True,
        tokenize=False,
    )
    differences = [
        text_difference(own.removeprefix(bos), text.removeprefix(bos)) for own in (ours, str(today))
    ]
    return None if None in differences else differences[0]


def _other_ends(
    model: LanguageModel, eos: int | None, prompt: Sequence[int], client: Client
) -> list[str]:
    """Why answers end elsewhere: at tokens that the file does not know as ends, or names others."""
    named = model.tokenizer.convert_ids_to_tokens
    others = [
        f"stop token missing: answers go on after {named(token)!r} (token {token})"
        for token in model.end_ids
        if not client.ends_at(prompt, token)
    ]
    if eos is not None and eos not in model.end_ids:
        ends = ", ".join(repr(named(token)) for token in model.end_ids)
        others.append(
            f"other end token: the file names {named(eos)!r}, where answers end at {ends}"
        )
    return others
