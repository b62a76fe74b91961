"""Attention with the log-sum-exp of its scores, by the fastest kernel that gives both.

Scores are float32 whatever the states are: bf16 rounds a score of 40 to the next quarter, which a
log-sum-exp shows in full.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Kernel = Literal["flash", "efficient", "plain"]

SCORES_AT_ONCE = 2**26
"""Attention scores that the path without a fused kernel holds at once."""
_BIAS_ALIGNMENT = 16
"""Elements on whose multiples the rows of an efficient kernel's bias begin."""


def kernel_for(
    dtype: torch.dtype,
    capability: tuple[int, int] | None,
    head_dim: int,
    masked: bool,
    *,
    value_dim: int | None = None,
    groups: int = 1,
) -> Kernel:
    """The kernel of torch for CUDA that takes such states, by the rules that torch's own have.

    `capability` is the device's, None where it is not NVIDIA's. `value_dim` is the size of a value
    head, None for `head_dim`; `groups` are the query heads of each key head.

    - `flash` (Dao 2023, arXiv 2307.08691): from compute capability 8.0 on, 16-bit floats, heads of
      one size, a multiple of 8 and at most 256; no mask; any groups.
    - `efficient` (Rabe & Staats 2021, arXiv 2112.05682): one query head to each key head, sizes
      that fill 16 bytes; bf16 from 8.0 on, float16 and float32 from 5.0 on.
    - `plain` for all else: products of matrices.
    """
    import torch

    value_dim = head_dim if value_dim is None else value_dim
    if capability is None:
        return "plain"
    ampere = capability >= (8, 0)
    half = dtype in (torch.float16, torch.bfloat16)
    sizes = head_dim == value_dim and head_dim % 8 == 0 and head_dim <= 256
    if ampere and half and sizes and not masked:
        return "flash"
    known = capability >= (5, 0) and dtype in (torch.float16, torch.float32)
    known = known or (ampere and dtype == torch.bfloat16)
    aligned = all(size * dtype.itemsize % 16 == 0 for size in (head_dim, value_dim))
    return "efficient" if known and aligned and groups == 1 else "plain"


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (rows, heads, tokens, size), and the log-sum-exp of its scores without the size.

    Query is (rows, heads, tokens, size), key and value (rows, key heads, keys, size). The mask,
    (rows, 1, tokens or 1, keys), is added to the scores. `causal`, without a mask, is for as many
    keys as tokens. Keys and values are not repeated for the heads that share them.
    """
    import torch

    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
    if query.device.type == "cuda":
        return _cuda_kernel(query, key, value, mask, causal)(query, key, value, mask, causal, scale)
    return plain_attend(query, key, value, mask, causal, scale)


def hide(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores for a mask that is true where a token sees another."""
    import torch

    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))


_Attend = Callable[
    ["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor | None", bool, float],
    tuple["torch.Tensor", "torch.Tensor"],
]


def _cuda_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
) -> _Attend:
    found = capability(query.device)
    sizes = query.shape[-1], value.shape[-1]
    # the heads of a group become tokens of one head, unless their order has a meaning
    groups = query.shape[1] // key.shape[1] if causal else 1
    name = kernel_for(
        query.dtype, found, sizes[0], mask is not None, value_dim=sizes[1], groups=groups
    )
    kernels: dict[Kernel, _Attend] = {
        "flash": _flash,
        "efficient": _efficient,
        "plain": plain_attend,
    }
    return kernels[name]


def flash_takes(states: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the flash kernel takes such states, and so rows of different lengths in one call."""
    if states.device.type != "cuda":
        return False
    sizes = states.shape[-1], value.shape[-1]
    found = capability(states.device)
    return kernel_for(states.dtype, found, sizes[0], False, value_dim=sizes[1]) == "flash"


@cache
def capability(device: torch.device) -> tuple[int, int] | None:
    """A CUDA device's compute capability; None for AMD's, whose kernels have rules of their own."""
    import torch

    return None if torch.version.hip else torch.cuda.get_device_capability(device)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    out, logsum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, causal, False, scale=scale
    )
    return out, logsum


def flash_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest: tuple[int, int],
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of rows that follow each other to keys that do so too, all in one call.

    States are (1, heads, tokens, size); the ends, int32 from 0 on, are those of the rows and of
    their keys, `longest` the most tokens and the most keys of a row. Gives (1, heads, tokens, size)
    and the log-sum-exp without the size.
    """
    import torch

    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    out, logsum, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, query_ends, key_ends, *longest, 0.0, False, False, scale=scale
    )
    return out.transpose(0, 1)[None], logsum[None]


