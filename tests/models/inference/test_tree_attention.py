"""The attention without a fused kernel, for devices that have none, is the fused one."""

import random

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


def test_a_token_of_a_tree_sees_its_ancestors_and_itself():
    import torch

    draw = random.Random(0)
    for _ in range(50):
        parents, path = [-1], [0]
        while len(parents) < draw.randrange(1, 40):
            # depth first: below the last token or below one of its ancestors, or a new root
            path = path[: draw.randrange(len(path) + 1)] if draw.random() < 0.3 else path
            parents.append(path[-1] if path else -1)
            path = [*path, len(parents) - 1]
        ancestors = [{0}]
        for token, parent in enumerate(parents[1:], 1):
            ancestors.append({token} | (ancestors[parent] if parent >= 0 else set()))
        width = len(parents) + 3
        ancestors += [{token} for token in range(len(parents), width)]
        mask = tree_attention._tree_mask(tree_attention.Block(0, None, parents, None), width)
        expected = [
            [0.0 if i in sees else float("-inf") for i in range(width)] for sees in ancestors
        ]
        assert torch.equal(mask, torch.tensor(expected))
