"""All that an adapter's file holds is in the model, or the adapter is refused."""

import pytest

from harness.errors import UserError

RIGHT = [
    {},
    {"target_modules": "all-linear"},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens", "norm"]},
    {"trainable_token_indices": [5, 6]},
    {"use_dora": True},
    {"use_rslora": True},
    {"bias": "lora_only"},
    {"embeddings": True},
    {"kind": "IA3Config", "target_modules": ["k_proj"], "feedforward_modules": []},
    {"kind": "VeraConfig", "target_modules": ["q_proj"], "r": 4},
    {"kind": "LoHaConfig", "target_modules": ["q_proj"]},
    {"kind": "OFTConfig", "target_modules": ["q_proj"], "oft_block_size": 8},
    {"kind": "TrainableTokensConfig", "token_indices": [7]},
    {"kind": "LNTuningConfig", "target_modules": ["input_layernorm"]},
    {"kind": "PromptTuningConfig", "num_virtual_tokens": 3},
    {"kind": "PrefixTuningConfig", "num_virtual_tokens": 3},
]


@pytest.mark.parametrize("fields", RIGHT, ids=str)
def test_right_adapters_raise_no_doubt(save, opened, fields):
    assert opened(save(**fields)).warnings == []


def test_tensors_under_other_names_are_refused(save, edit, opened):
    def renamed(tensors):
        return tensors | {k.replace("q_proj", "q_projection"): v + 0 for k, v in tensors.items()}

    with pytest.raises(UserError, match=r"no layer for 4 of its tensors \(first: .*q_projection"):
        opened(edit(save(), renamed))


@pytest.mark.parametrize(
    ("trained", "now", "part"),
    [
        ({"use_dora": True}, {"use_dora": False}, "lora_magnitude_vector"),
        ({"trainable_token_indices": [5]}, {"trainable_token_indices": None}, "token_adapter"),
        ({"target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["q_proj"]}, "v_proj"),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            {"target_modules": ["q_proj"]},
            "lm_head",
        ),
    ],
)
def test_what_the_configuration_no_longer_names_is_refused(save, edit, opened, trained, now, part):
    with pytest.raises(UserError, match=rf"the model has no layer for .*{part}"):
        opened(edit(save(**trained), **now))


def test_a_whole_layer_that_the_file_lacks_is_refused(save, edit, opened):
    folder = edit(save(), modules_to_save=["lm_head"])
    with pytest.raises(UserError, match=r"no tensor .*lm_head.*modules_to_save: lm_head.*save the"):
        opened(folder)


def test_removed_tensors_are_refused(save, edit, opened):
    def without_first(tensors):
        return {k: v for k, v in tensors.items() if "layers.0" not in k}

    with pytest.raises(UserError, match=r"does not fit the model: .*missing adapter keys"):
        opened(edit(save(), without_first))


def test_a_whole_layer_under_the_old_name_is_refused_where_it_was_trained(save, edit, opened):
    """Beside an adapter of the layer: peft has no place for it, and leaves it out."""

    def renamed(change):
        def rename(tensors):
            return {
                k.replace("base_layer.", ""): v + change * (".base_layer." in k)
                for k, v in tensors.items()
            }

        return rename

    folder = save(target_modules=["q_proj", "embed_tokens"])
    assert opened(edit(folder, renamed(0))).warnings == []
    folder = save("trained", target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(UserError, match="this base's has other weights"):
        opened(edit(folder, renamed(0.5)))


def test_another_base_of_the_same_shape_is_found_by_the_copy_of_its_layer(save, opened, reweighed):
    folder = save(target_modules=["q_proj", "lm_head"])
    with pytest.raises(UserError, match="copy of its base's lm_head, and this base's has other"):
        opened(folder, reweighed)
    assert opened(folder, precision="bf16").warnings == []
