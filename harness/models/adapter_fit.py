"""Whether an adapter fits on a model, checked before the model is loaded.

The parent process reads names from the safetensors' headers. A mixture of experts is stored under
other names than its modules have, and peft has rules of its own for experts and state-space layers:
there a child process builds the model without weights and puts the adapter on it, which decides.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.models import initial_adapter
from harness.models.layers import Layer, check_layers, loaded_layers, stored_layers
from harness.system import child_process, hub
from harness.types import ModelRef

if TYPE_CHECKING:
    from harness.models.causal_lm import CausalLM

__all__ = ["check_target_modules"]

_PEFT_SPECIAL = re.compile(r"expert|router|A_log|conv1d")
"""Stored names of layers for which peft has rules of its own."""


def check_target_modules(
    model: ModelRef,
    targets: str | Collection[str] | None,
    rank: int | None = None,
    fields: Mapping[str, object] | None = None,
) -> None:
    """Raise UserError where a target matches no layer of `model` or `rank` is above a width.

    `fields` are those of peft's LoraConfig, where it is one: with them the adapter is put on
    the model without weights where peft may refuse that. Silent for a model whose layers cannot be
    known without loading it: `check_layers` is called again on the loaded one.
    """
    stored = stored_layers(Path(model.path))
    if stored is None:
        return
    outcome = None
    if any(_PEFT_SPECIAL.search(layer.name) for layer in stored):
        request = {"model": asdict(model), "fields": fields}
        outcome = _peft_outcome(json.dumps(request, sort_keys=True))
    check_layers(stored if outcome is None else outcome.layers, targets, rank)
    if outcome is not None and outcome.refused:
        raise UserError(outcome.refused)


@dataclass(frozen=True)
class _PeftOutcome:
    """The result of putting an adapter on a model without weights, in a child process."""

    layers: list[Layer]
    refused: str | None
    """Why peft refuses the adapter; None where it does not."""


@functools.cache
def _peft_outcome(request: str) -> _PeftOutcome | None:
    """The outcome of a child process, cached; None where it cannot build the model."""
    model = json.loads(request)["model"]
    versions = [version(name) for name in ("peft", "transformers")]
    key = hashlib.sha256(json.dumps([request, versions]).encode()).hexdigest()[:32]
    cache_file = hub.cache_dir() / "layers" / f"{key}.json"
    answer: dict[str, Any] | None = None
    if model["content_hash"] and cache_file.is_file():
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads(cache_file.read_text(encoding="utf-8"))
    if answer is None:
        try:
            answer = json.loads(
                child_process.answer("harness.models.adapter_fit", request.encode(), "no answer")
            )
        except (UserError, ValueError):
            return None
        hub.remember(cache_file, answer)
    with contextlib.suppress(KeyError, TypeError):
        return _PeftOutcome([Layer(**layer) for layer in answer["layers"]], answer["refused"])
    return None


def _main() -> None:
    """Read a ModelRef and a LoraConfig's fields as JSON and print a `_PeftOutcome`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    request = json.load(sys.stdin)
    ref = ModelRef(**request["model"])
    source = {"revision": ref.revision, "trust_remote_code": ref.trust_remote_code}
    config = AutoConfig.from_pretrained(ref.path, **source)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=ref.trust_remote_code)
    layers = [asdict(layer) for layer in loaded_layers(model)]
    print(json.dumps({"layers": layers, "refused": _refusal(model, request["fields"])}))


def _refusal(model: CausalLM, fields: Mapping[str, Any] | None) -> str | None:
    """Why peft does not put a LoRA of these fields on a model without weights; None: it does."""
    from peft import LoraConfig, get_peft_model

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
