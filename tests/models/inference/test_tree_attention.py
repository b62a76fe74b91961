"""The attention without a fused kernel, for devices that have none, is the fused one."""

import pytest

from harness.models.inference import tree_attention


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("at_once", [1, 1000, 2**26])
def test_plain_attention_is_the_fused_one(monkeypatch, causal, at_once):
    import torch

    torch.manual_seed(0)
    monkeypatch.setattr(tree_attention, "SCORES_AT_ONCE", at_once)
    query = torch.randn(2, 6, 20, 16)
    key, value = torch.randn(2, 3, 20, 16), torch.randn(2, 3, 20, 16)
    mask = torch.zeros(2, 1, 20, 20).masked_fill(torch.rand(2, 1, 20, 20) > 0.8, float("-inf"))
    mask = None if causal else mask
    fused = tree_attention.attend(query, key, value, mask, causal, 0.25)
    plain = tree_attention._plain_attend(query, key, value, mask, causal, 0.25)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other)
