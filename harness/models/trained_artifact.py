"""A trained artifact as it is kept on the disk: what its training said, and a seal over its files.

`training.json` lies beside the weights or the adapter. It holds the sha256 of each of them, and of
itself, and is checked before an artifact is used: one that was damaged or edited is never
evaluated under the name of what was trained.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from harness.errors import UserError
from harness.models.model_files import share
from harness.record import Training
from harness.results import store
from harness.results.artifact_hash import artifact_hash, file_hashes
from harness.types import Artifact

TRAINING_FILE = "training.json"


class InvalidArtifact(UserError):
    """An artifact that is not, file by file, what its training left behind."""


@dataclass(frozen=True)
class Kept:
    """What a training left behind."""

    training_id: str
    training: Training
    """The record's `training` section."""
    warnings: list[str]
    artifact: dict[str, Any]
    """The fields of the `Artifact`; its `path` is where it was made."""
    files: dict[str, str] | None
    """Relative name -> sha256; None where an older version wrote it."""

    def opened_at(self, folder: Path, **changes: Any) -> Artifact:
        """The artifact in `folder`."""
        from pydantic import TypeAdapter

        values = {**self.artifact, "path": str(folder), **changes}
        return TypeAdapter(Artifact).validate_python(values)


def keep(
    folder: Path,
    training_id: str,
    training: Training,
    warnings: list[str],
    artifact: Artifact,
) -> None:
    """Write an artifact's `training.json` when all its other files are there.

    Their modes become those of new files under the user's umask: safetensors writes 0600.
    """
    share(folder)
    content = {
        "training_id": training_id,
        "training": training,
        "warnings": warnings,
        "artifact": dataclasses.asdict(artifact),
        "files": file_hashes(folder),
    }
    store.write_json(folder / TRAINING_FILE, store.seal(content))


def read(folder: Path) -> Kept:
    """What the training in `folder` said; its files are not looked at.

    Raises InvalidArtifact where `training.json` is missing, broken or changed.
    """
    file = folder / TRAINING_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        kept = Kept(
            str(content["training_id"]),
            cast("Training", dict(content["training"])),
            list(content["warnings"]),
            dict(content["artifact"]),
            dict(content["files"]) if "files" in content else None,
        )
    except FileNotFoundError:
        raise InvalidArtifact(f"{folder}: its {TRAINING_FILE} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"its {TRAINING_FILE} is broken ({type(error).__name__})"
        raise InvalidArtifact(f"{folder}: {reason}") from None
    if kept.files is not None and not store.is_sealed(content):
        raise InvalidArtifact(f"{folder}: its {TRAINING_FILE} changed since it was written")
    return kept


def check_files(folder: Path, kept: Kept) -> None:
    """Raises InvalidArtifact, naming a file, where the files are not those that were saved.

    An artifact of an older version has no hashes of its files. It is believed where its cell was
    evaluated and what was written then names the hash of what lies there now.
    """
    if kept.files is None:
        if artifact_hash(kept.opened_at(folder)) not in _evaluated(folder):
            raise InvalidArtifact(
                f"{folder}: an older version wrote it without a seal, and no evaluation of it "
                "names these files"
            )
        return
    found = file_hashes(folder)
    for name in sorted({*kept.files, *found}):
        if found.get(name) != kept.files.get(name):
            problem = (
                "is missing"
                if name not in found
                else "was not there when it was saved"
                if name not in kept.files
                else "changed since it was saved"
            )
            raise InvalidArtifact(f"{folder}: {name} {problem}")


def seal_fault(folder: Path) -> str | None:
    """What is wrong with a sealed folder, with the fix; None where it is whole, or has no seal.

    For folders that a user names: another tool's `training.json` seals nothing.
    """
    try:
        told = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not (isinstance(told, dict) and {"training_id", "files"} <= set(told)):
        return None
    try:
        check_files(folder, read(folder))
    except InvalidArtifact as error:
        problem = str(error).removeprefix(f"{folder}: ")
        return (
            f"is not what was trained there: {problem}; train it again, or delete its "
            f"{TRAINING_FILE} to measure it as a model of its own"
        )
    return None


def _evaluated(folder: Path) -> set[str]:
    """Artifact hashes that the record and the kept suites of an artifact's cell name."""
    out, cell_id = folder.parent.parent, folder.name
    record = store.stored(out, cell_id)
    evaluation = record["evaluation"] if record else None
    hashes = {str(evaluation.get("artifact_hash"))} if evaluation else set()
    for file in (out / "samples" / cell_id).glob("*.json"):
        try:
            section, _ = store.read_section(file)
        except UserError:
            continue
        hashes.add(str(section.get("artifact_hash")))
    return hashes


def training_of(folder: Path, training_id: str) -> Training | None:
    """What a training measured, where `folder` holds this one; None where it does not."""
    try:
        kept = read(folder)
    except InvalidArtifact:
        return None
    return kept.training if kept.training_id == training_id else None


def with_training(out: Path, training_id: str) -> list[Path]:
    """Folders in `<out>/artifacts` that say that they hold a training; unchecked, sorted."""
    return [
        file.parent
        for file in sorted((out / "artifacts").glob(f"*/{TRAINING_FILE}"))
        if _training_id(file, file.stat().st_mtime_ns) == training_id
    ]


@lru_cache(maxsize=100_000)
def _training_id(file: Path, changed: int) -> str | None:
    """The id in a `training.json` as it was at the time `changed`; None where it is invalid."""
    try:
        return read(file.parent).training_id
    except InvalidArtifact:
        return None
