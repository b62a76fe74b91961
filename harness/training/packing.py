"""Packing: rows laid end to end in one pass without padding, and whether a model keeps them apart.

TRL's padding-free batches say where a row begins by `position_ids` that start again at 0. Models
that build their mask from them keep rows apart. Others attend to the rows before: those with linear
biases (ALiBi), those that count positions from the attention mask, and state-space models, whose
state goes on from row to row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

    Collator = Callable[[list[dict[str, list[int]]]], Mapping[str, Any]]
    """Makes a batch of rows of token ids and labels."""

COMPARED = 16
"""Tokens of each row on which a packed pass is compared with passes of one row."""
_ROUNDING, _COARSE = 0.001, 0.05
"""Tolerances of a log-probability, as a share of it: in float32; in 16 bits or with a quantised
base."""
_FIX = "set packing: false"


def check_rows(
    model: CausalLM, collator: Collator, rows: Sequence[Sequence[int]], *, coarse: bool
) -> None:
    """Raise UserError where a model's log-probabilities of packed rows are not those of each alone.

    `collator` is TRL's, set to lay rows end to end. Two rows of token ids are compared, cut to
    COMPARED tokens; `coarse` allows for the rounding of 16 bits or of a quantised base.
    """
    shortened = [list(row[:COMPARED]) for row in rows if len(row) > 1][:2]
    if not shortened:
        return
    pair = [shortened[0], shortened[-1]]
    name = type(model).__name__
    try:
        largest, deviation = difference(model, collator, pair)
    except (TypeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"packing: {name} cannot run packed rows ({reason}): {_FIX}") from error
    if not deviation <= (_COARSE if coarse else _ROUNDING) * (1 + largest):
        raise UserError(
            f"packing: in {name} packed rows depend on the rows before them (up to {deviation:.3g} "
            f"nats a token): {_FIX}"
        )


def difference(
    model: CausalLM, collator: Collator, rows: Sequence[list[int]]
) -> tuple[float, float]:
    """(largest log-probability, largest difference) in nats, between packed rows and each alone.

    Both are of the tokens of `rows`, the differences also where log-probabilities are not finite.
    """
    import torch

    batch = collator([{"input_ids": row, "labels": row} for row in rows])
    packed = {key: _moved(value, model.device) for key, value in batch.items() if key != "labels"}
    training = model.training
    model.eval()  # dropout and random routes would differ between passes of other shapes
    largest, deviation, start = 0.0, 0.0, 0
    try:
        with torch.no_grad():
            batched = model(**packed, use_cache=False).logits[0]
            for row in rows:
                ids = torch.tensor([row], device=model.device)
                alone = model(input_ids=ids, use_cache=False).logits[0]
                alone_logprobs, packed_logprobs = (
                    logits[:-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None])
                    for logits in (alone, batched[start : start + len(row)])
                )
                start += len(row)
                largest = max(largest, float(alone_logprobs.abs().max()))
                deviation = max(deviation, float((alone_logprobs - packed_logprobs).abs().max()))
    finally:
        model.train(training)
    return largest, deviation


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if hasattr(value, "to") else value
