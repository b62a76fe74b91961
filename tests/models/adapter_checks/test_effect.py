"""An adapter that is never applied, or changes no answer."""

import pytest

from harness.errors import UserError
from harness.models.adapter_checks.effect import Probe
from harness.models.adapters import attach_adapter
from harness.models.initial_adapter import check
from harness.models.language_model import load_weights
from tests.zoo import zoo


def zeroed(part):
    return lambda tensors: {k: v * 0 if part in k else v for k, v in tensors.items()}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_zero_update_is_told_whatever_its_kind(save, edit, opened, precision):
    for number, fields in enumerate(
        [
            {},
            {"target_modules": "all-linear"},
            {"kind": "VeraConfig", "target_modules": ["q_proj"], "r": 4},
        ]
    ):
        part = "vera_lambda_b" if "kind" in fields else "lora_B"
        folder = edit(save(f"{number}", **fields), zeroed(part))
        (told,) = opened(folder, precision=precision).warnings
        assert told.startswith("adapter.no_effect: with the adapter the model gives a probe text")


def test_a_trained_layer_beside_a_zero_update_is_an_effect(save, edit, opened):
    folder = edit(save(modules_to_save=["lm_head"]), zeroed("lora_B"))
    assert opened(folder).warnings == []
    # loaded over the base's own, where the configuration does not name it
    assert opened(edit(folder, modules_to_save=None)).warnings == []


@pytest.mark.parametrize("family", [name for name in zoo.SHORT if name != "bert"][::2])
def test_families_are_told_alike(family, edit, tmp_path):
    """Each way of laying out a model: an adapter of all its linear layers, and its zero."""
    from peft import LoraConfig, get_peft_model

    base = zoo.built(family)
    lora = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    config = LoraConfig(task_type="CAUSAL_LM", **lora)
    check(base, config)
    get_peft_model(base, config).save_pretrained(tmp_path)
    assert doubt(family, tmp_path) is None
    assert doubt(family, edit(tmp_path, zeroed("lora_B"))).startswith("adapter.no_effect")


def doubt(family, folder):
    model = zoo.built(family)
    probe = Probe(model, zoo.tokenizer(), folder)
    return probe.check(attach_adapter(model, 1, folder), "the adapter mine")


@pytest.mark.parametrize("bits", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_quantised_bases_are_told_alike(save, edit, opened, bits):
    folder = save(target_modules="all-linear")
    assert opened(folder, quantization=bits).warnings == []
    (told,) = opened(edit(folder, zeroed("lora_B")), quantization=bits).warnings
    assert told.startswith("adapter.no_effect")


def test_layers_that_never_run_are_refused(tiny_artifact, tokenizer, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    def base():
        model = load_weights(tiny_artifact)
        model.beside = torch.nn.Linear(8, 8)
        return model

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["beside"], init_lora_weights=False)
    get_peft_model(base(), config).save_pretrained(tmp_path)
    model = base()
    probe = Probe(model, tokenizer, tmp_path)
    adapted = attach_adapter(model, len(tokenizer), tmp_path)
    with pytest.raises(UserError, match="none of the 1 layers that it changes runs in the model"):
        probe.check(adapted, "the adapter mine")


def test_an_adapter_that_is_switched_off_is_refused(save, tiny_artifact, tokenizer):
    folder, model = save(), load_weights(tiny_artifact)
    probe = Probe(model, tokenizer, folder)
    adapted = attach_adapter(model, len(tokenizer), folder)
    assert probe.check(adapted, "the adapter mine") is None
    with adapted.disable_adapter(), pytest.raises(UserError, match="it is never applied"):
        probe.check(adapted, "the adapter mine")
