"""A model's layers by name and width, and whether adapters fit on them.

The parent process reads names from the safetensors' headers. A mixture of experts is stored under
other names than its modules have: where it does not fit, a child builds the model without weights
and has the last word.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import child
from harness.errors import UserError
from harness.types import ModelRef

ALL_LINEAR = "all-linear"
"""peft's name for every linear layer but the output's."""
_HEAD = "lm_head"
_OTHER = re.compile(rf"emb|\bw[tp]e\b|{_HEAD}")
"""Stored names of what is an embedding, or the output."""


@dataclass(frozen=True)
class Layer:
    """A module with weights."""

    name: str
    """Dotted, from the model's root."""
    width: int | None
    """The smaller side of its matrix: an update has no higher rank. None where it has no matrix."""
    linear: bool = True
    """Whether `all-linear` may mean it."""


def check_fit(model: ModelRef, targets: str | Collection[str] | None, rank: int | None) -> None:
    """Raise UserError where a target matches no layer of `model` or `rank` is above a width.

    Silent for a model whose layers cannot be known without loading it: `check_layers` is called
    again on the loaded one.
    """
    stored = stored_layers(Path(model.path))
    if stored is None:
        return
    try:
        check_layers(stored, targets, rank)
    except UserError:
        if not any("expert" in layer.name for layer in stored):
            raise
        built = _built_layers(model)
        if built is not None:
            check_layers(built, targets, rank)


def _built_layers(model: ModelRef) -> list[Layer] | None:
    """Layers as a child process builds them; None where it cannot."""
    try:
        told = child.answer("harness.layers", json.dumps(asdict(model)).encode(), "no answer")
    except UserError:
        return None
    return [Layer(**one) for one in json.loads(told)]


def check_layers(
    layers: Sequence[Layer], targets: str | Collection[str] | None, rank: int | None
) -> None:
    """Raise UserError where a target matches no layer, or `rank` is above the width of a matched.

    `targets` are matched as peft does: text is `all-linear` or a pattern for a whole name, a list
    holds names or their ends. None leaves the choice to peft.
    """
    if targets is None:
        return
    everything = isinstance(targets, str) and targets.lower() == ALL_LINEAR
    wanted = [targets] if isinstance(targets, str) else sorted(targets)
    hit = [one for one in layers if everything and one.linear]
    for target in [] if everything else wanted:
        found = [one for one in layers if _matches(one.name, target, isinstance(targets, str))]
        if not found:
            raise UserError(_no_match(layers, target, isinstance(targets, str)))
        hit += found
    widths = [(one.width, one.name) for one in hit if one.width is not None]
    if rank is not None and widths and rank > min(widths)[0]:
        width, name = min(widths)
        raise UserError(
            f"r: rank {rank} is above the width {width} of {_without_numbers(name)}: take r of "
            f"{width} or less, or leave that layer out of target_modules"
        )


def _matches(name: str, target: str, pattern: bool) -> bool:
    if not pattern:
        return name == target or name.endswith("." + target)
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise UserError(f"target_modules: {target!r} is no regular expression: {error}") from None


def _no_match(layers: Sequence[Layer], target: str, pattern: bool) -> str:
    import difflib

    ends = {one.name.rpartition(".")[2] for one in layers}
    close = difflib.get_close_matches(target, sorted(ends), n=1)
    hint = f": did you mean {close[0]}?" if close and close[0] != target else ";"
    if pattern and target in ends:
        hint = f" as a pattern for the whole name: write [{target}];"
    return f"target_modules: {target!r} matches no layer{hint} the model has {grouped(layers)}"


def grouped(layers: Iterable[Layer]) -> str:
    """The layers with a matrix in one line: `self_attn: k_proj, q_proj; mlp: down_proj`."""
    groups: dict[str, list[str]] = {}
    for one in layers:
        if one.width is None:
            continue
        parent, _, own = _without_numbers(one.name).rpartition(".")
        names = groups.setdefault(parent.rpartition(".")[2], [])
        if own not in names:
            names.append(own)
    return "; ".join(f"{k}: {', '.join(v)}" if k else ", ".join(v) for k, v in groups.items())


def _without_numbers(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdigit())


def stored_layers(folder: Path) -> list[Layer] | None:
    """Layers by the safetensors in a folder, their headers alone; None where there are none."""
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes |= {name: told["shape"] for name, told in header.items() if "shape" in told}
    named = {n.removesuffix(".weight"): shapes[n] for n in shapes if n.endswith(".weight")}
    layers = [Layer(n, _width(s), not _OTHER.search(n)) for n, s in named.items()]
    if layers and not any(layer.name.endswith(_HEAD) for layer in layers):
        layers.append(Layer(_HEAD, None, False))  # it shares the embedding's weights
    return layers or None


def loaded_layers(model: Any) -> list[Layer]:
    """Layers of a transformers model."""
    sides = ("in_features", "out_features"), ("num_embeddings", "embedding_dim")
    found = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        # 4-bit weights are packed into another shape: the module knows its own
        known = [[getattr(module, a), getattr(module, b)] for a, b in sides if hasattr(module, a)]
        linear = hasattr(module, "in_features") and not name.endswith(_HEAD)
        found.append(Layer(name, _width(known[0] if known else list(weight.shape)), linear))
    return found


def _width(shape: Sequence[int]) -> int | None:
    return min(shape) if len(shape) == 2 else None


def _main() -> None:
    """Told a ModelRef as JSON, print the layers of its model, built without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ref = ModelRef(**json.load(sys.stdin))
    told = {"revision": ref.revision, "trust_remote_code": ref.trust_remote_code}
    config = AutoConfig.from_pretrained(ref.path, **told)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=ref.trust_remote_code)
    print(json.dumps([asdict(layer) for layer in loaded_layers(model)]))


if __name__ == "__main__":
    _main()
