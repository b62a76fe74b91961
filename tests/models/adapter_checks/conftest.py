"""Real adapters of the tiny model, and folders in which something was changed by hand."""

import json
import shutil
import warnings

import pytest

from harness.models.adapter_checks.saved import CONFIG, WEIGHTS
from harness.models.language_model import load_weights, open_artifact
from harness.types import Artifact, ModelRef


@pytest.fixture
def save(tiny_artifact, tmp_path):
    """`save("name", kind=LoraConfig, ...)` is the folder of a fresh adapter with random values."""

    def saved(name="mine", kind="LoraConfig", embeddings="auto", **fields):
        import peft
        import torch

        given = {"task_type": "CAUSAL_LM", **fields}
        if kind == "LoraConfig":
            given = {"init_lora_weights": False, "r": 4, "target_modules": ["q_proj"], **given}
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(load_weights(tiny_artifact), getattr(peft, kind)(**given))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.1 * torch.randn_like(parameter)
            model.save_pretrained(tmp_path / name, save_embedding_layers=embeddings)
        return tmp_path / name

    return saved


@pytest.fixture
def edit():
    """`edit(folder, tensors=function, field=value)` changes an adapter's file and configuration."""

    def changed(folder, tensors=None, **fields):
        from safetensors.torch import load_file, save_file

        if tensors is not None:
            content = tensors(load_file(folder / WEIGHTS))
            save_file(content, folder / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **fields}))
        return folder

    return changed


@pytest.fixture
def opened(tiny_model):
    """`opened(folder)` is the adapter on the tiny model, or on another."""

    def make(folder, model=tiny_model, **fields):
        artifact = Artifact("adapter", ModelRef("tiny", str(model)), path=str(folder), **fields)
        return open_artifact(artifact)

    return make


@pytest.fixture(scope="session")
def reweighed(tiny_model):
    """The tiny model's shapes and tokenizer, and other weights."""
    from safetensors.torch import load_file, save_file

    folder = tiny_model.with_name("reweighed")
    shutil.copytree(tiny_model, folder)
    tensors = {
        k: v.flip(0).contiguous() for k, v in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
