"""What a layer's attention does beside attending to all tokens before it.

Three things that families do to it: a reach (a sliding window or a chunk) hides what is further
away, a cap bounds the scores, sinks take a share of the softmax and give nothing. Reaches are by
position in a sequence, so that a token of a pack sees what it sees in a text of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_UNKNOWN = ("position_bias", "indices", "block_indices", "sinks")
"""Keywords of transformers' attention functions that change attention in other ways."""


@dataclass(frozen=True)
class Reach:
    """How far back a token sees; stands where transformers passes a layer's mask."""

    size: int
    chunked: bool = False
    """Only tokens of its own chunk of `size`, not the last `size` tokens, itself among them."""

    def first(self, position: int) -> int:
        """The first position that a token at `position` sees."""
        if self.chunked:
            return position // self.size * self.size
        return max(0, position - self.size + 1)

    def sees(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """(..., queries, keys): whether keys at such positions (..., keys) are not too far."""
        query, key = queries[..., :, None], keys[..., None, :]
        if self.chunked:
            return query // self.size == key // self.size
        return query - key < self.size


@dataclass(frozen=True, eq=False)
class Pattern:
    """A layer's attention."""

    reach: Reach | None = None
    cap: float | None = None
    """Scores are cap x tanh(score / cap)."""
    sinks: torch.Tensor | None = None
    """(heads,): per head the score of a key that every token sees and that has no value."""

    @property
    def plain(self) -> bool:
        """Whether it is attention to all tokens before, and nothing else."""
        return self.reach is None and self.cap is None and self.sinks is None


PLAIN = Pattern()


def stated_reach(
    *,
    config: Any,
    local_size: int | None = None,
    use_vmap: bool = False,
    **kwargs: object,
) -> Reach | None:
    """The reach of a mask, in transformers' interface of functions that make one.

    Raises NotImplementedError for a mask that a family makes by a function of its own.
    """
    if use_vmap:
        raise NotImplementedError("attention with a mask of its own")
    if local_size is None:
        return None
    return Reach(local_size, local_size == getattr(config, "attention_chunk_size", None))


def pattern_of(mask: object, keywords: Mapping[str, Any]) -> Pattern:
    """The pattern that a layer's mask and keywords ask for.

    Raises NotImplementedError where they ask for what is not known here.
    """
    reach = mask if isinstance(mask, Reach) else None
    unknown = [name for name in _UNKNOWN if keywords.get(name) is not None]
    if reach is None and keywords.get("sliding_window"):
        unknown.append("sliding_window")
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    return Pattern(reach, keywords.get("softcap"), keywords.get("s_aux"))
