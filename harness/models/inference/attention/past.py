"""Keys and values of earlier passes: how they are kept, and attention to them.

Tokens that continue different pasts attend to theirs in one call, so that a layer launches as many
kernels on CUDA for many pasts as for few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from harness.models.inference.attention.kernels import attend, flash_rows, flash_takes, hide
from harness.models.inference.attention.padded_rows import Rows, padded_rows, rows_of

if TYPE_CHECKING:
    import torch


@dataclass
class Past:
    """Keys and values of a run of tokens, per layer (1, key heads, tokens, head size)."""

    before: Past | None = None
    """What precedes those tokens."""
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def chain(self) -> Iterator[Past]:
        """This past and all that precede it, the last first."""
        past: Past | None = self
        while past is not None:
            yield past
            past = past.before

    @property
    def length(self) -> int:
        """Its own tokens."""
        return int(next(iter(self.keys.values())).shape[2])

    @property
    def total(self) -> int:
        """Its tokens and those that precede them."""
        return sum(past.length for past in self.chain())


@dataclass(frozen=True)
class Kept:
    """What a pack's blocks keep of their keys and values."""

    positions: torch.Tensor
    """In the pack, of all tokens that are kept."""
    lengths: Sequence[int]
    pasts: Sequence[Past]
    """Which get so many of those tokens each."""

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Copy the layer's states once for all pasts, which hold views of the copy."""
        for states, name in ((key, "keys"), (value, "values")):
            parts = states.index_select(2, self.positions).split(list(self.lengths), dim=2)
            for past, part in zip(self.pasts, parts, strict=True):
                getattr(past, name)[layer] = part


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of a pack that attend to all of a past's own tokens."""

    start: int
    end: int
    past: Past


@dataclass(frozen=True)
class Join:
    """Runs that follow each other without a gap; each token is in one of them."""

    runs: Sequence[Run]

    def attend(
        self, layer: int, query: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of the runs' tokens to their pasts, and its log-sum-exp."""
        import torch

        first = self.runs[0]
        value = first.past.values[layer]
        if len(self.runs) == 1 or query.device.type == "cpu":
            parts = [
                attend(
                    query[:, :, run.start : run.end],
                    run.past.keys[layer],
                    run.past.values[layer],
                    None,
                    False,
                    scale,
                )
                for run in self.runs
            ]
            if len(parts) == 1:
                return parts[0]
            outs, logsums = zip(*parts, strict=True)
            return torch.cat(outs, dim=2), torch.cat(logsums, dim=2)
        query = query[:, :, first.start : self.runs[-1].end]
        keys = torch.cat([run.past.keys[layer] for run in self.runs], dim=2)
        values = torch.cat([run.past.values[layer] for run in self.runs], dim=2)
        if flash_takes(query, value):
            return flash_rows(query, keys, values, *self._ends, self._longest, scale)
        return self._padded(query, keys, values, scale)

    @cached_property
    def _lengths(self) -> tuple[list[int], list[int]]:
        """Per run its tokens, and its keys."""
        return [r.end - r.start for r in self.runs], [r.past.length for r in self.runs]

    @cached_property
    def _longest(self) -> tuple[int, int]:
        tokens, keys = self._lengths
        return max(tokens), max(keys)

    @cached_property
    def _ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """int32 (runs + 1,) of tokens and of keys: where each run ends, from 0 on."""
        import torch

        device = next(iter(self.runs[0].past.keys.values())).device
        ends = [
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32) for lengths in self._lengths
        ]
        return ends[0].to(device), ends[1].to(device)

    @cached_property
    def _buckets(self) -> Sequence[_JoinBucket]:
        device = next(iter(self.runs[0].past.keys.values())).device
        return _join_buckets(*self._lengths, device)

    def _padded(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs of like length in one call, padded to the longest of them."""
        import torch

        out = query.new_empty(*query.shape[:-1], values.shape[-1])
        logsum = torch.empty_like(query[..., 0], dtype=torch.float32)
        for bucket in self._buckets:
            rows = bucket.rows
            k, v = (states[0][:, bucket.keys].transpose(0, 1) for states in (keys, values))
            mask = None if bucket.mask is None else bucket.mask.to(query.dtype)
            q = query[0][:, rows.gather].transpose(0, 1)
            rows.scatter(*attend(q, k, v, mask, False, scale), out, logsum)
        return out, logsum


@dataclass(frozen=True)
class _JoinBucket:
    """Runs of like length with pasts of like length, padded to the longest of each."""

    rows: Rows
    keys: torch.Tensor
    """(runs, length): position in the joined pasts; padding repeats the last key."""
    mask: torch.Tensor | None
    """(runs, 1, 1, length) float that hides the padding, or None where there is none."""


def _join_buckets(
    tokens: Sequence[int], keys: Sequence[int], device: torch.device
) -> list[_JoinBucket]:
    """Buckets of runs with so many tokens and so many keys each, which follow each other."""
    import torch

    token_starts, key_starts = ([0, *accumulate(counts)] for counts in (tokens, keys))
    groups: dict[tuple[int, int], list[int]] = {}
    for run, counts in enumerate(zip(tokens, keys, strict=True)):
        size = (counts[0] - 1).bit_length(), (counts[1] - 1).bit_length()
        groups.setdefault(size, []).append(run)
    buckets = []
    for runs in groups.values():
        rows = rows_of([token_starts[r] for r in runs], [tokens[r] for r in runs], None, device)
        lengths = [keys[r] for r in runs]
        key_rows = padded_rows([key_starts[r] for r in runs], lengths)
        mask = None
        if len(set(lengths)) > 1:
            real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            mask = hide(real, torch.float32)[:, None, None].to(device)
        buckets.append(_JoinBucket(rows, key_rows.to(device), mask))
    return buckets


def joins_of(runs: Sequence[Run]) -> list[Join]:
    """Which tokens attend to which pasts, by how far before them those stand."""
    joins = []
    level = runs
    while level:
        merged: list[list[Run]] = []
        for run in level:
            stretch = merged[-1] if merged and merged[-1][-1].end == run.start else None
            if stretch is None:
                merged.append([run])
            elif stretch[-1].past is run.past:
                stretch[-1] = Run(stretch[-1].start, run.end, run.past)
            else:
                stretch.append(run)
        joins += [Join(runs) for runs in merged]
        level = [
            Run(run.start, run.end, run.past.before)
            for runs in merged
            for run in runs
            if run.past.before is not None
        ]
    return joins
