"""Log-likelihoods of continuations: each distinct token is computed once, logits where needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api.model import LogLikelihood, Progress, Request
from harness.errors import UserError, is_out_of_memory
from harness.models.inference import tree_attention
from harness.models.inference.cached_prefix import Cached, CacheUse
from harness.models.inference.forward import (
    SMALL_TREE,
    Limit,
    Packed,
    Padded,
    hidden_states,
    nearly_equal,
    padded_states,
)
from harness.models.inference.generation.greedy import shortfall
from harness.models.inference.lm_head import Head, body_name, unwrapped
from harness.models.inference.prefix_tree import build
from harness.models.inference.rope import length_rope
from harness.models.inference.virtual_tokens import virtual_tokens
from harness.system.hardware import free_memory

if TYPE_CHECKING:
    from harness.models.causal_lm import CausalLM

STEM_LENGTH, PROBE_LENGTH = 16, 6
"""Tokens of what the probe's requests share, and of what follows it in each."""
EXACT = 1e-3
"""The tolerance in float32, in nats a token."""
COARSE = 0.1
"""The tolerance below float32, for the mean over tokens: bf16 rounding of SmolLM2-135M alone makes
0.05 at random tokens. A wrong attention differs by nats."""


def score_requests(
    model: CausalLM,
    requests: Sequence[Request],
    *,
    max_length: int,
    limit: Limit,
    share: bool = True,
    cache: CacheUse | None = None,
    small_tree: int = SMALL_TREE,
    progress: Progress | None = None,
) -> list[LogLikelihood]:
    """Scores of requests, in their order.

    `share` and `cache` must be what `sharing` finds of the model. A pass that runs out of memory is
    halved, and `limit` with it.
    """
    head = Head(model, limit.head_rows)
    rope = length_rope(model)
    lengths = [min(len(c) + len(t), max_length + 1) - 1 for c, t in requests]
    virtual = virtual_tokens(model)
    room = None if rope is None else rope.original - (virtual.count if virtual else 0)
    long = [i for i, n in enumerate(lengths) if room is not None and n > room]
    short = sorted({*range(len(requests))} - {*long})
    roots, cut = build(requests, max_length=max_length, share=share, numbers=short)
    passes: Cached | Packed | Padded = Padded(model, head, limit, progress)
    if share and cache is not None:
        passes = Cached(model, head, limit, progress, cache, small_tree)
    elif share:
        passes = Packed(model, head, limit, progress, small_tree)
    if rope is not None:
        rope.reset()
    passes.run(roots)
    if long:
        long_roots, long_cut = build(requests, max_length=max_length, share=False, numbers=long)
        Padded(model, head, limit, progress, rope).run(long_roots)
        cut += long_cut
    shortened = set(cut)
    return [
        _score(head.scores.get(i, {}), len(continuation), i in shortened)
        for i, (_, continuation) in enumerate(requests)
    ]


def _score(scores: dict[int, tuple[float, bool]], length: int, cut: bool) -> LogLikelihood:
    tokens = [scores[i] for i in range(length) if i in scores]
    return LogLikelihood(
        logprob=sum(value for value, _ in tokens),
        greedy=all(best for _, best in tokens),
        token_logprobs=tuple(value for value, _ in tokens),
        cut=cut,
    )


@dataclass(frozen=True)
class Sharing:
    """Whether and how a model's requests share what they begin with."""

    why_not_packed: str | None
    """Why not by passes over packs; None where they do."""
    cache: CacheUse | None = None
    """By transformers' cache instead, and answers share nothing."""

    @property
    def why_not(self) -> str | None:
        """None where they do."""
        return None if self.cache is not None else self.why_not_packed


def why_not_shared(model: CausalLM) -> str | None:
    """Why the model cannot share prefixes; None where it can. Otherwise as `sharing`."""
    return sharing(model).why_not


def sharing(model: CausalLM) -> Sharing:
    """How the model shares prefixes, by a test of each way.

    A difference between the two kinds of passes is not an error: such a model is scored unshared.
    Memory that runs out is none: the test is done again with what can be freed, and then raises.
    Raises UserError where the model is no causal one.
    """
    try:
        return _sharing(model)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    free_memory()
    return _sharing(model)


def _sharing(model: CausalLM) -> Sharing:
    check_causal(model)
    if getattr(model.config, "is_encoder_decoder", False):
        return Sharing("it has an encoder")
    why_not = _why_not_packed(model)
    if why_not is not None and virtual_tokens(model) is None:
        for use in (CacheUse(), CacheUse(stepwise=True)):
            with _any_error() as errors:
                errors.append(_disagreement(model, use))
            if errors == [None]:
                return Sharing(why_not, use)
    return Sharing(why_not)


