"""Attention over a pack by a pattern: plain, within a reach, with capped scores or with sinks.

As in `tree_attention`, what a block pays to itself and to each part of its past is joined by the
log-sum-exps. Of a past only what is within reach is looked at, and of a chain longer than its
reach each strip with what it sees. Sinks are joined once, after all keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.models.inference.attention import kernels
from harness.models.inference.attention.kernels import hide

if TYPE_CHECKING:
    import torch

    from harness.models.inference.attention.padded_rows import Rows
    from harness.models.inference.attention.past import Past
    from harness.models.inference.attention.pattern import Pattern, Reach
    from harness.models.inference.tree_attention import Joined, Pack

STRIP = 128
"""Tokens of a chain that attend at once, at least, where a reach hides the rest of it."""
MASKED_AT_ONCE = 2**24
"""Entries of a mask over the tokens before a pack that are held at once."""


def attend_pack(
    pack: Pack,
    pattern: Pattern,
    joined: Joined,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
) -> None:
    """Fill `joined`, empty as yet, with the attention of a pack's tokens by a pattern."""
    import torch

    for bucket, blocks in zip(pack.buckets, pack.groups, strict=True):
        own = pack.positions if pattern.reach is not None else []
        places = [own[block.start : block.end] for block in blocks]
        q, k, v = (states[0][:, bucket.gather].transpose(0, 1) for states in (query, key, value))
        output, logsum = _within(bucket, places, pattern, q, k, v, scale)
        bucket.scatter(output, logsum, joined.out, joined.weight)
    for join in pack.joins:
        if pattern.reach is None and pattern.cap is None:
            joined.add(join.runs[0].start, *join.attend(layer, query, scale))
            continue
        for run in join.runs:
            own = pack.positions[run.start : run.end]
            rows, at = query[:, :, run.start : run.end], torch.tensor(own, device=query.device)
            bounds = min(own), max(own)
            join_past(joined, run.start, rows, at, bounds, run.past, layer, scale, pattern)
    join_sinks(joined, pattern)


def attend(
    pattern: Pattern,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kernels.attend` under a pattern's cap; its reach is the caller's mask."""
    if pattern.cap is None:
        return kernels.attend(query, key, value, mask, causal, scale)
    return kernels.plain_attend(query, key, value, mask, causal, scale, pattern.cap)


def _within(
    bucket: Rows,
    positions: Sequence[Sequence[int]],
    pattern: Pattern,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention inside the blocks of a bucket, whose states are (blocks, heads, length, size).

    `positions` are those of each block's tokens in their sequence.
    """
    import torch

    mask = None if bucket.mask is None else bucket.mask.to(query.dtype)
    reach, width = pattern.reach, query.shape[2]
    if reach is None or all(reach.first(max(row)) <= row[0] for row in positions):
        return attend(pattern, query, key, value, mask, mask is None, scale)
    padded = [[*row, *[row[-1]] * (width - len(row))] for row in positions]
    places = torch.tensor(padded, device=query.device)
    if mask is not None:
        mask = mask + hide(reach.sees(places, places)[:, None], query.dtype)
        return attend(pattern, query, key, value, mask, False, scale)
    outs, logsums, offset = [], [], torch.arange(width, device=query.device)
    for start, end, first in _strips(reach, [row[0] for row in positions], width):
        seen = reach.sees(places[:, start:end], places[:, first:end])
        seen = seen.logical_and(offset[first:end] <= offset[start:end, None])
        rows, keys, values = query[:, :, start:end], key[:, :, first:end], value[:, :, first:end]
        mask = hide(seen[:, None], query.dtype)
        out, logsum = attend(pattern, rows, keys, values, mask, False, scale)
        outs.append(out)
        logsums.append(logsum)
    return torch.cat(outs, dim=2), torch.cat(logsums, dim=2)


def _strips(reach: Reach, begins: Sequence[int], width: int) -> Iterator[tuple[int, int, int]]:
    """Start, end and the first offset seen of the strips of chains of `width` from `begins` on."""
    step = max(STRIP, min(reach.size, 8 * STRIP))
    for start in range(0, width, step):
        first = min(reach.first(begin + start) - begin for begin in begins)
        yield start, min(start + step, width), max(0, first)


def join_past(
    joined: Joined,
    start: int,
    query: torch.Tensor,
    places: torch.Tensor,
    bounds: tuple[int, int],
    past: Past,
    layer: int,
    scale: float,
    pattern: Pattern,
) -> None:
    """Add the attention of tokens to what they see of a past's own tokens.

    `query` (1, heads, tokens, size) and `places` (tokens,), the positions in their sequences, are
    theirs; no position is outside `bounds`, lowest and highest. `start` is the row of the first
    token in `joined`.
    """
    import torch

    reach, end = pattern.reach, past.total
    before = end - past.length
    keys, values = past.keys[layer], past.values[layer]
    if reach is None or reach.first(bounds[1]) <= before:
        joined.add(start, *attend(pattern, query, keys, values, None, False, scale))
        return
    first = max(before, reach.first(bounds[0]))
    if first >= end:
        return
    keys, values = keys[:, :, first - before :], values[:, :, first - before :]
    key_places = torch.arange(first, end, device=query.device)
    step = max(1, MASKED_AT_ONCE // len(key_places))
    for row in range(0, query.shape[2], step):
        seen = reach.sees(places[row : row + step], key_places)
        mask = hide(seen, query.dtype)[None, None]
        rows = query[:, :, row : row + step]
        output, logsum = attend(pattern, rows, keys, values, mask, False, scale)
        blind = seen.any(dim=-1).logical_not()
        output = output.masked_fill(blind[:, None], 0.0)
        joined.add(start + row, output, logsum.masked_fill(blind, float("-inf")))


def join_sinks(joined: Joined, pattern: Pattern) -> None:
    """Give a pattern's sinks their share of the softmax, once all keys are joined."""
    if pattern.sinks is None:
        return
    sinks = pattern.sinks.float().view(1, -1, 1)
    share = (joined.weight - joined.weight.logaddexp(sinks)).exp()[..., None]
    joined.out = (joined.out.float() * share).to(joined.out.dtype)
