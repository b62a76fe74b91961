"""Embeddings and tokenizers of an adapter against its base's."""

import json

import pytest

from harness.errors import UserError


def resized(by):
    """Tensors of embeddings and head with `by` rows more, or fewer."""
    import torch

    def change(tensors):
        def rows(name, tensor):
            if not any(part in name for part in ("embed_tokens.weight", "lm_head.weight")):
                return tensor
            grown = torch.cat([tensor, tensor[: max(by, 0)]])
            return grown[: len(tensor) + by].clone()

        return {name: rows(name, tensor) for name, tensor in tensors.items()}

    return change


@pytest.mark.parametrize("by", [3, -3])
def test_resized_embeddings_are_refused(save, edit, opened, tokenizer, by):
    folder = edit(save(modules_to_save=["embed_tokens", "lm_head"]), resized(by))
    told = f"has {len(tokenizer) + by} rows, the model's {len(tokenizer)}: .*were resized.*merge it"
    with pytest.raises(UserError, match=told):
        opened(folder)


def test_an_adapter_of_the_head_for_another_vocabulary_is_refused(save, edit, opened):
    def narrow(tensors):
        return {k: v[:-5].clone() if "lm_head.lora_B" in k else v for k, v in tensors.items()}

    folder = save(target_modules=["lm_head"], embeddings=False)
    assert opened(folder).warnings == []
    with pytest.raises(UserError, match=r"its lm_head has .* rows, the model's"):
        opened(edit(folder, narrow))


@pytest.fixture
def with_tokenizer(save, tokenizer, tiny_model):
    """`with_tokenizer(rename)` is an adapter whose tokenizer calls some tokens otherwise."""

    def make(rename=lambda token, number: token, **fields):
        folder = save(**fields)
        type(tokenizer).from_pretrained(tiny_model).save_pretrained(folder)
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text())
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = {rename(t, i): i for t, i in vocabulary.items()}
        content["model"]["merges"] = []
        file.write_text(json.dumps(content))
        return folder

    return make


def test_the_bases_own_tokenizer_raises_no_doubt(with_tokenizer, opened):
    assert opened(with_tokenizer()).warnings == []


def test_a_few_renamed_tokens_are_told(with_tokenizer, opened):
    last = 590
    folder = with_tokenizer(lambda token, i: f"<new{i}>" if i >= last else token)
    (told,) = opened(folder).warnings
    assert told.startswith("adapter.vocabulary: the adapter's own tokenizer, which is used, gives ")
    assert f"(first: {last}, '<new{last}>' for " in told


def test_another_vocabulary_of_the_same_size_is_refused(with_tokenizer, opened):
    folder = with_tokenizer(lambda token, i: f"<new{i}>" if i >= 300 else token)
    with pytest.raises(UserError, match=r"ids another token than the base's .*another vocabulary"):
        opened(folder)


@pytest.fixture
def roomy(tiny_model, tmp_path):
    """The tiny model with more embeddings than tokens, as most models have."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(pad_to_multiple_of=64)
    model.save_pretrained(tmp_path / "roomy")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "roomy")
    return tmp_path / "roomy"


def test_added_tokens_without_their_embeddings_are_told(save, opened, roomy, tokenizer, tiny_model):
    folder = save()
    own = type(tokenizer).from_pretrained(tiny_model)
    own.add_tokens(["<tool>"])
    own.save_pretrained(folder)
    (told,) = opened(folder, roomy).warnings
    assert "adds 1 tokens to its base's (first: '<tool>')" in told


def test_an_added_padding_token_is_not(save, opened, roomy, tokenizer, tiny_model):
    folder = save()
    own = type(tokenizer).from_pretrained(tiny_model)
    own.add_special_tokens({"pad_token": "<pad>"})
    own.save_pretrained(folder)
    assert opened(folder, roomy).warnings == []
