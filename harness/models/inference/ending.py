"""What ends a greedy answer, whoever takes its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.api.model import Generation

NOT_FINITE = -1
"""Stands for the token of logits that are not finite."""


@dataclass(frozen=True)
class Ending:
    """What ends an answer."""

    tokens: frozenset[int]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    """Stop texts; the answer keeps the one that ended it."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Needed where there are `stops`."""

    def met(self, ids: Sequence[int]) -> bool:
        """Whether the answer so far contains one of `stops`."""
        if not self.stops or self.decode is None:
            return False
        text = self.decode(ids[-max(map(len, self.stops)) - 4 :])
        return any(stop in text for stop in self.stops)

    def take(self, ids: list[int], token: int) -> Generation | None:
        """The whole answer, if `token` after `ids` ends it; else None, and `ids` has the token."""
        if token == NOT_FINITE:
            return Generation(tuple(ids), capped=False, finite=False)
        if token in self.tokens:
            return Generation(tuple(ids), capped=False)
        ids.append(token)
        stopped = self.met(ids)
        if stopped or len(ids) == self.max_new_tokens:
            return Generation(tuple(ids), capped=not stopped)
        return None
