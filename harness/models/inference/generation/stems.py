"""Prompts in the order in which they run, and the beginnings that some of them share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.models.inference.tree_attention import Past

MIN_STEM = 16
"""Tokens that prompts beside each other must share for a pass of their own."""


@dataclass(eq=False)
class Stem:
    """What some prompts begin with; it runs before the first of them."""

    tokens: Sequence[int]
    past: Past | None = None
    """Its keys and values, once it ran; they live as long as a prompt that begins so."""


@dataclass(frozen=True)
class Waiting:
    """A prompt that has not run yet."""

    number: int
    own: Sequence[int]
    """Its tokens after those that it shares, one at least."""
    stem: Stem | None

    @property
    def length(self) -> int:
        """Tokens of stem and own."""
        return len(self.own) + (len(self.stem.tokens) if self.stem else 0)


def lined_up(prompts: Sequence[Sequence[int]]) -> list[Waiting]:
    """Prompts by length, so that those which run together are of like length.

    Those of one stem follow each other, by the shortest of them.
    """
    groups = [sorted(group, key=lambda waiting: waiting.length) for group in _groups(prompts)]
    groups.sort(key=lambda group: group[0].length)
    return [waiting for group in groups for waiting in group]


def _groups(prompts: Sequence[Sequence[int]]) -> Iterator[list[Waiting]]:
    """Prompts that share a stem of MIN_STEM tokens or more, and each other prompt alone."""
    order = sorted(range(len(prompts)), key=lambda number: tuple(prompts[number]))
    start = 0
    while start < len(order):
        first = prompts[order[start]]
        shared, end = len(first) - 1, start + 1
        while end < len(order):
            common = min(shared, common_length([first, prompts[order[end]]]))
            if common < MIN_STEM:
                break
            shared, end = common, end + 1
        group = order[start:end]
        stem = Stem(first[:shared]) if len(group) > 1 else None
        yield [Waiting(n, prompts[n][shared if stem else 0 :], stem) for n in group]
        start = end


def common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, at least one of each left over."""
    length = min(map(len, prompts)) - 1
    first = prompts[0]
    for prompt in prompts:
        length = next((i for i in range(length) if prompt[i] != first[i]), length)
    return max(length, 0)
