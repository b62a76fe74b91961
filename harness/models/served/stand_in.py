"""Models that a server holds: the folder that stands for one.

A served model is known by a folder in the cache, as another model is by its weights: `served.json`
says where it is and how it is asked, and beside it lie a tokenizer and its chat template. All that
reads a model's folder (hashes, templates, lengths) so reads a served one's too. How fast it is
asked and with which key stands in a dotfile, on which no hash depends.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.served_settings import ServedSettings
from harness.data.training_set import without_folder
from harness.errors import UserError
from harness.models.families import longest
from harness.models.served import byte_tokenizer
from harness.system import hub
from harness.types import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["context_of", "is_served", "load_tokenizer", "resolve", "settings_of", "stands_for"]

_FILE = "served.json"
_ASKING = ".asking.json"
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)
"""Files of a model's folder that tokenize and render, or say its length."""


def is_served(model: ModelRef | Mapping[str, Any]) -> bool:
    """Whether a model, also one as plain data, is behind a server."""
    path = model.path if isinstance(model, ModelRef) else model["path"]
    return path is not None and (Path(path) / _FILE).is_file()


def settings_of(model: ModelRef) -> ServedSettings:
    """How a served model is asked. Raises UserError where its folder is damaged."""
    try:
        return ServedSettings.model_validate_json((Path(model.path) / _ASKING).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"model '{model.name}': {model.path} is damaged: remove it") from error


def load_tokenizer(model: ModelRef) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder that stands for a served model."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.path)
    return tokenizer


def context_of(model: ModelRef) -> int:
    """The most tokens that the model attends to whose tokenizer it has, by its config.json."""
    from transformers import AutoConfig

    return longest(AutoConfig.from_pretrained(model.path).get_text_config())


def resolve(settings: ServedSettings, find: Callable[[str], ModelRef]) -> ModelRef:
    """A served model, resolved; `find` resolves the name of the model whose tokenizer it has.

    `settings.model` must be set. Raises what `find` raises, and UserError for a GGUF file that is
    not there or a tokenizer that is not on this machine.
    """
    identity: dict[str, object] = dict(settings.identity)
    if settings.gguf is not None:
        file = Path(settings.gguf)
        if not file.is_file():
            raise UserError(f"gguf {settings.gguf}: no such file")
        identity["gguf"] = hub.file_sha256(file)
    tokenizer = None
    if settings.tokenizer is not None:
        reference = find(settings.tokenizer)
        tokenizer = hub.cached_folder(reference)
        if tokenizer is None:
            raise UserError(
                f"tokenizer '{settings.tokenizer}': its files are not on this machine: name a "
                "folder or a packaged alias"
            )
        identity["tokenizer"] = reference.identity
    folder = _stand_in(identity, tokenizer)
    _write(folder / _ASKING, settings.model_dump(mode="json"))
    return _reference(folder, settings)


def stands_for(folder: Path) -> ModelRef | None:
    """The served model that a folder stands for; None for a folder of weights."""
    if not (folder / _FILE).is_file():
        return None
    return _reference(folder, settings_of(ModelRef(str(folder), str(folder))))


def _reference(folder: Path, settings: ServedSettings) -> ModelRef:
    name = settings.place
    if settings.gguf is None:
        # vLLM and llama.cpp list a model by its folder, which is this machine's
        name = f"{without_folder(str(settings.model))} at {name}"
    return ModelRef(name, str(folder), hub.content_hash(folder))


def _stand_in(identity: Mapping[str, object], tokenizer: Path | None) -> Path:
    """The folder that stands for a served model, written whole or not at all."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    home = hub.make_cache(hub.cache_dir() / "served")
    folder = home / digest
    if (folder / _FILE).is_file():
        return folder
    work = home / f".{digest}-{uuid.uuid4().hex[:8]}"
    work.mkdir()
    try:
        if tokenizer is None:
            byte_tokenizer.write(work, chat=identity["form"] == "chat")
        else:
            for name in _TOKENIZER:
                if (tokenizer / name).is_file():
                    shutil.copyfile(tokenizer / name, work / name)
        _write(work / _FILE, identity)
        if not folder.exists():
            work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _write(file: Path, value: object) -> None:
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    part.replace(file)
