"""Attention over a pack: many token sequences in one row, some of which continue the same prefix.

A pack has no padding: every linear layer sees exactly the distinct tokens. Attention is computed
block by block, and the part that a block pays to a prefix computed earlier is joined to it by the
two log-sum-exps, as in Juravsky et al. 2024 (arXiv 2402.05099), equation 3. Keys and values of a
prefix are stored once, however many blocks continue it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

NAME = "harness_prefix_tree"
"""Under which transformers' attention interface knows this attention."""
SCORES_AT_ONCE = 2**26
"""Attention scores that the path without a fused kernel holds at once."""


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


class Layout(Protocol):
    """How the tokens of a forward pass attend."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
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
class _Bucket:
    """Blocks of like length, padded to the longest."""

    gather: torch.Tensor
    """(blocks, length): position in the pack; padding repeats the last token."""
    source: torch.Tensor
    """Flat positions in the bucket that are not padding; `target` are theirs in the pack."""
    target: torch.Tensor
    mask: torch.Tensor | None
    """(blocks, 1, length, length) float, or None where causal order is all."""


@dataclass(frozen=True)
class Pack:
    """Blocks that follow each other in one row."""

    blocks: Sequence[Block]
    buckets: Sequence[_Bucket]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attention within each block, joined with its attention to its past."""
        import torch

        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        joined = Joined(output, torch.empty_like(query[..., 0], dtype=torch.float32))
        for bucket in self.buckets:
            _within(bucket, query, key, value, scale, joined)
        for start, end, past in _runs(self.blocks):
            for part in past.chain():
                joined.join(start, end, query, part.keys[layer], part.values[layer], scale)
        for block in self.blocks:
            if block.keep is not None:
                block_slice = slice(block.start, block.end)
                block.keep.keys[layer] = key[:, :, block_slice].clone()
                block.keep.values[layer] = value[:, :, block_slice].clone()
        return joined.out


@dataclass
class Joined:
    """The attention output of tokens so far, and the log-sum-exp of their scores."""

    out: torch.Tensor
    """(1, heads, tokens, size)"""
    weight: torch.Tensor
    """(1, heads, tokens) float32"""

    def join(
        self,
        start: int,
        end: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> None:
        """Add the attention of the tokens start..end to keys that all of them see."""
        import torch

        output, logsum = attend(query[:, :, start:end], key, value, None, False, scale)
        total = torch.logaddexp(self.weight[:, :, start:end], logsum)
        share = (logsum - total).exp()[..., None]
        current = self.out[:, :, start:end]
        mixed = current.float() * (1 - share) + output.float() * share
        self.out[:, :, start:end] = mixed.to(self.out.dtype)
        self.weight[:, :, start:end] = total


@dataclass
class Counting:
    """A layout that also counts how often each layer attends."""

    layout: Layout
    layers: dict[int, int] = field(default_factory=dict)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """As the layout."""
        self.layers[layer] = self.layers.get(layer, 0) + 1
        return self.layout.attend(layer, query, key, value, scale)


def lay_out(blocks: Sequence[Block], device: torch.device) -> Pack:
    """Sort the blocks of a pack, which follow each other, into buckets of like length."""
    buckets: dict[tuple[bool, int], list[Block]] = {}
    for block in blocks:
        buckets.setdefault((block.chain, (block.length - 1).bit_length()), []).append(block)
    return Pack(blocks, [_bucket(group, chain, device) for (chain, _), group in buckets.items()])


def _bucket(blocks: Sequence[Block], chain: bool, device: torch.device) -> _Bucket:
    import torch

    width = max(block.length for block in blocks)
    starts = torch.tensor([[block.start] for block in blocks])
    lengths = torch.tensor([[block.length] for block in blocks])
    column = torch.arange(width)[None]
    gather = starts + torch.minimum(column, lengths - 1)
    real = (column < lengths).flatten()
    mask = None
    if not chain:
        mask = torch.stack([_tree_mask(block, width) for block in blocks])[:, None].to(device)
    source = real.nonzero().flatten()
    return _Bucket(gather.to(device), source.to(device), gather.flatten()[source].to(device), mask)


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
    return torch.zeros(width, width).masked_fill_(~sees, float("-inf"))


_layouts: list[Layout] = []


@contextmanager
def attending(model: CausalLM) -> Iterator[None]:
    """Let the transformers model attend by the layout of `laid_out`, and restore it afterwards."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)


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
    changes = [name for name in ("softcap", "s_aux", "sliding_window") if kwargs.get(name)]
    if changes:
        raise NotImplementedError(f"attention with {', '.join(changes)}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _layouts[-1].attend(module.layer_idx, query, key, value, scale)
    return out.transpose(1, 2), None


def _within(
    bucket: _Bucket,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    joined: Joined,
) -> None:
    """Attention inside the blocks of a bucket."""
    q, k, v = (states[0][:, bucket.gather].transpose(0, 1) for states in (query, key, value))
    mask = None if bucket.mask is None else bucket.mask.to(q.dtype)
    output, logsum = attend(q, k, v, mask, mask is None, scale)
    heads, size = output.shape[1], output.shape[-1]
    flat = output.transpose(0, 1).reshape(heads, -1, size)
    joined.out[0][:, bucket.target] = flat[:, bucket.source]
    joined.weight[0][:, bucket.target] = logsum.transpose(0, 1).reshape(heads, -1)[:, bucket.source]


def _runs(blocks: Sequence[Block]) -> Iterator[tuple[int, int, Past]]:
    """Stretches of the pack whose blocks continue the same past."""
    index = 0
    while index < len(blocks):
        first, end = blocks[index], index
        while end < len(blocks) and blocks[end].past is first.past:
            end += 1
        if first.past is not None:
            yield first.start, blocks[end - 1].end, first.past
        index = end


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (rows, heads, tokens, size), and the log-sum-exp of its scores without the size."""
    import torch

    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
    return _plain_attend(query, key, value, mask, causal, scale)


def _plain_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same without a fused kernel, over so many tokens at once that the scores stay bounded."""
    import torch

    rows, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    step = max(1, SCORES_AT_ONCE // (rows * heads * key.shape[2]))
    outs, logsums = [], []
    for start in range(0, tokens, step):
        scores = (query[:, :, start : start + step] @ key.transpose(-1, -2)).float() * scale
        if mask is not None:
            scores = scores + mask[:, :, start : start + step]
        if causal:
            key_position = torch.arange(key.shape[2], device=key.device)
            query_position = torch.arange(start, start + scores.shape[2], device=key.device)
            scores = scores.masked_fill(key_position[None] > query_position[:, None], float("-inf"))
        logsum = scores.logsumexp(dim=-1)
        outs.append((scores - logsum[..., None]).exp().to(value.dtype) @ value)
        logsums.append(logsum)
    return torch.cat(outs, dim=2), torch.cat(logsums, dim=2)
