"""Whether peft loaded all of an adapter's file: what fits nothing it skips without a word."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.models.adapter_checks import saved
from harness.models.adapter_checks.vocabulary import layer_names

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

__all__ = ["check_base_copies", "check_loaded", "missing_module", "own_embeddings"]

_VIRTUAL = "prompt_embeddings"
"""Virtual tokens, which peft loads apart from layers."""


def missing_module(error: KeyError, folder: Path) -> str:
    """What peft's KeyError means: a whole layer of the configuration is not in the file."""
    name = str(error.args[0]) if error.args else "a tensor"
    trained = saved.config(folder).get("modules_to_save")
    stated = f"modules_to_save: {', '.join(trained)}" if trained else "its configuration"
    return (
        f"{saved.WEIGHTS} has no tensor {name}, which {saved.CONFIG} says was trained ({stated}): "
        "save the adapter again where it was trained"
    )


def check_base_copies(model: Any, folder: Path, subject: str) -> None:
    """Raise UserError where the file's copies of frozen layers are not the base's own.

    Beside an adapter of the embeddings or the head peft saves the layer itself, as it was under the
    adapter in training: on the base of that training it is this model's layer. peft would load it
    over the model's. `model` is the base without the adapter.
    """
    names = saved.shapes(folder)
    for layer, module in layer_names(model).items():
        adapted = any(name.startswith(f"{layer}.lora_") for name in names)
        for name in (f"{layer}.base_layer.weight", f"{layer}.weight"):
            if not adapted or name not in names:
                continue
            if not _same_weights(_read(folder, name), module.weight):
                raise UserError(
                    f"{subject}: it holds a copy of its base's {layer.rpartition('.')[2]}, and "
                    "this base's has other weights: open it on the base that it was trained on"
                )


def own_embeddings(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The base's embeddings and head by layer, where the file holds whole ones.

    Copies, for peft loads the file's over them; empty for adapters of other layers.
    """
    names = saved.shapes(folder)
    return {
        layer: module.weight.detach().cpu().clone()
        for layer, module in layer_names(model).items()
        if {f"{layer}.weight", f"{layer}.base_layer.weight"} & set(names)
    }


def check_loaded(
    peft_model: PeftModel, folder: Path, subject: str, before: Mapping[str, torch.Tensor]
) -> None:
    """Raise UserError for tensors of the file that the model did not take over.

    Loading once more returns the keys that it has no place for: peft renames tensors and fuses
    those of a mixture's experts, so neither the names nor the count in the file show it. A copy of
    a frozen layer may be left out where it is what the base has anyway: `before` holds the
    embeddings and the head (name -> weight) as they were without the adapter.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warnings were errors the first time
        unused = peft_model.load_adapter(str(folder), peft_model.active_adapter).unexpected_keys
    left_out = sorted(name for name in unused if not _needless(name, folder, before))
    if left_out:
        raise UserError(
            f"{subject}: the model has no layer for {len(left_out)} of its tensors (first: "
            f"{left_out[0]}), so they would be left out: open it on the base that it was trained "
            f"on, with the {saved.CONFIG} that was saved with it"
        )


def _needless(name: str, folder: Path, before: Mapping[str, torch.Tensor]) -> bool:
    """Whether nothing is lost without a tensor: peft loads it apart, or the base has it already."""
    if name == _VIRTUAL:
        return True
    weight = before.get(name.removesuffix(".weight").removesuffix(".base_layer"))
    if weight is None or name not in saved.shapes(folder):
        return False
    return _same_weights(_read(folder, name), weight)


def _read(folder: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(str(folder / saved.WEIGHTS), "pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _same_weights(saved_: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether two tensors are one, stored in types of at least 8 bits of mantissa."""
    import torch

    if saved_.shape != own.shape:
        return False
    theirs, ours = saved_.float(), own.detach().cpu().float()
    return bool(torch.allclose(theirs, ours, rtol=2**-7, atol=1e-6))
