"""Which tokens of a pack see which, and what is joined of the parts."""

import random
from itertools import accumulate

import pytest

from harness.models.inference import tree_attention
from harness.models.inference.attention.kernels import plain_attend
from harness.models.inference.attention.past import Past, Run, joins_of


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


@pytest.mark.parametrize("padded", [False, True], ids=["run-by-run", "padded"])
def test_attention_to_pasts_of_many_lengths_is_that_of_each_run(padded):
    """Runs with pasts of their own, below two that they share; a fourth level is no one's."""
    import torch

    torch.manual_seed(0)
    heads, key_heads, size, layer, scale = 4, 2, 8, 0, 0.3

    def past(length, before=None):
        made = Past(before)
        made.keys[layer] = torch.randn(1, key_heads, length, size)
        made.values[layer] = torch.randn(1, key_heads, length, size)
        return made

    shared = [past(6), past(9)]
    stems = [past(length, shared[i > 1]) for i, length in enumerate((3, 17, 5, 4))]
    lengths = [2, 9, 1, 4, 3]
    owners = [0, 1, 2, 3, 3]
    ends = list(accumulate(lengths))
    runs = [
        Run(end - length, end, stems[owner])
        for end, length, owner in zip(ends, lengths, owners, strict=True)
    ]
    query = torch.randn(1, heads, ends[-1], size)
    joins = joins_of(runs)
    assert [len(join.runs) for join in joins] == [4, 2]
    for depth, join in enumerate(joins):
        if padded:
            keys, values = (
                torch.cat([getattr(run.past, name)[layer] for run in join.runs], dim=2)
                for name in ("keys", "values")
            )
            out, logsum = join._padded(query, keys, values, scale)
        else:
            out, logsum = join.attend(layer, query, scale)
        for run in runs:
            part = list(run.past.chain())[depth]
            expected = plain_attend(
                query[:, :, run.start : run.end],
                part.keys[layer],
                part.values[layer],
                None,
                False,
                scale,
            )
            torch.testing.assert_close(out[:, :, run.start : run.end], expected[0])
            torch.testing.assert_close(logsum[:, :, run.start : run.end], expected[1])
