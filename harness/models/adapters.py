"""Adapter folders as peft saves them: what makes one usable, and what its bytes are."""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, UserError, is_out_of_memory
from harness.models.inference.virtual_tokens import misfit, refusal
from harness.models.packaged import registry
from harness.models.trained_artifact import seal_fault
from harness.system.hub import content_hash
from harness.system.paths import expanded
from harness.types import ModelRef

__all__ = ["CONFIG", "TEMPLATE", "has_tokenizer", "other_base", "put_on", "resolve_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
TEMPLATE = "chat_template.jinja"
_ELSEWHERE = re.compile(
    r"(embed_tokens|lm_head|wte|embed_in|embed_out)(\.base_layer)?\.weight$|^prompt_embeddings$"
)
"""Whole layers that peft may save beside an adapter of them, and virtual tokens, which it loads
apart from layers."""


def resolve_adapter(name: str, *, file: Path | None = None, line: int | None = None) -> ModelRef:
    """An adapter's folder with the hash of its weights, configuration and tokenizer.

    The folder is relative to `file`'s folder, then to the current one; `file` and `line` say where
    the user wrote it. Raises ConfigError where it is no adapter of a causal language model, has no
    safetensors, or was sealed by a training and changed since.
    """
    fail = functools.partial(ConfigError, file=file, line=line)
    path = expanded(name)
    roots = [Path.cwd()] if file is None else [file.resolve().parent, Path.cwd()]
    folder = next((root / path for root in roots if (root / path).is_dir()), None)
    if folder is None:
        hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
        mend = f"; if it is on the Hub: hf download {name} --local-dir DIR" if hub_id else ""
        raise fail(f"adapter {name!r}: no such folder{mend}")
    _check(name, folder, fail)
    if fault := seal_fault(folder):
        raise fail(f"adapter {name!r}: the folder {fault}")
    return ModelRef(name, str(folder.resolve()), content_hash(folder))


def _check(name: str, folder: Path, fail: Callable[[str], ConfigError]) -> None:
    said = f"adapter {name!r}: the folder"
    if not (folder / CONFIG).is_file():
        whole = (folder / "config.json").is_file()
        hint = ": it is a whole model, name it as the model" if whole else ", so it is no adapter"
        raise fail(f"{said} has no {CONFIG}{hint}")
    try:
        config = _config(folder)
    except (ValueError, TypeError):
        raise fail(f"{said} has a broken {CONFIG}: save the adapter again") from None
    task = config.get("task_type") or "CAUSAL_LM"
    if task != "CAUSAL_LM":
        raise fail(f"adapter {name!r} is for task {task}; a causal language model's is needed")
    if reason := refusal(config):
        raise fail(f"adapter {name!r} {reason}")
    if (folder / WEIGHTS).is_file():
        return
    if (folder / PICKLE).is_file():
        raise fail(
            f"{said} holds a pickle ({PICKLE}), which may run code when it is opened; convert it "
            f'there: python -c "import torch, safetensors.torch as s; s.save_file('
            f"torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')\""
        )
    raise fail(f"{said} has no {WEIGHTS}: save the adapter again with save_pretrained")


def other_base(adapter: str, model: ModelRef) -> str | None:
    """A sentence where the adapter in a folder names another base than `model`; None else.

    Names are compared without owner and folder: the same model lies in many places.
    """
    stated = str(_config(Path(adapter)).get("base_model_name_or_path") or "")
    packaged = registry().get(model.name)
    known = {model.name.partition("@")[0], model.path, *([packaged.model] if packaged else [])}
    if not stated or _last(stated) in {_last(name) for name in known}:
        return None
    return f"the adapter says that its base is {_last(stated)}; it was opened on {model.name}"


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer was saved with the adapter, as TRL does."""
    whole = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return whole and (folder / "tokenizer_config.json").is_file()


def put_on(model: Any, tokens: int, folder: Path) -> Any:
    """The transformers model with the adapter on it, as a PeftModel.

    peft takes what fits and leaves the rest with a warning, or none. Raises UserError where the
    adapter is for other layers or shapes, or the tokenizer has more `tokens` than the model
    has embeddings: resizing them would change every log-probability.
    """
    from peft import PeftModel

    said = f"the adapter {folder.name} does not fit the model"
    known = model.get_input_embeddings().weight.shape[0]
    if tokens > known and has_tokenizer(folder):
        raise UserError(
            f"{said}: its tokenizer has {tokens} tokens, the model {known} embeddings; merge it "
            "into its base where it was trained, and measure the merged folder"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, UserWarning) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{said}: {' '.join(str(error).split())[:200]}") from error
    _check_used(adapted, folder, said)
    if reason := misfit(adapted):
        raise UserError(f"{said}: {reason}")
    return adapted


def _check_used(adapted: Any, folder: Path, said: str) -> None:
    """Tensors for layers that the model lacks are left out by peft without a word.

    Loading once more says which: peft renames tensors and fuses those of a mixture's experts, so
    neither names nor their number tell.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of was an error the first time
        unused = adapted.load_adapter(str(folder), adapted.active_adapter).unexpected_keys
    strange = sorted(name for name in unused if not _ELSEWHERE.search(name))
    if strange:
        raise UserError(
            f"{said}: the model has no layer for {len(strange)} of its tensors (first: "
            f"{strange[0]})"
        )


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def _last(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold()
