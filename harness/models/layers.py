"""A model's layers by name and width, stored or loaded, and the check of an adapter's targets."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.models.causal_lm import CausalLM

ALL_LINEAR = "all-linear"
"""peft's name for every linear layer but the output's."""
_LM_HEAD = "lm_head"
_NOT_LINEAR = re.compile(rf"emb|\bw[tp]e\b|{_LM_HEAD}")
"""Stored names of embeddings and of the output layer."""
_NARROW = 4
"""A layer that is so many times narrower than the median one is a gate, a router or a projection
to a few numbers: `all-linear` leaves it out where the rank is above its width."""
_QUANT_STATE = ".quant_state.bitsandbytes__"
"""Within the name of a tensor that holds, as JSON, the shape of a matrix packed in 4 bits."""
_PACKED = (".qweight", ".weight_packed", ".weight_scale")
"""Ends of the names that other quantisations store, whose shapes are no widths."""


@dataclass(frozen=True)
class Layer:
    """A module with weights."""

    name: str
    """Dotted, from the model's root."""
    width: int | None
    """The smaller side of its matrix: an update has no higher rank. None where it has no matrix."""
    linear: bool = True
    """Whether `all-linear` may include it."""


def check_layers(
    layers: Sequence[Layer], targets: str | Collection[str] | None, rank: int | None
) -> None:
    """Raise UserError where a target matches no layer, or `rank` is above the width of a matched.

    `targets` are matched as peft does: text is `all-linear` or a pattern for a whole name, a list
    holds names or their ends. None leaves the choice to peft.
    """
    if targets is None:
        return
    all_linear, pattern = is_all_linear(targets), isinstance(targets, str)
    wanted = [targets] if isinstance(targets, str) else sorted(targets)
    narrow = too_narrow(layers, rank)
    targeted = [layer for layer in layers if all_linear and layer.linear and layer not in narrow]
    for target in [] if all_linear else wanted:
        matches = [layer for layer in layers if _matches(layer.name, target, pattern)]
        if not matches:
            raise UserError(_no_match(layers, target, pattern))
        targeted += matches
    widths = [(layer.width, layer.name) for layer in targeted if layer.width is not None]
    if rank is not None and widths and rank > min(widths)[0]:
        width, name = min(widths)
        raise UserError(
            f"r: rank {rank} is above the width {width} of {without_numbers(name)}: take r of "
            f"{width} or less, or leave that layer out of target_modules"
        )


def is_all_linear(targets: object) -> bool:
    """Whether targets are peft's `all-linear`."""
    return isinstance(targets, str) and targets.lower() == ALL_LINEAR


def too_narrow(layers: Sequence[Layer], rank: int | None) -> list[Layer]:
    """Linear layers narrower than `rank` that are far narrower than the others."""
    linear = [layer for layer in layers if layer.linear and layer.width is not None]
    if rank is None or not linear:
        return []
    usual = statistics.median(layer.width for layer in linear if layer.width is not None)
    return [
        layer
        for layer in linear
        if layer.width is not None and layer.width < rank and layer.width * _NARROW <= usual
    ]


def _matches(name: str, target: str, pattern: bool) -> bool:
    if not pattern:
        return name == target or name.endswith("." + target)
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise UserError(f"target_modules: invalid regular expression {target!r}: {error}") from None


def _no_match(layers: Sequence[Layer], target: str, pattern: bool) -> str:
    import difflib

    names = {layer.name.rpartition(".")[2] for layer in layers}
    similar = difflib.get_close_matches(target, sorted(names), n=1)
    hint = f": did you mean {similar[0]}?" if similar and similar[0] != target else ";"
    if pattern and target in names:
        hint = f" as a pattern for the whole name: write [{target}];"
    return f"target_modules: {target!r} matches no layer{hint} the model has {grouped(layers)}"


def grouped(layers: Iterable[Layer]) -> str:
    """The layers with a matrix in one line: `self_attn: k_proj, q_proj; mlp: down_proj`."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        if layer.width is None:
            continue
        parent, _, own = without_numbers(layer.name).rpartition(".")
        names = groups.setdefault(parent.rpartition(".")[2], [])
        if own not in names:
            names.append(own)
    return "; ".join(f"{k}: {', '.join(v)}" if k else ", ".join(v) for k, v in groups.items())


def without_numbers(name: str) -> str:
    """A layer's dotted name without the numbers of blocks and experts."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def stored_layers(folder: Path) -> list[Layer] | None:
    """Layers by the safetensors in a folder, their headers alone.

    None where there are none, or where their packing hides the shapes.
    """
    shapes: dict[str, list[int]] = {}
    unpacked: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            for name, tensor in header.items():
                if _QUANT_STATE in name:
                    stream.seek(8 + length + tensor["data_offsets"][0])
                    state = json.loads(stream.read(math.prod(tensor["shape"])))
                    unpacked[name.partition(_QUANT_STATE)[0]] = state["shape"]
        shapes |= {name: entry["shape"] for name, entry in header.items() if "shape" in entry}
    shapes |= unpacked
    if any(name.endswith(_PACKED) for name in shapes):
        return None
    weights = {n.removesuffix(".weight"): shapes[n] for n in shapes if n.endswith(".weight")}
    layers = [Layer(n, _width(s), not _NOT_LINEAR.search(n)) for n, s in weights.items()]
    if layers and not any(layer.name.endswith(_LM_HEAD) for layer in layers):
        layers.append(Layer(_LM_HEAD, None, False))  # it shares the embedding's weights
    return layers or None


def loaded_layers(model: CausalLM) -> list[Layer]:
    """Layers of a transformers model."""
    dimensions = ("in_features", "out_features"), ("num_embeddings", "embedding_dim")
    layers = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        # 4-bit weights are packed into another shape: the module knows its own
        shapes = [
            [getattr(module, a), getattr(module, b)] for a, b in dimensions if hasattr(module, a)
        ]
        linear = hasattr(module, "in_features") and not name.endswith(_LM_HEAD)
        layers.append(Layer(name, _width(shapes[0] if shapes else list(weight.shape)), linear))
    return layers


def _width(shape: Sequence[int]) -> int | None:
    return min(shape) if len(shape) == 2 else None
