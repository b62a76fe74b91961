"""Model folders that are broken, of another kind, or do not fit together: told before a load."""

import json
import shutil

import pytest

from harness.models.model_files import fault


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_a_whole_model_has_no_fault(folder):
    assert fault(folder) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"[]", "config.json that holds a list"),
        ("config.json", b"{", "broken config.json"),
        ("tokenizer.json", b"{", "broken tokenizer.json"),
        ("tokenizer.json", b"{}", "broken tokenizer.json"),
        ("tokenizer_config.json", b"\xff", "broken tokenizer_config.json"),
        ("model.safetensors", b"", "of 0 bytes, which is not a safetensors file"),
        ("model.safetensors", b"\x05" + bytes(7) + b"[1,2]", "broken model.safetensors"),
        ("model.safetensors", bytes(7) + b"\x01{}", "which is not a safetensors file"),
    ],
)
def test_a_broken_file_is_named(folder, name, content, said):
    (folder / name).write_bytes(content)
    assert said in fault(folder)


def test_weights_that_were_cut_short_are_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "it was cut short or changed: download it again" in fault(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "does not open"),
        ({"model_type": "qwen2_vl"}, "does not open"),
        ({"model_type": "llava"}, "does not open"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "for another task"),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, "for another task"),
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, "another task"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "in both directions"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "another"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "a.B"}}, "set trust_remote_code: true"),
        ({}, "without a model_type"),
    ],
)
def test_what_is_no_causal_language_model_is_told_from_its_configuration(folder, config, said):
    (folder / "config.json").write_text(json.dumps(config))
    assert said in fault(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        {"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"]},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True},
        {"model_type": "mistral"},
    ],
)
def test_what_opens_as_a_causal_language_model_is_let_through(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    assert fault(folder) is None


def test_a_token_beyond_the_embeddings_is_named_where_texts_need_it(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    token = {**tokenizer["added_tokens"][0], "id": size, "content": "<|turn|>"}
    tokenizer["added_tokens"].append(token)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert fault(folder) is None  # nothing writes it
    (folder / "chat_template.jinja").write_text("<|turn|>{{ messages[0].content }}")
    said = fault(folder)
    assert f"a tokenizer of {size + 1} tokens and a model of {size} embeddings" in said
    assert "'<|turn|>'" in said
