"""What makes two artifacts the same model: their bytes, and how they are opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness.hub import file_sha256
from harness.types import Artifact, ModelRef

LEFT_OUT = ("training.json", "README.md")
"""Files beside the weights that say how they came about, and change no answer."""


def artifact_hash(artifact: Artifact) -> str:
    """sha256 over the base's content, the artifact's files, and everything said for opening it.

    Two artifacts of one hash give the same answers, wherever they lie and whoever made them.
    """
    stated = {
        "opened": _content(artifact.opened),
        "base": _content(artifact.base),
        "quantization": dict(artifact.quantization) if artifact.quantization else None,
        "precision": artifact.precision,
        "chat_template": artifact.chat_template,
        "files": _files(Path(artifact.path)) if artifact.path else [],
    }
    text = json.dumps(stated, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(model: ModelRef) -> list[Any]:
    return [model.identity, model.trust_remote_code]


def _files(folder: Path) -> list[tuple[str, str]]:
    """(relative name, sha256 of the bytes) of every file but hidden ones, sorted."""
    named = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    return [
        (name, file_sha256(file))
        for name, file in sorted(named.items())
        if name not in LEFT_OUT and not file.name.startswith(".")
    ]
