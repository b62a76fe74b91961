"""Adapter folders as peft saves them: resolved, checked and attached to their base."""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, UserError, is_out_of_memory
from harness.models.inference.virtual_tokens import misfit, refusal
from harness.models.packaged import registry
from harness.models.trained_artifact import seal_fault
from harness.system.hub import content_hash
from harness.system.paths import expanded
from harness.types import ModelRef

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from harness.models.causal_lm import CausalLM

__all__ = [
    "CONFIG",
    "TEMPLATE",
    "attach_adapter",
    "base_mismatch",
    "compute_in",
    "has_tokenizer",
    "resolve_adapter",
]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
TEMPLATE = "chat_template.jinja"
_LOADED_APART = re.compile(
    r"(embed_tokens|lm_head|wte|embed_in|embed_out)(\.base_layer)?\.weight$|^prompt_embeddings$"
)
"""Whole layers that peft may save beside an adapter of them, and virtual tokens, which it loads
apart from layers."""


def resolve_adapter(name: str, *, file: Path | None = None, line: int | None = None) -> ModelRef:
    """An adapter's folder with the hash of its weights, configuration and tokenizer.

    The folder is relative to `file`'s folder, then to the current one; `file` and `line` say where
    the user wrote it. Raises ConfigError where it is not an adapter of a causal language model, has
    no safetensors, or was sealed by a training and changed since.
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
        config = _config(folder)
    except (ValueError, TypeError):
        raise fail(f"{subject} has a broken {CONFIG}: save the adapter again") from None
    task = config.get("task_type") or "CAUSAL_LM"
    if task != "CAUSAL_LM":
        raise fail(f"adapter {name!r} is for task {task}; a causal language model's is needed")
    if reason := refusal(config):
        raise fail(f"adapter {name!r} {reason}")
    if (folder / WEIGHTS).is_file():
        return
    if (folder / PICKLE).is_file():
        raise fail(
            f"{subject} holds a pickle ({PICKLE}), which may run code when it is opened; convert "
            f'it there: python -c "import torch, safetensors.torch as s; s.save_file('
            f"torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')\""
        )
    raise fail(f"{subject} has no {WEIGHTS}: save the adapter again with save_pretrained")


def base_mismatch(adapter: str, model: ModelRef) -> str | None:
    """A sentence where the adapter in a folder names another base than `model`; None else.

    Names are compared without owner and folder: the same model lies in many places.
    """
    stated = str(_config(Path(adapter)).get("base_model_name_or_path") or "")
    packaged = registry().get(model.name)
    names = {model.name.partition("@")[0], model.path, *([packaged.model] if packaged else [])}
    if not stated or _last(stated) in {_last(name) for name in names}:
        return None
    return f"the adapter says that its base is {_last(stated)}; it was opened on {model.name}"


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer was saved with the adapter, as TRL does."""
    vocabulary = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return vocabulary and (folder / "tokenizer_config.json").is_file()


def attach_adapter(model: Any, tokens: int, folder: Path) -> CausalLM:
    """Attach the adapter in `folder` to the transformers model; returns a PeftModel.

    peft loads what fits and skips the rest, with a warning or without one. Raises UserError where
    the adapter is for other layers or shapes, or the tokenizer has more `tokens` than the model has
    embeddings: resizing them would change every log-probability.
    """
    from peft import PeftModel

    subject = f"the adapter {folder.name} does not fit the model"
    embeddings = model.get_input_embeddings().weight.shape[0]
    if tokens > embeddings and has_tokenizer(folder):
        raise UserError(
            f"{subject}: its tokenizer has {tokens} tokens, the model {embeddings} embeddings; "
            "merge it into its base where it was trained, and measure the merged folder"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            peft_model = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, UserWarning) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{subject}: {' '.join(str(error).split())[:200]}") from error
    _check_used(peft_model, folder, subject)
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


def _check_used(peft_model: PeftModel, folder: Path, subject: str) -> None:
    """Raise UserError for tensors of layers that the model lacks, which peft skips silently.

    Loading once more returns their keys: peft renames tensors and fuses those of a mixture's
    experts, so neither the names nor the count in the file show it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warnings were errors the first time
        unused = peft_model.load_adapter(str(folder), peft_model.active_adapter).unexpected_keys
    unmatched = sorted(name for name in unused if not _LOADED_APART.search(name))
    if unmatched:
        raise UserError(
            f"{subject}: the model has no layer for {len(unmatched)} of its tensors (first: "
            f"{unmatched[0]})"
        )


def _config(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def _last(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold()
