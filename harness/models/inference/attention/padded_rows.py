"""Stretches of a pack as the rows of one tensor, so that one call attends for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """Stretches of a pack of like length, padded to the longest."""

    gather: torch.Tensor
    """(stretches, length): position in the pack; padding repeats the last token."""
    source: torch.Tensor
    """Flat positions in the bucket that are not padding; `target` are theirs in the pack."""
    target: torch.Tensor
    mask: torch.Tensor | None
    """(stretches, 1, length, length) float, or None where causal order is all."""

    def scatter(
        self,
        output: torch.Tensor,
        logsum: torch.Tensor,
        into: torch.Tensor,
        logsum_into: torch.Tensor,
    ) -> None:
        """Write (stretches, heads, length, size), and what has no size, to their positions."""
        heads, size = output.shape[1], output.shape[-1]
        flat = output.transpose(0, 1).reshape(heads, -1, size)[:, self.source]
        into[0][:, self.target] = flat.to(into.dtype)
        flat_logsum = logsum.transpose(0, 1).reshape(heads, -1)
        logsum_into[0][:, self.target] = flat_logsum[:, self.source]


def rows_of(
    starts: Sequence[int],
    lengths: Sequence[int],
    mask: torch.Tensor | None,
    device: torch.device,
) -> Rows:
    """Stretches that begin at `starts` as rows of one tensor."""
    import torch

    counts, total = torch.tensor(lengths), sum(lengths)
    row = torch.repeat_interleave(counts, output_size=total)
    column = torch.arange(total) - (counts.cumsum(0) - counts)[row]
    return Rows(
        padded_rows(starts, lengths).to(device),
        (row * max(lengths) + column).to(device),
        (torch.tensor(starts)[row] + column).to(device),
        None if mask is None else mask.to(device),
    )


def padded_rows(starts: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
    """(rows, longest) positions of stretches, the last of each repeated."""
    import torch

    column = torch.arange(max(lengths))[None]
    last = torch.tensor(lengths)[:, None] - 1
    return torch.tensor(starts)[:, None] + torch.minimum(column, last)
