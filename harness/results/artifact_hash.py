"""What makes two artifacts the same model: their bytes, and how they are opened."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from harness.results.store import CLOCK_TICK
from harness.system.hub import file_sha256
from harness.types import Artifact, ModelRef

LEFT_OUT = ("training.json", "README.md")
"""Files beside the weights that say how they came about, and change no answer."""


def artifact_hash(artifact: Artifact) -> str:
    """sha256 over the base's content, the artifact's files, and everything said for opening it.

    Two artifacts of one hash give the same answers, wherever they lie and whoever made them.
    """
    return digest(identity(artifact))


def identity(artifact: Artifact) -> dict[str, object]:
    """What an artifact's hash is of, as JSON; `files` are pairs of a name and a sha256."""
    files = file_hashes(Path(artifact.path)) if artifact.path else {}
    return {
        "opened": _content(artifact.opened),
        "base": _content(artifact.base),
        "quantization": dict(artifact.quantization) if artifact.quantization else None,
        "precision": artifact.precision,
        "chat_template": artifact.chat_template,
        "files": [list(pair) for pair in files.items()],
    }


def digest(stated: Mapping[str, object]) -> str:
    """The hash of what `identity` gives."""
    text = json.dumps(stated, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(model: ModelRef) -> list[object]:
    return [model.identity, model.trust_remote_code]


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative name -> sha256 of the bytes, of every file but hidden ones, sorted.

    A file that did not change is read once.
    """
    named = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    return {
        name: _sha256(file)
        for name, file in sorted(named.items())
        if name not in LEFT_OUT and not file.name.startswith(".")
    }


def _sha256(file: Path) -> str:
    facts = file.stat()
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    known = _hashes.get(key)
    if known is None:
        known = file_sha256(file)
        if time.time_ns() - facts.st_ctime_ns > CLOCK_TICK:
            _hashes[key] = known
    return known


_hashes: dict[tuple[int, ...], str] = {}
"""What `stat` said of a file -> its sha256; a time of change cannot be set back."""
