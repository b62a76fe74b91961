"""Adapter folders as peft saves them: resolved, checked and attached to their base."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, UserError, is_out_of_memory
from harness.models.adapter_checks import loaded, saved, vocabulary
from harness.models.adapter_checks.saved import CONFIG, WEIGHTS
from harness.models.inference.virtual_tokens import misfit, refusal
from harness.models.trained_artifact import seal_fault
from harness.system.hub import content_hash
from harness.system.paths import expanded
from harness.types import ModelRef

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

__all__ = [
    "CONFIG",
    "TEMPLATE",
    "WEIGHTS",
    "adapter_config",
    "attach_adapter",
    "compute_in",
    "has_tokenizer",
    "resolve_adapter",
]

PICKLE = "adapter_model.bin"
TEMPLATE = "chat_template.jinja"


def resolve_adapter(name: str, *, file: Path | None = None, line: int | None = None) -> ModelRef:
    """An adapter's folder with the hash of its weights, configuration and tokenizer.

    The folder is relative to `file`'s folder, then to the current one; `file` and `line` say where
    the user wrote it. Raises ConfigError where it is not an adapter of a causal language model, has
    no safetensors or changes nothing, or was sealed by a training and changed since.
    """
    fail = functools.partial(ConfigError, file=file, line=line)
    path = expanded(name)
    roots = [Path.cwd()] if file is None else [file.resolve().parent, Path.cwd()]
    folder = next((root / path for root in roots if (root / path).is_dir()), None)
    if folder is None:
        hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
        fix = f"; if it is on the Hub: hf download {name} --local-dir DIR" if hub_id else ""
        raise fail(f"adapter {name!r}: no such folder{fix}")
    _check(name, folder, fail)
    if damage := seal_fault(folder):
        raise fail(f"adapter {name!r}: the folder {damage}")
    return ModelRef(name, str(folder.resolve()), content_hash(folder))


def adapter_config(folder: Path) -> dict[str, Any]:
    """The content of an adapter's `adapter_config.json`, which tells its kind and its fields."""
    return saved.config(folder)


def _check(name: str, folder: Path, fail: Callable[[str], ConfigError]) -> None:
    subject = f"adapter {name!r}: the folder"
    if not (folder / CONFIG).is_file():
        is_model = (folder / "config.json").is_file()
        hint = (
            ": it is a whole model, name it as the model"
            if is_model
            else ", so it is not an adapter"
        )
        raise fail(f"{subject} has no {CONFIG}{hint}")
    try:
        config = saved.config(folder)
    except (ValueError, TypeError):
        raise fail(f"{subject} has a broken {CONFIG}: save the adapter again") from None
    task = config.get("task_type") or "CAUSAL_LM"
    if task != "CAUSAL_LM":
        raise fail(f"adapter {name!r} is for task {task}; a causal language model's is needed")
    if reason := refusal(config):
        raise fail(f"adapter {name!r} {reason}")
    if (folder / WEIGHTS).is_file():
        _check_weights(subject, folder, fail)
        return
    if (folder / PICKLE).is_file():
        raise fail(
            f"{subject} holds a pickle ({PICKLE}), which may run code when it is opened; convert "
            f'it there: python -c "import torch, safetensors.torch as s; s.save_file('
            f"torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')\""
        )
    raise fail(f"{subject} has no {WEIGHTS}: save the adapter again with save_pretrained")


def _check_weights(subject: str, folder: Path, fail: Callable[[str], ConfigError]) -> None:
    try:
        nothing = saved.changes_nothing(folder)
    except ValueError as error:
        raise fail(f"{subject} {error}") from None
    if nothing:
        raise fail(
            f"{subject} holds an adapter that changes nothing: {nothing}; it was saved before "
            "its training, or sharded weights were not gathered: save it again after training"
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer was saved with the adapter, as TRL does."""
    vocabulary = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return vocabulary and (folder / "tokenizer_config.json").is_file()


def attach_adapter(model: Any, tokens: int, folder: Path) -> CausalLM:
    """Attach the adapter in `folder` to the transformers model; returns a PeftModel.

    peft loads what fits and skips the rest, with a warning or without one. Raises UserError where
    the adapter is for other layers or shapes, or for another base by what it holds of it, or the
    tokenizer has more `tokens` than the model has embeddings: resizing them would change every
    log-probability.
    """
    from peft import PeftModel

    subject = f"the adapter {folder.name} does not fit the model"
    embeddings = model.get_input_embeddings().weight.shape[0]
    if tokens > embeddings and has_tokenizer(folder):
        raise UserError(
            f"{subject}: its tokenizer has {tokens} tokens, the model {embeddings} embeddings; "
            "merge it into its base where it was trained, and measure the merged folder"
        )
    vocabulary.check_embeddings(model, folder, subject)
    loaded.check_base_copies(model, folder, subject)
    before = loaded.own_embeddings(model, folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            peft_model = PeftModel.from_pretrained(model, str(folder))
    except KeyError as error:
        raise UserError(f"{subject}: {loaded.missing_module(error, folder)}") from error
    except (RuntimeError, ValueError, UserWarning) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{subject}: {' '.join(str(error).split())[:200]}") from error
    loaded.check_loaded(peft_model, folder, subject, before)
    if reason := misfit(peft_model):
        raise UserError(f"{subject}: {reason}")
    return peft_model


def compute_in(model: CausalLM, dtype: torch.dtype) -> None:
    """Have the layers of an adapter compute in `dtype`, as under the autocast of their training.

    peft opens adapters in float32, and on a base in 16 bits their products would be float32 in
    evaluation, while training rounds them, as servers do. What autocast leaves in float32, such
    as DoRA's magnitudes, stays so. Nothing changes in float32.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    if dtype == torch.float32:
        return

    def cast(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def computed(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(model.device.type, dtype):
                return forward(*args, **kwargs)

        return computed

    layers: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    for layer in layers:
        layer.forward = cast(layer.forward)
