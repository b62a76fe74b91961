"""Attention over a pack: many token sequences in one row, some of which continue the same prefix.

A pack has no padding: every linear layer sees exactly the distinct tokens. Attention is computed
block by block, and the part that a block pays to a prefix computed earlier is joined to it by the
two log-sum-exps, as in Juravsky et al. 2024 (arXiv 2402.05099), equation 3. Keys and values of a
prefix are stored once, however many blocks continue it. On CUDA a layer launches as many kernels
for many prefixes as for few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from harness.models.inference.attention import pattern as patterns
from harness.models.inference.attention.kernels import hide
from harness.models.inference.attention.padded_rows import Rows, rows_of
from harness.models.inference.attention.past import Join, Kept, Past, Run, joins_of
from harness.models.inference.attention.patterned import attend_pack

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM
    from harness.models.inference.attention.pattern import Pattern

__all__ = [
    "Block",
    "Counting",
    "Joined",
    "Layout",
    "Pack",
    "Past",
    "attending",
    "laid_out",
    "lay_out",
]

NAME = "harness_prefix_tree"
"""Under which transformers' attention interface knows this attention."""


class Layout(Protocol):
    """How the tokens of a forward pass attend."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        pattern: Pattern,
    ) -> torch.Tensor:
        """Attention output (1, heads, tokens, size) from states of one layer of that shape."""


@dataclass(frozen=True)
class Block:
    """Tokens of the pack that attend to each other, and to a past that stands before them."""

    start: int
    """Of its first token in the pack."""
    past: Past | None
    parents: Sequence[int]
    """Per token the offset in the block of the token before it, -1 for the first; depth first."""
    keep: Past | None
    """Receives its keys and values, for blocks that will continue it."""

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.parents)

    @property
    def end(self) -> int:
        """After its last token in the pack."""
        return self.start + self.length

    @property
    def chain(self) -> bool:
        """Whether each token follows the one before it."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))


@dataclass(frozen=True)
class Pack:
    """Blocks that follow each other in one row."""

    blocks: Sequence[Block]
    buckets: Sequence[Rows]
    groups: Sequence[Sequence[Block]]
    """The blocks of each bucket."""
    joins: Sequence[Join]
    """Of the pasts right before the blocks, then of those before them, and so on."""
    kept: Kept | None

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        pattern: Pattern,
    ) -> torch.Tensor:
        """Attention within each block, joined with its attention to its past."""
        import torch

        # what is joined is rounded once, at the end
        joins = bool(self.joins) or not pattern.plain
        dtype = torch.promote_types(query.dtype, torch.float32) if joins else query.dtype
        output = query.new_empty(*query.shape[:-1], value.shape[-1], dtype=dtype)
        joined = Joined(output, torch.empty_like(query[..., 0], dtype=torch.float32))
        attend_pack(self, pattern, joined, layer, query, key, value, scale)
        if self.kept is not None:
            self.kept.store(layer, key, value)
        return joined.out.to(query.dtype)

    @cached_property
    def positions(self) -> list[int]:
        """Each token's position in its own sequence."""
        positions: list[int] = []
        for block in self.blocks:
            depths = [block.past.total if block.past else 0]
            for parent in block.parents[1:]:
                depths.append(depths[parent] + 1 if parent >= 0 else depths[0])
            positions += depths
        return positions


@dataclass
class Joined:
    """The attention output of tokens so far, and the log-sum-exp of their scores."""

    out: torch.Tensor
    """(1, heads, tokens, size)"""
    weight: torch.Tensor
    """(1, heads, tokens) float32"""

    def add(self, start: int, output: torch.Tensor, logsum: torch.Tensor) -> None:
        """Add attention of the tokens from `start` on to other keys, and its log-sum-exp."""
        import torch

        end = start + output.shape[2]
        total = torch.logaddexp(self.weight[:, :, start:end], logsum)
        share = (logsum - total).exp()[..., None]
        current = self.out[:, :, start:end]
        mixed = current.float() * (1 - share) + output.float() * share
        self.out[:, :, start:end] = mixed.to(self.out.dtype)
        self.weight[:, :, start:end] = total


@dataclass
class Counting:
    """A layout that also counts how often each layer attends, and tells how."""

    layout: Layout
    layers: dict[int, int] = field(default_factory=dict)
    patterns: dict[int, Pattern] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        pattern: Pattern,
    ) -> torch.Tensor:
        """As the layout."""
        self.layers[layer] = self.layers.get(layer, 0) + 1
        self.patterns[layer] = pattern
        return self.layout.attend(layer, query, key, value, scale, pattern)


def lay_out(blocks: Sequence[Block], device: torch.device) -> Pack:
    """Sort the blocks of a pack, which follow each other, into buckets of like length."""
    groups: dict[tuple[bool, int], list[Block]] = {}
    for block in blocks:
        groups.setdefault((block.chain, (block.length - 1).bit_length()), []).append(block)
    buckets = [_bucket(group, chain, device) for (chain, _), group in groups.items()]
    return Pack(
        blocks,
        buckets,
        list(groups.values()),
        joins_of([Run(b.start, b.end, b.past) for b in blocks if b.past is not None]),
        _kept(blocks, device),
    )


def _bucket(blocks: Sequence[Block], chain: bool, device: torch.device) -> Rows:
    import torch

    mask = None
    if not chain:
        width = max(block.length for block in blocks)
        mask = torch.stack([_tree_mask(block, width) for block in blocks])[:, None]
    starts, lengths = [block.start for block in blocks], [block.length for block in blocks]
    return rows_of(starts, lengths, mask, device)


def _kept(blocks: Sequence[Block], device: torch.device) -> Kept | None:
    import torch

    pairs = [(block, block.keep) for block in blocks if block.keep is not None]
    if not pairs:
        return None
    positions = [torch.arange(block.start, block.end) for block, _ in pairs]
    lengths = [block.length for block, _ in pairs]
    return Kept(torch.cat(positions).to(device), lengths, [past for _, past in pairs])


def _tree_mask(block: Block, width: int) -> torch.Tensor:
    """(width, width): 0 where a token sees another (its ancestors and itself), else -inf.

    Tokens stand in depth-first order: what a token is an ancestor of follows it without a gap.
    """
    import torch

    ends = list(range(1, width + 1))
    """Per token the offset after the last one below it."""
    for token in range(block.length - 1, -1, -1):
        parent = block.parents[token]
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[token])
    column = torch.arange(width)
    sees = (column <= column[:, None]) & (column[:, None] < torch.tensor(ends))
    return hide(sees, torch.float32)


_layouts: list[Layout] = []


@contextmanager
def attending(model: CausalLM) -> Iterator[None]:
    """Let the transformers model attend by the layout of `laid_out`, and restore it afterwards."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, patterns.stated_reach)
    before = _implementations(model.config)
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)


def _implementations(config: Any) -> dict[str, Any]:
    """The attention of a model and, by their names, of its parts, as transformers takes it."""
    parts = {name: getattr(config, name) for name in config.sub_configs}
    own = {name: _implementations(part) for name, part in parts.items() if part is not None}
    stated = config._attn_implementation  # None of a part that does not attend
    return own if stated is None else {"": stated, **own}


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """The layout of the forward pass within it."""
    _layouts.append(layout)
    try:
        yield
    finally:
        _layouts.pop()


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """transformers' interface: (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
    pattern = patterns.pattern_of(attention_mask, kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _layouts[-1].attend(module.layer_idx, query, key, value, scale, pattern)
    return out.transpose(1, 2).contiguous(), None