def _efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    rows, heads, tokens, _ = query.shape
    key_heads, keys = key.shape[1:3]
    groups = heads // key_heads
    folded = query.reshape(rows, key_heads, groups * tokens, -1)
    out, logsum, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        folded,
        key,
        value,
        None if mask is None else _bias(mask, query, key_heads, keys),
        True,
        0.0,
        causal,
        scale=scale,
    )
    # the kernel pads its log-sum-exp to a multiple of 32 tokens
    logsum = logsum[:, :, : groups * tokens].reshape(rows, heads, tokens)
    return out.reshape(rows, heads, tokens, -1), logsum


def _bias(mask: torch.Tensor, query: torch.Tensor, key_heads: int, keys: int) -> torch.Tensor:
    """(rows, key heads, groups x tokens, keys) of a mask, its rows aligned as the kernel wants."""
    import torch

    rows, heads, tokens, _ = query.shape
    groups = heads // key_heads
    aligned = torch.nn.functional.pad(mask.to(query.dtype), (0, -keys % _BIAS_ALIGNMENT))
    if aligned.shape[2] > 1 and groups > 1:
        aligned = aligned.repeat(1, 1, groups, 1)
    return aligned[..., :keys].expand(rows, key_heads, groups * tokens, keys)


def plain_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
    cap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend` without a fused kernel, over so many tokens at once that scores stay bounded.

    With a `cap` a score is cap x tanh(score / cap).
    """
    import torch

    rows, heads, tokens, size = query.shape
    key_heads, keys = key.shape[1:3]
    groups = heads // key_heads
    # the query heads of a key head stand in one product with it
    grouped = query.reshape(rows, key_heads, groups, tokens, size)
    flat_keys = key.reshape(rows * key_heads, keys, size).transpose(1, 2)
    flat_values = value.reshape(rows * key_heads, keys, -1)
    step = max(1, SCORES_AT_ONCE // (rows * heads * keys))
    outs, logsums = [], []
    for start in range(0, tokens, step):
        part = grouped[:, :, :, start : start + step]
        count = part.shape[3]
        scores = _product(part.reshape(rows * key_heads, groups * count, size), flat_keys)
        scores = scores.view(rows, key_heads, groups, count, keys) * scale
        if cap is not None:
            scores = cap * (scores / cap).tanh()
        if mask is not None:
            several = mask.shape[2] > 1
            scores = (
                scores + mask[:, :, None, start : start + step]
                if several
                else (scores + mask[:, :, None])
            )
        if causal:
            key_position = torch.arange(keys, device=key.device)
            query_position = torch.arange(start, start + count, device=key.device)
            scores = scores.masked_fill(key_position[None] > query_position[:, None], float("-inf"))
        logsum = scores.logsumexp(dim=-1)
        weights = (scores - logsum[..., None]).exp().to(value.dtype)
        out = weights.view(rows * key_heads, groups * count, keys) @ flat_values
        outs.append(out.view(rows, heads, count, -1))
        logsums.append(logsum.view(rows, heads, count))
    if len(outs) == 1:
        return outs[0], logsums[0]
    return torch.cat(outs, dim=2), torch.cat(logsums, dim=2)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """float32 (rows, n, k) of (rows, n, m) and (rows, m, k)."""
    import torch

    if a.dtype in (torch.float16, torch.bfloat16):
        if a.device.type == "cuda":
            return torch.bmm(a, b, out_dtype=torch.float32)
        return torch.bmm(a.float(), b.float())
    return torch.bmm(a, b).float()
