"""Which base an adapter was trained on, and which it is put on."""

import json
import shutil

import pytest

from harness.models import trained_artifact
from harness.models.adapter_checks.base import other_base
from harness.system.hub import content_hash
from harness.types import Artifact, ModelRef


def folder_ref(folder):
    return ModelRef(str(folder), str(folder), content_hash(folder))


@pytest.mark.parametrize(
    ("stated", "model"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", ModelRef("smollm2-135m", "/cache/elsewhere")),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", ModelRef("x/SmolLM2-135M-Instruct@main", "x/S")),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", ModelRef("/data/base", "/data/base", "ab")),
        ("/home/me/base", ModelRef("org/model", "org/model", revision="abc")),
        ("models/base", ModelRef("org/model", "org/model", revision="abc")),
        ("unsloth/model-unsloth-bnb-4bit", ModelRef("org/Model", "org/Model", revision="abc")),
        ("NousResearch/Llama-2-7b-hf", ModelRef("meta/Llama-2-7b", "meta/Llama-2-7b")),
        ("", ModelRef("org/model", "org/model", revision="abc")),
    ],
)
def test_names_that_may_be_one_model_raise_no_doubt(save, edit, stated, model):
    folder = edit(save(), base_model_name_or_path=stated)
    assert other_base(folder, model) is None


@pytest.mark.parametrize(
    ("stated", "model", "told"),
    [
        ("org/one", ModelRef("org/two", "org/two"), "base is org/one; it was opened on org/two"),
        (
            "HuggingFaceTB/SmolLM2-135M",
            ModelRef("smollm2-135m", "/cache/elsewhere"),
            "opened on HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        ("Qwen/Qwen3-8B-Base", ModelRef("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"), "opened on Qwen/Qwen3"),
    ],
)
def test_names_of_two_models_of_the_hub_are_told(save, edit, stated, model, told):
    folder = edit(save(), base_model_name_or_path=stated)
    found = other_base(folder, model)
    assert found.startswith("adapter.other_base: the adapter says that its ")
    assert told in found


def test_another_revision_is_told(save, edit):
    folder = edit(save(), base_model_name_or_path="org/one", revision="a" * 40)
    assert other_base(folder, ModelRef("org/one", "org/one", revision="a" * 40)) is None
    told = other_base(folder, ModelRef("org/one", "org/one", revision="b" * 40))
    assert "revision aaaaaaaaaaaa of org/one; it was opened on bbbbbbbbbbbb" in told


def test_a_stated_folder_is_compared_by_its_content(save, tiny_model, reweighed, tmp_path):
    folder = save()
    assert other_base(folder, folder_ref(tiny_model)) is None
    copy = tmp_path / "under-another-name"
    shutil.copytree(tiny_model, copy)
    assert other_base(folder, folder_ref(copy)) is None
    told = other_base(folder, folder_ref(reweighed))
    assert "base is tiny; it was opened on reweighed, whose weights" in told


def test_a_recorded_base_is_compared_by_its_hash(save, tiny_model, reweighed):
    folder, base = save(), folder_ref(tiny_model)
    training = {"phases": {}}
    trained_artifact.keep(folder, "id", training, [], Artifact("adapter", base, path=str(folder)))
    moved = ModelRef("/gone/elsewhere", "/gone/elsewhere", base.content_hash)
    assert other_base(folder, moved) is None
    told = other_base(folder, folder_ref(reweighed))
    assert f"trained on tiny with the content {base.content_hash[:12]}" in told
    assert "opened on reweighed with" in told


def test_another_tools_training_file_is_no_record(save, tiny_model, reweighed):
    folder = save()
    (folder / "training.json").write_text(json.dumps({"artifact": {"base": 3}}))
    assert other_base(folder, folder_ref(tiny_model)) is None
    assert other_base(folder, folder_ref(reweighed))
