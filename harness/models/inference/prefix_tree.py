"""A tree of token sequences in which a common prefix is computed once. Pure Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

MIN_SHARED = 3
"""Tokens that a shared prefix must have to be worth a node of its own."""
MIN_SAVED = 12
"""Tokens that sharing it must save."""


@dataclass(frozen=True)
class Target:
    """The log-probability of `token` after the token at `position` of the whole sequence."""

    position: int
    token: int
    request: int
    """The request's number; `index` is the target's position in its continuation."""
    index: int


@dataclass
class Node:
    """A run of tokens from `start` on, the targets inside it, and the nodes that continue it."""

    start: int
    tokens: tuple[int, ...]
    wanted: list[Target] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)

    def count(self) -> int:
        """Tokens in this node and below it, which a pass has to compute."""
        return len(self.tokens) + sum(child.count() for child in self.children)


@dataclass(frozen=True)
class _Leaf:
    tokens: tuple[int, ...]
    wanted: tuple[Target, ...]


def build(
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    max_length: int,
    share: bool = True,
    numbers: Iterable[int] | None = None,
) -> tuple[list[Node], list[int]]:
    """Trees over (context, continuation) pairs of token ids, and the requests that were cut.

    A request longer than `max_length` + 1 tokens loses its beginning, as in lm-eval's
    `HFLM._loglikelihood_tokens`. `share=False` gives one node per distinct sequence.
    `numbers` are those of the requests that the trees are over; None means all.
    """
    leaves: dict[tuple[int, ...], list[Target]] = {}
    cut = []
    for number in range(len(requests)) if numbers is None else numbers:
        context, continuation = requests[number]
        sequence = tuple(context) + tuple(continuation)
        if len(sequence) > max_length + 1:
            cut.append(number)
            sequence = sequence[-(max_length + 1) :]
        targets = min(len(continuation), len(sequence) - 1)
        first_position = len(sequence) - 1 - targets
        skipped = len(continuation) - targets
        leaves.setdefault(sequence[:-1], []).extend(
            Target(first_position + i, sequence[first_position + 1 + i], number, skipped + i)
            for i in range(targets)
        )
    leaves_in_order = [_Leaf(tokens, tuple(wanted)) for tokens, wanted in sorted(leaves.items())]
    if not share:
        return [_node(leaf.tokens, 0, [leaf]) for leaf in leaves_in_order], cut
    return _grow(leaves_in_order, 0) if leaves_in_order else [], cut


def _grow(leaves: Sequence[_Leaf], start: int) -> list[Node]:
    """Nodes that cover sorted `leaves` from position `start` on."""
    first = leaves[0].tokens
    if len(leaves) == 1:
        return [_node(first, start, leaves)]
    shared = _common(first, leaves[-1].tokens, start)
    gain = shared - start
    if gain >= MIN_SHARED and gain * (len(leaves) - 1) >= MIN_SAVED:
        node = _node(first[:shared], start, leaves)
        longer = [leaf for leaf in leaves if len(leaf.tokens) > shared]
        node.children = _grow(longer, shared) if longer else []
        return [node]
    nodes = []
    for _, group in groupby(leaves, key=lambda leaf: leaf.tokens[shared : shared + 1]):
        nodes += _grow(list(group), start)
    return nodes


def _node(tokens: tuple[int, ...], start: int, leaves: Sequence[_Leaf]) -> Node:
    end = len(tokens)
    wanted = [w for leaf in leaves for w in leaf.wanted if start <= w.position < end]
    return Node(start, tokens[start:], wanted)


def _common(a: Sequence[int], b: Sequence[int], start: int) -> int:
    """Length of the common beginning of two sequences that agree up to `start`."""
    end = min(len(a), len(b))
    i = start
    while i < end and a[i] == b[i]:
        i += 1
    return i
