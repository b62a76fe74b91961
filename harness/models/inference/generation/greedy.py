"""Greedy answers to prompts, in the way that is right for a model and a prompt's length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api.model import Generation, Progress
from harness.errors import is_out_of_memory
from harness.models.inference.forward import Limit, padded_states
from harness.models.inference.generation.decoding import Ending, decode
from harness.models.inference.generation.transformers_generate import (
    answers_by_whole_passes,
    generate_strategy,
    transformers_answers,
)
from harness.models.inference.lm_head import Head
from harness.models.inference.rope import LengthRope, length_rope
from harness.models.inference.virtual_tokens import virtual_tokens
from harness.system.hardware import free_memory

if TYPE_CHECKING:
    from harness.models.causal_lm import CausalLM

ROWS = 64
"""Answers at once where prefixes are not shared: more is not faster on a CPU."""


def greedy(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    ending: Ending,
    *,
    limit: Limit,
    share: bool,
    pad: int,
    progress: Progress | None = None,
) -> list[Generation]:
    """Greedy answers to prompts given as token ids, in their order.

    With `share` they run in slots, by `decode`. Without it by transformers' `generate`, batched by
    length, in batches of equal length where padding changes a model's answers; where even alone
    they are not those of its forward pass, each token takes a pass over all before it. What runs
    out of memory is halved.
    """
    rope = length_rope(model)
    virtual = virtual_tokens(model)
    room = None if rope is None else rope.original - (virtual.count if virtual else 0)
    long = [room is not None and len(p) + ending.max_new_tokens > room for p in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    usual = [i for i in order if not long[i]]
    strategy = generate_strategy(model, pad) if usual and not share else "padded"
    if rope is not None:
        rope.reset()
    answers: dict[int, Generation] = {}

    def finished(number: int, answer: Generation) -> None:
        answers[number] = answer
        if progress:
            progress(len(answers), len(prompts))

    if share:
        decode(
            model,
            [prompts[i] for i in usual],
            ending,
            limit,
            lambda place, answer: finished(usual[place], answer),
        )
        usual = []
    for numbers, way in ((usual, strategy), ([i for i in order if long[i]], "whole")):
        batches = _Batches(model, ending, limit, way, pad, rope)
        for batch, answered in batches.run(prompts, numbers):
            for number, answer in zip(batch, answered, strict=True):
                finished(number, answer)
    return [answers[i] for i in range(len(prompts))]


@dataclass
class _Batches:
    """Runs prompts batch by batch in one way; a batch that does not fit is halved."""

    model: CausalLM
    ending: Ending
    limit: Limit
    way: str
    """`padded`, `equal` or `whole`."""
    pad: int
    rope: LengthRope | None

    def run(
        self, prompts: Sequence[Sequence[int]], order: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], list[Generation]]]:
        """Numbers of the prompts of each batch, which follow `order`, and their answers."""
        rows = self.limit.rows or ROWS
        # peft puts the padding between virtual tokens and prompt, which changes answers.
        equal_length = self.way in {"equal", "whole"}
        equal_length = equal_length or (
            self.way == "padded" and virtual_tokens(self.model) is not None
        )
        while order:
            batch = order[:rows]
            if equal_length:
                batch = [i for i in batch if len(prompts[i]) == len(prompts[batch[0]])]
            answered: list[Generation] | None = None
            try:
                answered = self._answers([prompts[i] for i in batch])
            except Exception as error:
                if not is_out_of_memory(error) or len(batch) == 1:
                    raise
                self.limit.halved += 1
                rows = len(batch) // 2
            if answered is None:
                free_memory()
                continue
            yield batch, answered
            order = order[len(batch) :]

    def _answers(self, prompts: Sequence[Sequence[int]]) -> list[Generation]:
        if self.way == "whole":
            return answers_by_whole_passes(self.model, prompts, self.ending, self.rope)
        return transformers_answers(self.model, prompts, self.ending, self.pad)


def shortfall(model: CausalLM, prompts: Sequence[Sequence[int]], count: int, limit: Limit) -> float:
    """Nats by which a token of a shared answer of `count` tokens is less likely than the likeliest.

    The most of all tokens, by plain forward passes; 0 where every token is the likeliest one.
    """
    import torch

    answers: dict[int, Generation] = {}
    decode(model, prompts, Ending(frozenset(), count), limit, answers.__setitem__)
    rows = [[*prompt, *answers[i].ids] for i, prompt in enumerate(prompts)]
    head = Head(model)
    gap = 0.0
    with torch.inference_mode():
        # one pass: padding on the right comes after all tokens that are compared
        states = padded_states(model, rows, virtual_tokens(model))
        for i, (prompt, row_states) in enumerate(zip(prompts, states, strict=True)):
            answer = answers[i]
            if not answer.ids:
                continue
            logits = head.logits(row_states[len(prompt) - 1 :][: len(answer.ids)])
            chosen = logits[range(len(answer.ids)), list(answer.ids)]
            gap = max(gap, float((logits.max(dim=-1).values - chosen).max()))
    return gap
