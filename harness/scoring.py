"""Log-probabilities of continuations: each distinct token runs once, the head where wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.head import Head
from harness.passes import SMALL_TREE, Limit, Packed, Padded, Progress
from harness.prefix_tree import build

PROBE_LENGTH = 6
COARSE = 0.1
"""Nats a token by which two ways of attending differ in bf16 for rounding alone: SmolLM2-135M's
sums over 12 random tokens differed by 0.55. Another attention is off by nats."""


@dataclass(frozen=True)
class Score:
    """How likely a continuation is after its context."""

    logprob: float
    """Sum over the continuation's tokens, in nats; NaN, a missing value, where the model's
    log-probability of one of them is not finite."""
    greedy: bool
    """True where each token was the most likely one; never where `logprob` is NaN."""
    token_logprobs: tuple[float, ...]
    cut: bool
    """True where the context lost its beginning to fit the model's length."""


Requests = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(context, continuation) pairs of token ids."""


def score_requests(
    model: Any,
    requests: Requests,
    *,
    max_length: int,
    limit: Limit,
    share: bool = True,
    small_tree: int = SMALL_TREE,
    progress: Progress | None = None,
) -> list[Score]:
    """Scores of requests, in their order.

    With `share` the model must be one that `why_not_shared` finds nothing against. A pass that
    runs out of memory is halved, and `limit` with it.
    """
    roots, cut = build(requests, max_length=max_length, share=share)
    head = Head(model)
    if share:
        Packed(model, head, limit, progress, small_tree).run(roots)
    else:
        Padded(model, head, limit, progress).run(roots)
    shortened = set(cut)
    return [
        _score(head.found.get(i, {}), len(continuation), i in shortened)
        for i, (_, continuation) in enumerate(requests)
    ]


def _score(found: dict[int, tuple[float, bool]], length: int, cut: bool) -> Score:
    tokens = [found[i] for i in range(length) if i in found]
    return Score(
        logprob=sum(value for value, _ in tokens),
        greedy=all(best for _, best in tokens),
        token_logprobs=tuple(value for value, _ in tokens),
        cut=cut,
    )


def why_not_shared(model: Any) -> str | None:
    """What keeps the model from sharing prefixes, found by trying; None where nothing does.

    Two ways of attending that do not agree are no error: such a model is scored the plain way.
    """
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        return "it has an encoder"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"not all its layers attend to everything before them ({', '.join(sorted(kinds))})"
    try:
        difference = _largest_difference(model, config.vocab_size)
    except Exception as error:  # whatever an unknown architecture raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    exact = str(model.dtype) == "torch.float32"
    if not exact and getattr(config, "attn_logit_softcapping", None):
        return "its attention scores are capped"  # too little to be told from coarse arithmetic
    if not difference <= (1e-3 if exact else COARSE * PROBE_LENGTH):
        return f"log-probabilities with shared prefixes differ by {difference:.2g}"
    return None


def _largest_difference(model: Any, vocabulary: int) -> float:
    """Between shared and plain scoring of a few short sequences, in nats."""

    def tokens(seed: int) -> list[int]:
        return [(seed + 31 * i * i) % vocabulary for i in range(PROBE_LENGTH)]

    stems = [tokens(5), tokens(77)]
    requests = [(stem + tokens(11 * i), tokens(3 + i)) for stem in stems for i in range(2)]
    sides = [
        score_requests(
            model, requests, max_length=64, limit=Limit(64), share=share, small_tree=small
        )
        for share, small in ((False, 0), (True, 0), (True, SMALL_TREE))
    ]
    return max(
        abs(a.logprob - b.logprob)
        for other in sides[1:]
        for a, b in zip(sides[0], other, strict=True)
    )
