"""Adapters that start from the base's own weights: those that change the base, and what is saved.

PiSSA, OLoRA and CorDA move a part of each weight into the adapter and leave the rest in the base.
Such an adapter means nothing on the base that everybody has, so its change is saved instead, as a
LoRA of twice the rank: B A - B0 A0 = [B, -B0] [A; A0], with A0 and B0 as they were at the start.
What is left in a base in bf16 is rounded to it, so that there, and only there, the opened model
differs from the trained one by a rounding of the weights.
"""

from __future__ import annotations

import functools
import inspect
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.models.layers import (
    Layer,
    check_layers,
    is_all_linear,
    loaded_layers,
    too_narrow,
    without_numbers,
)

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig

    from harness.models.causal_lm import CausalLM

FOLDER = "initial"
_UNSET = (None, False, "none")
_NOT_CONVERTED = ("use_dora", "modules_to_save", "bias", "lora_bias", "trainable_token_indices")
"""Fields whose weights peft leaves out of the converted adapter."""


def check(model: CausalLM, peft: Any) -> list[str]:
    """Sentences on the layers that `all-linear` of a PeftConfig (or None) excludes.

    It is written into the configuration as `exclude_modules`. Raises UserError where the layers or
    the rank do not fit.
    """
    if peft is None:
        return []
    rank = peft.r if peft.peft_type == "LORA" else None
    targets = getattr(peft, "target_modules", None)
    layers = loaded_layers(model)
    check_layers(layers, targets, rank)
    reasons = _left_out(model, peft, layers, rank) if is_all_linear(targets) else {}
    if reasons:
        peft.exclude_modules = _excluded(peft, layers, reasons)
    if takes_from_base(peft):
        _check_convertible(model, peft)
    named = {(without_numbers(name), reason) for name, reason in reasons.items()}
    return [f"all-linear leaves {name} out: {reason}" for name, reason in sorted(named)]


def _left_out(
    model: CausalLM, peft: PeftConfig, layers: Sequence[Layer], rank: int | None
) -> dict[str, str]:
    """Linear layers that cannot have the adapter, each with why."""
    if not hasattr(peft, "exclude_modules"):
        return {}
    reasons = {
        layer.name: f"its width of {layer.width} is below the rank {rank}"
        for layer in too_narrow(layers, rank)
    }
    for layer in layers:
        if layer.linear and _weight_is_read(model, peft, layer.name):
            reasons[layer.name] = "its weight is read by the state-space kernel, past any adapter"
        elif layer.linear and not _gives_matrix(model.get_submodule(layer.name)):
            reasons[layer.name] = "it gives more than a matrix"
    return reasons


def _excluded(peft: Any, layers: Sequence[Layer], reasons: Mapping[str, str]) -> list[str]:
    """Names for `exclude_modules`: the last part where no other layer has it, for all blocks."""
    remaining = {layer.name.rpartition(".")[2] for layer in layers if layer.name not in reasons}
    last_parts = {name: name.rpartition(".")[2] for name in reasons}
    stated = peft.exclude_modules or []
    excluded = [stated] if isinstance(stated, str) else list(stated)
    return sorted(
        {*excluded, *(name if end in remaining else end for name, end in last_parts.items())}
    )


def _weight_is_read(model: CausalLM, peft: PeftConfig, name: str) -> bool:
    """Whether the block around a layer takes its weight instead of calling it.

    An adapter on it would change nothing and never be trained. peft refuses some of them in some
    state-space families; the block's own code tells the others.
    """
    from peft.tuners import tuners_utils

    parent, _, child_name = name.rpartition(".")
    check_mamba = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    try:
        if check_mamba is not None:
            check_mamba(peft, model, child_name)
    except ValueError:
        return True
    block: type = type(model.get_submodule(parent))
    return child_name in _weights_read(block)


@functools.cache
def _weights_read(block: type) -> frozenset[str]:
    """Names of the layers whose `.weight` the code of a module's class reads."""
    names: set[str] = set()
    for cls in block.__mro__:
        if not cls.__module__.startswith(("torch.", "builtins")):
            with suppress(OSError, TypeError):  # no source: a class made at run time
                names.update(re.findall(r"\bself\.(\w+)\.weight\b", inspect.getsource(cls)))
    return frozenset(names)


def _gives_matrix(module: Any) -> bool:
    """Whether a linear layer gives one tensor: routers that derive from `Linear` give several."""
    import torch

    if not type(module).__module__.startswith("transformers.models."):
        return True
    if type(module).forward is torch.nn.Linear.forward:
        return True
    weight = module.weight
    state = torch.zeros(1, module.in_features, dtype=weight.dtype, device=weight.device)
    training = module.training
    try:
        with torch.no_grad():
            return isinstance(module.eval()(state), torch.Tensor)
    except (RuntimeError, ValueError, TypeError):
        return False
    finally:
        module.train(training)


def _check_convertible(model: CausalLM, peft: LoraConfig) -> None:
    """Raise UserError where a change of the base could not be saved as a plain LoRA."""
    subject = f"init_lora_weights {peft.init_lora_weights} takes from the base's weights"
    if getattr(model, "is_quantized", False):
        raise UserError(f"{subject}, which are quantised: leave quant_type out")
    unsupported = [name for name in _NOT_CONVERTED if getattr(peft, name, None) not in _UNSET]
    if peft.use_rslora:
        unsupported += [name for name in ("rank_pattern", "alpha_pattern") if getattr(peft, name)]
    if unsupported:
        raise UserError(
            f"{subject} and cannot be saved together with {unsupported[0]}: leave one out"
        )


@contextmanager
def refused(peft: Any) -> Iterator[None]:
    """Turn peft's refusal of a PeftConfig (or None) into a UserError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if peft is None:
            raise
        message = f"{type(peft).__name__}: {' '.join(str(error).split())}"
        if "ParamWrapper" in message and peft.target_modules:
            names = {name.rpartition(".")[2] for name in peft.target_modules}
            remaining = ", ".join(sorted(names - {*(peft.exclude_modules or ())}))
            message = (
                f"{message.rstrip('.')}: the experts' weights are single tensors, on which it "
                f"cannot be put; name the other layers, target_modules: [{remaining}]"
            )
        raise UserError(message) from error


def takes_from_base(peft: object) -> bool:
    """Whether the initialisation of a PeftConfig changes the base's weights."""
    initialisation = str(getattr(peft, "init_lora_weights", "")).lower()
    return initialisation.startswith(("pissa", "olora", "corda"))


def keep(model: CausalLM, peft: PeftConfig | None, folder: Path) -> Path | None:
    """Save the adapter before its training where `save` needs it; its folder, or None."""
    if peft is None or not takes_from_base(peft):
        return None
    initial = folder / FOLDER
    config = model.peft_config["default"]
    init, config.init_lora_weights = config.init_lora_weights, True
    model.save_pretrained(initial)
    config.init_lora_weights = init
    return initial


def save(model: CausalLM, folder: Path, initial: Path) -> None:
    """Save what training changed as an adapter for the untouched base."""
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
    shutil.rmtree(initial)
