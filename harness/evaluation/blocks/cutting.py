"""Requests in blocks: what a worker computes at a stretch, keeps, and need not compute again.

Where a block ends follows from the requests and the kind of device alone, never from the clock: a
run that was cut off and goes on makes the same forward passes as one that was not, so that on a CPU
their figures are equal to the bit. Few requests are one block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from harness.api.model import Request
from harness.models.inference.generation.stems import lined_up

TOKENS = {"cpu": 2**15}
"""Tokens of a block of requests to be scored, by kind of device: 16 full passes, so that the last
one, which is half empty, costs 3 % at most."""
TOKENS_ELSEWHERE = 2**20
PROMPTS = {"cpu": 512}
"""Prompts of a block to be answered: four times the answers at once, and eight times elsewhere, for
at its end there are fewer than can run at once."""
PROMPTS_ELSEWHERE = 2048
NEAR = 8
"""A block ends where the next one repeats the fewest tokens, within this part of its length."""

Block = Sequence[int]
"""Numbers of the requests in it."""


def of_prompts(prompts: Sequence[Sequence[int]], device: str) -> list[Block]:
    """Blocks of about as many prompts each, in the order in which all of them would run."""
    count = max(1, round(len(prompts) / PROMPTS.get(device, PROMPTS_ELSEWHERE)))
    if count == 1:
        return [range(len(prompts))]
    order = [waiting.number for waiting in lined_up(prompts)]
    ends = [len(order) * n // count for n in range(count + 1)]
    return [order[start:end] for start, end in pairwise(ends)]


def of_pairs(pairs: Sequence[Request], device: str) -> list[Block]:
    """Blocks of about as many distinct tokens each; requests that begin alike stand together.

    Where a beginning goes on beyond the end of a block its tokens are computed in both.
    """
    most = TOKENS.get(device, TOKENS_ELSEWHERE)
    if sum(len(context) + len(continuation) for context, continuation in pairs) <= 1.5 * most:
        return [range(len(pairs))]
    texts = [encoded(context) + encoded(continuation) for context, continuation in pairs]
    order = sorted(range(len(pairs)), key=texts.__getitem__)
    shared = [0, *(_shared(texts[a], texts[b]) for a, b in pairwise(order))]
    new = (len(texts[i]) // _SIZE - same for i, same in zip(order, shared, strict=True))
    before = [0, *accumulate(new)]
    """Tokens that the requests before each place in the order take."""
    count = max(1, round(before[-1] / most))
    goal = before[-1] / count
    ends = {_cheapest(before, shared, n * goal, goal / NEAR) for n in range(1, count)}
    places = sorted({0, *ends, len(order)})
    return [order[start:end] for start, end in pairwise(places)]


def _cheapest(before: Sequence[int], shared: Sequence[int], tokens: float, near: float) -> int:
    """The place near so many tokens where the fewest are repeated; the nearest of such."""
    first = bisect_left(before, tokens - near)
    last = max(first + 1, bisect_right(before, tokens + near))
    places = range(first, min(last, len(shared)))
    if not places:
        return len(shared)
    return min(places, key=lambda place: (shared[place], abs(before[place] - tokens)))


_SIZE = array("I").itemsize


def encoded(ids: Sequence[int]) -> bytes:
    """Token ids as bytes of one width: what begins alike stands together when sorted."""
    return array("I", ids).tobytes()


def _shared(one: bytes, other: bytes) -> int:
    """Tokens that two sequences begin with."""
    low, high = 0, min(len(one), len(other)) // _SIZE
    while low < high:
        middle = (low + high + 1) // 2
        if one[: middle * _SIZE] == other[: middle * _SIZE]:
            low = middle
        else:
            high = middle - 1
    return low