def _why_not_packed(model: CausalLM) -> str | None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not kinds <= {"full_attention", "sliding_attention", "chunked_attention"}:
        return f"not all its layers attend to everything before them ({', '.join(sorted(kinds))})"
    if body_name(model) is None:
        return "its logits are not those of its head alone"
    with _any_error() as found:
        found.append(_custom_attention(model) or _disagreement(model))
    return found[0]


@contextmanager
def _any_error() -> Iterator[list[str | None]]:
    """Within it, whatever an unknown architecture raises is added to the list that it gives."""
    errors: list[str | None] = []
    try:
        yield errors
    except Exception as error:
        if is_out_of_memory(error):
            raise
        errors.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def check_causal(model: CausalLM) -> None:
    """Raise UserError where a token's logits depend on what comes after it, or on how much does.

    The latter is ProphetNet's way. A pass of another length is compared coarsely, for a kernel may
    round by the length, and a step of 8 bits is wide.
    """
    import torch

    size = _vocabulary(model)
    first = _tokens(3, size)[:12]
    changed = [*first[:8], *((token + 1) % size for token in first[8:])]
    head, inner = Head(model), unwrapped(model)
    with torch.inference_mode():
        first_states, changed_states = padded_states(inner, [first, changed])[:, :8]
        alone = padded_states(inner, [first[:8]])[0]
        logits = head.logits(first_states)
        unchanged = nearly_equal(logits, head.logits(changed_states), model.dtype)
        if not unchanged or not nearly_equal(logits, head.logits(alone), torch.bfloat16):
            raise UserError(
                f"a model of type {model.config.model_type} attends to the tokens after a "
                "position as well as before it: take a causal language model (of an encoder, one "
                "whose config.json says is_decoder: true)"
            )


def probe_requests(vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """Requests that share beginnings, long enough for a node of their own in a tree.

    Their ends are of several lengths: rows of one length hide what padding changes.
    """
    stems = [_tokens(5, vocabulary), _tokens(77, vocabulary)]
    length = PROBE_LENGTH
    return [
        (stem + _tokens(11 * i, vocabulary)[: length + 2 * i], _tokens(3 + i, vocabulary)[:length])
        for stem in stems
        for i in range(1, 3)
    ]


def _tokens(seed: int, vocabulary: int) -> list[int]:
    return [(seed + 31 * i * i + 3 * i) % vocabulary for i in range(STEM_LENGTH)]


def _vocabulary(model: CausalLM) -> int:
    return int(unwrapped(model).get_input_embeddings().weight.shape[0])


def _custom_attention(model: CausalLM) -> str | None:
    """Whether each layer attends once, and through transformers' interface; whatever the dtype."""
    import torch

    inner = unwrapped(model)
    tokens = _tokens(5, _vocabulary(model))
    with torch.inference_mode(), tree_attention.attending(inner):
        counter = tree_attention.Counting(
            tree_attention.lay_out(
                [tree_attention.Block(0, None, range(-1, len(tokens) - 1), None)], model.device
            )
        )
        with tree_attention.laid_out(counter):
            hidden_states(inner, tokens, range(len(tokens)))
    config = inner.config.get_text_config()
    limited = {layer: pattern.reach is not None for layer, pattern in counter.patterns.items()}
    kinds = getattr(config, "layer_types", None)
    stated = {i: kind != "full_attention" for i, kind in enumerate(kinds)} if kinds else limited
    once = counter.layers == dict.fromkeys(range(config.num_hidden_layers), 1)
    if not once or limited != stated:
        return "its layers do not attend as transformers' attention interface says"
    return None


def _disagreement(model: CausalLM, cache: CacheUse | None = None) -> str | None:
    """How shared prefixes change the scores and answers of a few short requests; None if they do
    not."""
    vocabulary = _vocabulary(model)
    requests = probe_requests(vocabulary)
    results = [
        score_requests(
            model,
            requests,
            max_length=64,
            limit=Limit(256),
            share=share,
            cache=cache,
            small_tree=small,
        )
        for share, small in ((False, 0), (True, 0), (True, SMALL_TREE))
    ]
    exact = str(model.dtype) == "torch.float32"
    for shared_scores in results[1:]:
        differences = [
            abs(a - b)
            for plain, shared in zip(results[0], shared_scores, strict=True)
            for a, b in zip(plain.token_logprobs, shared.token_logprobs, strict=True)
        ]
        difference = max(differences) if exact else sum(differences) / len(differences)
        if not difference <= (EXACT if exact else COARSE) and not _any_nan(results[0]):
            return f"log-probabilities with shared prefixes differ by {difference:.2g} a token"
    if cache is not None:
        return None
    gap = shortfall(model, [context for context, _ in requests], 3, Limit(256))
    if gap > (EXACT if exact else 5 * COARSE):
        return f"answers with shared prefixes take tokens {gap:.2g} nats below the likeliest"
    return None


def _any_nan(scores: Sequence[LogLikelihood]) -> bool:
    return any(math.isnan(score.logprob) for score in scores)
