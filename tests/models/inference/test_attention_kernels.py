"""Every kernel gives the same attention, and each is taken where its rules allow it alone."""

import pytest

from harness.models.inference.attention import kernels
from harness.models.inference.attention.kernels import attend, kernel_for, plain_attend


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("at_once", [1, 1000, 2**26])
def test_plain_attention_is_the_fused_one(monkeypatch, causal, at_once):
    import torch

    torch.manual_seed(0)
    monkeypatch.setattr(kernels, "SCORES_AT_ONCE", at_once)
    query = torch.randn(2, 6, 20, 16)
    key, value = torch.randn(2, 3, 20, 16), torch.randn(2, 3, 20, 16)
    mask = torch.zeros(2, 1, 20, 20).masked_fill(torch.rand(2, 1, 20, 20) > 0.8, float("-inf"))
    mask = None if causal else mask
    fused = attend(query, key, value, mask, causal, 0.25)
    plain = plain_attend(query, key, value, mask, causal, 0.25)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spread", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("causal", [True, False])
def test_sixteen_bits_keep_their_scores_in_float32(spread, causal):
    """Keys with large biases, as Qwen2.5's: rounded to bf16 a score of 100 is off by up to 0.25."""
    import torch

    torch.manual_seed(0)
    size, groups = 64, 2
    query = (torch.randn(1, 4, 48, size) * spread).bfloat16()
    key = (torch.randn(1, 2, 48, size) * spread**0.5 + 3 * torch.randn(1, 2, 1, size)).bfloat16()
    value = torch.randn(1, 2, 48, size).bfloat16()
    out, logsum = plain_attend(query, key, value, None, causal, size**-0.5)
    exact = [states.double().repeat_interleave(groups, dim=1) for states in (key, value)]
    scores = query.double() @ exact[0].transpose(-1, -2) * size**-0.5
    if causal:
        scores = scores.masked_fill(~torch.ones(48, 48, dtype=torch.bool).tril(), float("-inf"))
    assert logsum.dtype == torch.float32
    assert out.dtype == torch.bfloat16
    largest = float(scores[scores.isfinite()].abs().max())
    torch.testing.assert_close(
        logsum.double(), scores.logsumexp(-1), atol=1e-6 * max(1.0, largest) * 8, rtol=0
    )
    # weights and output are bf16: 8 bits each
    error = (out.double() - scores.softmax(-1) @ exact[1]).abs().max()
    assert float(error) < 0.03


AMPERE, TURING, MAXWELL = (8, 0), (7, 5), (5, 2)


@pytest.mark.parametrize(
    ("dtype", "capability", "head_dim", "masked", "more", "kernel"),
    [
        ("bfloat16", AMPERE, 128, False, {}, "flash"),
        ("float16", (9, 0), 64, False, {}, "flash"),
        ("bfloat16", (12, 0), 256, False, {}, "flash"),
        ("bfloat16", AMPERE, 128, False, {"groups": 4}, "flash"),
        # a mask, a size, a number format or a card that flash does not take
        ("bfloat16", AMPERE, 128, True, {}, "efficient"),
        ("bfloat16", AMPERE, 512, False, {}, "efficient"),
        ("bfloat16", AMPERE, 192, False, {"value_dim": 128}, "efficient"),
        ("float32", AMPERE, 128, False, {}, "efficient"),
        ("float32", MAXWELL, 20, True, {}, "efficient"),
        ("float16", TURING, 64, True, {}, "efficient"),
        # and what the efficient one does not take either
        ("bfloat16", AMPERE, 128, True, {"groups": 4}, "plain"),
        ("float32", AMPERE, 128, False, {"groups": 2}, "plain"),
        ("bfloat16", AMPERE, 20, False, {}, "plain"),
        ("bfloat16", AMPERE, 64, True, {"value_dim": 20}, "plain"),
        ("float32", AMPERE, 18, False, {}, "plain"),
        ("bfloat16", TURING, 64, False, {}, "plain"),
        ("float64", AMPERE, 64, False, {}, "plain"),
        ("float16", (3, 7), 64, False, {}, "plain"),
        ("bfloat16", None, 128, False, {}, "plain"),
    ],
)
def test_the_kernel_follows_from_dtype_card_sizes_and_mask(
    dtype, capability, head_dim, masked, more, kernel
):
    import torch

    assert kernel_for(getattr(torch, dtype), capability, head_dim, masked, **more) == kernel


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("broadcast", [True, False])
def test_query_heads_folded_into_tokens_attend_as_they_would_apart(monkeypatch, tokens, broadcast):
    """The efficient kernel wants a query head to each key head, and the mask's rows aligned."""
    import torch

    torch.manual_seed(0)
    rows, heads, key_heads, keys, size = 3, 6, 2, 21, 8
    query = torch.randn(rows, heads, tokens, size)
    key, value = torch.randn(rows, key_heads, keys, size), torch.randn(rows, key_heads, keys, size)
    mask_shape = (rows, 1, 1 if broadcast else tokens, keys)
    mask = torch.zeros(mask_shape).masked_fill(torch.rand(mask_shape) > 0.7, float("-inf"))
    mask[..., 0] = 0
    seen = []

    def efficient(query, key, value, bias, with_logsum, dropout, causal, scale):
        """torch's, by another of its functions, with the padding of its log-sum-exp."""
        assert query.shape[1] == key.shape[1]
        assert bias.shape == (*query.shape[:3], keys)
        assert all(stride % 16 == 0 for stride in bias.stride()[:3])
        assert with_logsum
        seen.append(bias)
        out, logsum = plain_attend(query, key, value, bias[:, :1], causal, scale)
        padded = torch.nn.functional.pad(logsum, (0, -logsum.shape[-1] % 32), value=9.0)
        return out, padded, None, None

    name = "_scaled_dot_product_efficient_attention"
    with monkeypatch.context() as patched:  # the first comparison of a process imports users of it
        patched.setattr(torch.ops.aten, name, efficient)
        folded = kernels._efficient(query, key, value, mask, False, 0.3)
    assert seen
    for one, other in zip(folded, plain_attend(query, key, value, mask, False, 0.3), strict=True):
        torch.testing.assert_close(one, other)
