"""Trained artifacts on disk: the training's section of the record, and a seal over the files.

`training.json` lies beside the weights or the adapter. It holds the sha256 of each of them, and of
itself, and is checked before an artifact is used: one that was damaged or edited is never
evaluated as the trained one.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from harness.errors import UserError
from harness.models.model_files import set_default_mode
from harness.record import Training
from harness.results import store
from harness.results.artifact_hash import artifact_hash, file_hashes
from harness.types import Artifact

TRAINING_FILE = "training.json"


class InvalidArtifact(UserError):
    """An artifact whose files are not those that its training saved."""


@dataclass(frozen=True)
class TrainedArtifact:
    """The content of an artifact's `training.json`."""

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
    set_default_mode(folder)
    content = {
        "training_id": training_id,
        "training": training,
        "warnings": warnings,
        "artifact": dataclasses.asdict(artifact),
        "files": file_hashes(folder),
    }
    store.write_json(folder / TRAINING_FILE, store.seal(content))


def read(folder: Path) -> TrainedArtifact:
    """The content of `training.json` in `folder`; the other files are not checked.

    Raises InvalidArtifact where `training.json` is missing, broken or changed.
    """
    file = folder / TRAINING_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        trained = TrainedArtifact(
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
    if trained.files is not None and not store.is_sealed(content):
        raise InvalidArtifact(f"{folder}: its {TRAINING_FILE} changed since it was written")
    return trained


def check_files(folder: Path, trained: TrainedArtifact) -> None:
    """Raises InvalidArtifact, naming a file, where the files are not those that were saved.

    An artifact of an older version has no hashes of its files. It is accepted where its cell was
    evaluated and that evaluation has the hash of the present files.
    """
    if trained.files is None:
        if artifact_hash(trained.opened_at(folder)) not in _evaluated(folder):
            raise InvalidArtifact(
                f"{folder}: an older version wrote it without a seal, and no evaluation of it "
                "names these files"
            )
        return
    current = file_hashes(folder)
    for name in sorted({*trained.files, *current}):
        if current.get(name) != trained.files.get(name):
            problem = (
                "is missing"
                if name not in current
                else "was not there when it was saved"
                if name not in trained.files
                else "changed since it was saved"
            )
            raise InvalidArtifact(f"{folder}: {name} {problem}")


def seal_fault(folder: Path) -> str | None:
    """The defect of a sealed folder, with the fix; None where it is intact, or has no seal.

    For folders that a user names: another tool's `training.json` seals nothing.
    """
    try:
        content = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not (isinstance(content, dict) and {"training_id", "files"} <= set(content)):
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
    """The `training` section, where `folder` holds this training; None where it does not."""
    try:
        trained = read(folder)
    except InvalidArtifact:
        return None
    return trained.training if trained.training_id == training_id else None


def with_training(out: Path, training_id: str) -> list[Path]:
    """Folders in `<out>/artifacts` whose `training.json` has this id; unchecked, sorted."""
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
