"""The language-model head of a causal model, in float32 and only where a token is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from harness.prefix_tree import Wanted

HEAD_ROWS = 512
"""Positions that pass the head at once: bounds rows x vocabulary in float32."""


class Head:
    """Collects log-probabilities; `found[request][index]` is (log-probability, was the best).

    A log-probability that is not finite is NaN, a missing value, and never the best.
    """

    def __init__(self, model: Any) -> None:
        self.weights = unwrapped(model).get_output_embeddings()
        self.scale = _logit_scale(model)
        self.found: dict[int, dict[int, tuple[float, bool]]] = {}

    def collect(self, hidden: Any, wanted: Sequence[tuple[int, Wanted]]) -> None:
        """Take what is wanted at rows of `hidden` (positions, hidden size)."""
        places: dict[int, list[Wanted]] = {}
        for row, one in wanted:
            places.setdefault(row, []).append(one)
        rows = sorted(places)
        for at in range(0, len(rows), HEAD_ROWS):
            part = rows[at : at + HEAD_ROWS]
            logprobs = self._logprobs(hidden[part])
            best = logprobs.argmax(dim=-1)
            asked = [(i, one) for i, row in enumerate(part) for one in places[row]]
            values = logprobs[[i for i, _ in asked], [one.target for _, one in asked]].tolist()
            most_likely = best[[i for i, _ in asked]].tolist()
            for (_, one), value, winner in zip(asked, values, most_likely, strict=True):
                known = math.isfinite(value)
                found = (value, winner == one.target) if known else (math.nan, False)
                self.found.setdefault(one.request, {})[one.index] = found

    def _logprobs(self, hidden: Any) -> Any:
        """(positions, vocabulary) float32 log-probabilities from hidden states."""
        return self.scale(head_logits(self.weights, hidden)).log_softmax(dim=-1)


def unwrapped(model: Any) -> Any:
    """The causal LM inside an adapter's wrapper, whose layers live inside it and stay in force."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_logits(head: Any, hidden: Any) -> Any:
    """(positions, vocabulary) float32 logits, whatever the head's precision.

    A plain head is multiplied in float32. Another module, such as a head with an adapter, runs as
    it is, so that what it adds stays in force.
    """
    import torch

    if type(head) is not torch.nn.Linear:
        dtype = next(head.parameters()).dtype
        return head(hidden.to(dtype)).float()
    bias = None if head.bias is None else head.bias.float()
    return torch.nn.functional.linear(hidden.float(), head.weight.float(), bias)


def _logit_scale(model: Any) -> Callable[[Any], Any]:
    """What some families do to logits after the head: scaling and soft-capping."""
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    cap = getattr(config, "final_logit_softcapping", None)

    def apply(logits: Any) -> Any:
        if factor != 1.0 or divisor != 1.0:
            logits = logits * (factor / divisor)
        return cap * (logits / cap).tanh() if cap else logits

    return apply
