"""Greedy answers where prefixes are not shared: by transformers' `generate`, or token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from harness.api.model import Generation
from harness.errors import is_out_of_memory
from harness.models.inference.forward import nearly_equal, padded_states
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.steps import NOT_FINITE, likeliest
from harness.models.inference.lm_head import Head, unwrapped
from harness.models.inference.rope import LengthRope
from harness.models.inference.virtual_tokens import virtual_tokens

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

PROBE_TOKENS = 4
"""Tokens of a test of `generate`: the first by a pass over the prompt, the others by a cache."""


def transformers_answers(
    model: CausalLM, prompts: Sequence[Sequence[int]], ending: Ending, pad: int
) -> list[Generation]:
    """Answers of transformers' `generate` to one batch of prompts, padded on the left."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    width = max(map(len, prompts))
    ids, mask = _padded_left(prompts, pad)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=ending.max_new_tokens,
        eos_token_id=sorted(ending.tokens),
        pad_token_id=pad,
    )

    ends: dict[int, int] = {}
    """Per row whose logits stopped being finite, the tokens that it had by then."""

    def record_nonfinite(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        for row in (~logits.amax(dim=-1).isfinite()).nonzero().flatten().tolist():
            ends.setdefault(row, ids.shape[1] - width)
        return logits

    def stopped(ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        stops = [ending.met(row) for row in ids[:, width:].tolist()]
        return torch.tensor(stops, device=ids.device)

    with torch.inference_mode():
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stopped] if ending.stops else []),
            logits_processor=LogitsProcessorList([record_nonfinite]),
        )
    rows = out[:, width:].tolist()
    return [_answer(row, ending, ends.get(i)) for i, row in enumerate(rows)]


def _padded_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(prompts, longest) token ids, padded on the left, and the mask of the real tokens."""
    import torch

    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


_strategies: WeakKeyDictionary[CausalLM, str] = WeakKeyDictionary()


def generate_strategy(model: CausalLM, pad: int) -> str:
    """How `generate` gives the same answers as the forward pass; tested once a model.

    `padded` in batches of any lengths, `equal` in batches of equal length, `whole` not at all.
    """
    inner = unwrapped(model)
    if inner not in _strategies:
        size = int(inner.get_input_embeddings().weight.shape[0])
        rows = [[(3 + 7 * i * i + 5 * n) % size for i in range(n)] for n in (5, 13)]
        rows = [[token if token != pad else (pad + 1) % size for token in row] for row in rows]
        if _generates(inner, rows, pad):
            _strategies[inner] = "padded"
        elif all(_generates(inner, [row] * 2, pad) for row in rows):
            _strategies[inner] = "equal"
        else:
            _strategies[inner] = "whole"
    return _strategies[inner]


def _generates(inner: CausalLM, prompts: Sequence[Sequence[int]], pad: int) -> bool:
    """Whether `generate` takes tokens by the logits of forward passes over all before them."""
    import torch
    from transformers import GenerationConfig

    ids, mask = _padded_left(prompts, pad)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=PROBE_TOKENS,
        pad_token_id=pad,
        output_logits=True,
        return_dict_in_generate=True,
    )
    head = Head(inner)
    try:
        with torch.inference_mode():
            out = inner.generate(
                input_ids=ids.to(inner.device),
                attention_mask=mask.to(inner.device),
                generation_config=config,
            )
            for row, prompt in enumerate(prompts):
                new = out.sequences[row, ids.shape[1] :].tolist()
                states = padded_states(inner, [[*prompt, *new]])[0]
                expected = head.logits(states[len(prompt) - 1 : -1])
                chosen = torch.stack([step[row] for step in out.logits]).float()
                if not nearly_equal(chosen, expected, inner.dtype):
                    return False
    except Exception as error:  # whatever an unknown architecture raises
        if is_out_of_memory(error):
            raise
        return False
    return True


def answers_by_whole_passes(
    model: CausalLM, prompts: Sequence[Sequence[int]], ending: Ending, rope: LengthRope | None
) -> list[Generation]:
    """Prompts of equal length, a forward pass over all tokens so far for each new one."""
    import torch

    head = Head(model)
    virtual = virtual_tokens(model)
    done: dict[int, Generation] = {}
    answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    while answers:
        if rope is not None:
            rope.reset()
        with torch.inference_mode():
            sequences = [[*prompts[number], *ids] for number, ids in answers.items()]
            logits = head.logits(padded_states(model, sequences, virtual)[:, -1])
            tokens = likeliest(logits)[0].tolist()
        for (number, ids), token in zip(list(answers.items()), tokens, strict=True):
            answer = ending.take(ids, token)
            if answer is not None:
                done[number] = answer
                del answers[number]
    return [done[number] for number in range(len(prompts))]


def _answer(ids: Sequence[int], ending: Ending, finite_count: int | None) -> Generation:
    """The answer in `ids`, of which the first `finite_count` came from finite logits (None:
    all)."""
    taken: list[int] = []
    for i, token in enumerate(ids):
        answer = ending.take(taken, NOT_FINITE if i == finite_count else token)
        if answer is not None:
            return answer
    return Generation(tuple(taken), capped=True)
