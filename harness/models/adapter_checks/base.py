"""Whether the base that an adapter is put on is the one that it was trained on.

A training of the harness recorded its base with the hash of its content. Other adapters tell a name
or a folder. A folder that is there is compared by its content. Names are compared where both are of
the Hub: one model lies in many folders, and a folder's name proves nothing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from harness.models import trained_artifact
from harness.models.adapter_checks import saved
from harness.models.packaged import registry
from harness.models.trained_artifact import InvalidArtifact
from harness.system.hub import content_hash
from harness.system.paths import expanded
from harness.types import ModelRef

__all__ = ["other_base"]

_HUB_ID = re.compile(r"([\w-][\w.-]*)/[\w.-]+")
_FOLDERS = frozenset(
    {"checkpoints", "ckpt", "ckpts", "data", "model", "models", "out", "output", "outputs"}
    | {"results", "runs", "tmp", "weights"}
)
"""What stands before the slash of a relative folder, and is no owner on the Hub."""
_STORED = re.compile(
    r"([-_.](unsloth|bnb|4bit|8bit|int4|int8|nf4|fp8|gptq|awq|dynamic|hf|bf16|fp16))+$"
)
"""What copies of a model in another number format are called at the end."""
_FIX = "measure it on the base that it was trained on, or know that this is another model"


def other_base(adapter: Path, model: ModelRef) -> str | None:
    """A warning where the adapter in a folder was trained on another base than `model`; else None.

    Never for certain wrong: an adapter may be put on a base that was trained further, and a content
    differs too where the tokenizer's files do.
    """
    known = _recorded(adapter)
    told = _by_record(known, model) if known else _by_statement(adapter, model)
    return f"adapter.other_base: {told}: {_FIX}" if told else None


def _recorded(adapter: Path) -> ModelRef | None:
    """The base of a training of the harness; None where another tool made the adapter."""
    try:
        artifact = trained_artifact.read(adapter).artifact
        return ModelRef(**(artifact.get("weights") or artifact["base"]))
    except (InvalidArtifact, KeyError, TypeError):
        return None


def _by_record(trained: ModelRef, model: ModelRef) -> str | None:
    if trained.content_hash and model.content_hash:
        if trained.content_hash == model.content_hash:
            return None
        return (
            f"the adapter was trained on {_last(trained.name)} with the content "
            f"{trained.content_hash[:12]}; it was opened on {_last(model.name)} with "
            f"{model.content_hash[:12]}, whose weights, configuration or tokenizer differ"
        )
    return _by_name(trained.path, trained.revision, model)


def _by_statement(adapter: Path, model: ModelRef) -> str | None:
    config = saved.config(adapter)
    stated = str(config.get("base_model_name_or_path") or "")
    folder = expanded(stated)
    if stated and (folder / "config.json").is_file():
        return _by_folder(folder, model)
    return _by_name(stated, config.get("revision"), model)


def _by_folder(folder: Path, model: ModelRef) -> str | None:
    if folder.resolve() == Path(model.path).resolve() or model.content_hash is None:
        return None
    with suppress(OSError):  # a folder that cannot be read says nothing
        if content_hash(folder) != model.content_hash:
            return (
                f"the adapter says that its base is {folder.name}; it was opened on "
                f"{_last(model.name)}, whose weights, configuration or tokenizer differ from "
                "that folder's"
            )
    return None


def _by_name(stated: str, revision: object, model: ModelRef) -> str | None:
    ours = _hub_id(model)
    if ours is None or not _is_hub_id(stated):
        return None
    if _plain(stated) != _plain(ours):
        return f"the adapter says that its base is {stated}; it was opened on {ours}"
    if stated == ours and revision and model.revision and revision != model.revision:
        return (
            f"the adapter says that its base is revision {str(revision)[:12]} of {stated}; it was "
            f"opened on {model.revision[:12]}"
        )
    return None


def _hub_id(model: ModelRef) -> str | None:
    """What the model is called on the Hub; None for a folder, which may hold any model."""
    if packaged := registry().get(model.name):
        return packaged.hub
    name = model.name.partition("@")[0]
    return name if _is_hub_id(name) and not Path(model.path).is_dir() else None


def _is_hub_id(name: str) -> bool:
    found = _HUB_ID.fullmatch(name)
    return found is not None and found[1].casefold() not in _FOLDERS


def _plain(name: str) -> str:
    """A name without its owner, letter case and number format."""
    return re.sub(r"[-_.]", "-", _STORED.sub("", _last(name).casefold()))


def _last(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]
