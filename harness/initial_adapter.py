"""Adapters that start from the base's own weights: those that change the base, and what is saved.

PiSSA, OLoRA and CorDA move a part of each weight into the adapter and leave the rest in the base.
Such an adapter means nothing on the base that everybody has, so its change is saved instead, as a
LoRA of twice the rank: B A - B0 A0 = [B, -B0] [A; A0], with A0 and B0 as they were at the start.
What is left in a base in bf16 is rounded to it, so that there, and only there, the reopened model
differs from the trained one by a rounding of the weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.layers import check_layers, loaded_layers

FOLDER = "initial"
_UNSET = (None, False, "none")
_NOT_CONVERTED = ("use_dora", "modules_to_save", "bias", "lora_bias", "trainable_token_indices")
"""Fields whose weights peft leaves out of the converted adapter."""


def check(model: Any, peft: Any) -> None:
    """Raise UserError where the layers or the rank of a PeftConfig (or None) do not fit `model`."""
    if peft is None:
        return
    rank = peft.r if peft.peft_type == "LORA" else None
    check_layers(loaded_layers(model), getattr(peft, "target_modules", None), rank)
    if takes_from_base(peft):
        _check_convertible(model, peft)


def _check_convertible(model: Any, peft: Any) -> None:
    """Raise UserError where a change of the base could not be saved as a plain LoRA."""
    how = f"init_lora_weights {peft.init_lora_weights} takes from the base's weights"
    if getattr(model, "is_quantized", False):
        raise UserError(f"{how}, which are quantised: leave quant_type out")
    set_too = [name for name in _NOT_CONVERTED if getattr(peft, name, None) not in _UNSET]
    if peft.use_rslora:
        set_too += [name for name in ("rank_pattern", "alpha_pattern") if getattr(peft, name)]
    if set_too:
        raise UserError(f"{how} and cannot be saved together with {set_too[0]}: leave one out")


@contextmanager
def refused(peft: Any) -> Iterator[None]:
    """UserError for what peft says against putting a PeftConfig (or None) on the model."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if peft is None:
            raise
        raise UserError(f"{type(peft).__name__}: {' '.join(str(error).split())}") from error


def takes_from_base(peft: Any) -> bool:
    """Whether the initialisation of a PeftConfig changes the base's weights."""
    how = str(getattr(peft, "init_lora_weights", "")).lower()
    return how.startswith(("pissa", "olora", "corda"))


def keep(model: Any, peft: Any, folder: Path) -> Path | None:
    """Save the adapter before its training where `save` needs it; its folder, or None."""
    if peft is None or not takes_from_base(peft):
        return None
    initial = folder / FOLDER
    config = model.peft_config["default"]
    told, config.init_lora_weights = config.init_lora_weights, True
    model.save_pretrained(initial)
    config.init_lora_weights = told
    return initial


def save(model: Any, folder: Path, initial: Path) -> None:
    """Save what training changed as an adapter for the untouched base."""
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
    shutil.rmtree(initial)
