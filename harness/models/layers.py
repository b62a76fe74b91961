"""A model's layers by name and width, and whether adapters fit on them.

The parent process reads names from the safetensors' headers. A mixture of experts is stored under
other names than its modules have, and peft has rules of its own for experts and state-space layers:
there a child builds the model without weights, puts the adapter on, and has the last word.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import re
import statistics
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.system import child_process, hub
from harness.types import ModelRef

ALL_LINEAR = "all-linear"
"""peft's name for every linear layer but the output's."""
_HEAD = "lm_head"
_OTHER = re.compile(rf"emb|\bw[tp]e\b|{_HEAD}")
"""Stored names of what is an embedding, or the output."""
_NARROW = 4
"""A layer that is so many times narrower than the median one is a gate, a router or a projection
to a few numbers: `all-linear` leaves it out where the rank is above its width."""
_QUANT_STATE = ".quant_state.bitsandbytes__"
"""Within the name of a tensor that holds, as JSON, the shape of a matrix packed in 4 bits."""
_PACKED = (".qweight", ".weight_packed", ".weight_scale")
"""Ends of the names that other quantisations store, whose shapes are no widths."""
_SPECIAL = re.compile(r"expert|router|A_log|conv1d")
"""Stored names of what peft has rules of its own for."""


@dataclass(frozen=True)
class Layer:
    """A module with weights."""

    name: str
    """Dotted, from the model's root."""
    width: int | None
    """The smaller side of its matrix: an update has no higher rank. None where it has no matrix."""
    linear: bool = True
    """Whether `all-linear` may mean it."""


def check_target_modules(
    model: ModelRef,
    targets: str | Collection[str] | None,
    rank: int | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Raise UserError where a target matches no layer of `model` or `rank` is above a width.

    `fields` are those of peft's LoraConfig, where it is one: with them the adapter is put on
    the model without weights where peft may refuse that. Silent for a model whose layers cannot be
    known without loading it: `check_layers` is called again on the loaded one.
    """
    stored = stored_layers(Path(model.path))
    if stored is None:
        return
    trial = None
    if any(_SPECIAL.search(layer.name) for layer in stored):
        trial = _trial(json.dumps({"model": asdict(model), "fields": fields}, sort_keys=True))
    check_layers(stored if trial is None else trial.layers, targets, rank)
    if trial is not None and trial.refused:
        raise UserError(trial.refused)


@dataclass(frozen=True)
class _Trial:
    """What a child says of an adapter on a model without weights."""

    layers: list[Layer]
    refused: str | None
    """Why peft does not put the adapter on it."""


@functools.cache
def _trial(question: str) -> _Trial | None:
    """A trial by a child process, kept in the cache; None where it cannot build the model."""
    model = json.loads(question)["model"]
    versions = [version(name) for name in ("peft", "transformers")]
    key = hashlib.sha256(json.dumps([question, versions]).encode()).hexdigest()[:32]
    place = hub.cache_dir() / "layers" / f"{key}.json"
    answer: dict[str, Any] | None = None
    if model["content_hash"] and place.is_file():
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads(place.read_text(encoding="utf-8"))
    if answer is None:
        try:
            answer = json.loads(
                child_process.answer("harness.models.layers", question.encode(), "no answer")
            )
        except (UserError, ValueError):
            return None
        hub.remember(place, answer)
    with contextlib.suppress(KeyError, TypeError):
        return _Trial([Layer(**layer) for layer in answer["layers"]], answer["refused"])
    return None


def check_layers(
    layers: Sequence[Layer], targets: str | Collection[str] | None, rank: int | None
) -> None:
    """Raise UserError where a target matches no layer, or `rank` is above the width of a matched.

    `targets` are matched as peft does: text is `all-linear` or a pattern for a whole name, a list
    holds names or their ends. None leaves the choice to peft.
    """
    if targets is None:
        return
    everything = is_all_linear(targets)
    wanted = [targets] if isinstance(targets, str) else sorted(targets)
    narrow = too_narrow(layers, rank)
    hit = [one for one in layers if everything and one.linear and one not in narrow]
    for target in [] if everything else wanted:
        found = [one for one in layers if _matches(one.name, target, isinstance(targets, str))]
        if not found:
            raise UserError(_no_match(layers, target, isinstance(targets, str)))
        hit += found
    widths = [(one.width, one.name) for one in hit if one.width is not None]
    if rank is not None and widths and rank > min(widths)[0]:
        width, name = min(widths)
        raise UserError(
            f"r: rank {rank} is above the width {width} of {without_numbers(name)}: take r of "
            f"{width} or less, or leave that layer out of target_modules"
        )


def is_all_linear(targets: Any) -> bool:
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
        parent, _, own = without_numbers(one.name).rpartition(".")
        names = groups.setdefault(parent.rpartition(".")[2], [])
        if own not in names:
            names.append(own)
    return "; ".join(f"{k}: {', '.join(v)}" if k else ", ".join(v) for k, v in groups.items())


def without_numbers(name: str) -> str:
    """A layer's dotted name without the numbers of blocks and experts."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def stored_layers(folder: Path) -> list[Layer] | None:
    """Layers by the safetensors in a folder, their headers alone.

    None where there are none, or they are packed in a way that does not tell their shapes.
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
        shapes |= {name: told["shape"] for name, told in header.items() if "shape" in told}
    shapes |= unpacked
    if any(name.endswith(_PACKED) for name in shapes):
        return None
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
    """Given a ModelRef and a LoraConfig's fields as JSON, print what a `_Trial` holds."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    question = json.load(sys.stdin)
    ref = ModelRef(**question["model"])
    source = {"revision": ref.revision, "trust_remote_code": ref.trust_remote_code}
    config = AutoConfig.from_pretrained(ref.path, **source)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=ref.trust_remote_code)
    layers = [asdict(layer) for layer in loaded_layers(model)]
    print(json.dumps({"layers": layers, "refused": _refusal(model, question["fields"])}))


def _refusal(model: Any, fields: Mapping[str, Any] | None) -> str | None:
    """Why peft does not put a LoRA of these fields on a model without weights; None: it does."""
    from peft import LoraConfig, get_peft_model

    from harness.models import initial_adapter

    if fields is None:
        return None
    try:
        config = LoraConfig(task_type="CAUSAL_LM", **fields)
        initial_adapter.check(model, config)
        with initial_adapter.refused(config):
            get_peft_model(model.eval(), config, low_cpu_mem_usage=True)
    except UserError as error:
        return str(error)
    except Exception:  # the loaded model has the last word
        return None
    return None


if __name__ == "__main__":
    _main()
