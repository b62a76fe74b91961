"""An adapter that leaves its base as it is, told by its file alone."""

import pytest

from harness.models.adapter_checks import saved


def zeroed(part):
    return lambda tensors: {k: v * 0 if part in k else v for k, v in tensors.items()}


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_an_update_of_which_a_factor_is_zero_changes_nothing(save, edit, part):
    folder = edit(save(), zeroed(part))
    assert saved.changes_nothing(folder) == "the update of each of its 2 layers is zero (lora_B)"


def test_one_layer_that_changes_is_enough(save, edit):
    folder = edit(save(), zeroed("layers.0.self_attn.q_proj.lora_B"))
    assert saved.changes_nothing(folder) is None


def test_vectors_of_ones_change_nothing(save, edit):
    folder = save(kind="IA3Config", target_modules=["k_proj"], feedforward_modules=[])
    assert saved.changes_nothing(folder) is None
    for dtype in ("float32", "bfloat16", "float16"):
        edit(folder, lambda tensors, to=dtype: ones(tensors, to))
        assert saved.changes_nothing(folder) == "all its 2 vectors are one"


def ones(tensors, dtype):
    import torch

    return {k: torch.ones_like(v, dtype=getattr(torch, dtype)) for k, v in tensors.items()}


@pytest.mark.parametrize(
    "fields",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [5]}],
)
def test_what_else_is_trained_may_change_something(save, edit, fields):
    folder = edit(save(**fields), zeroed("lora_B"))
    assert saved.changes_nothing(folder) is None
