"""Checkpoints of a training, from which a later process goes on: written whole, or not at all.

`<out>/checkpoints/<training id>/<key>/step-<number>` holds the files that the training saved and
`checkpoint.json`: the sha256 of each, what the record will say of the training so far, and a seal.
The key is of all that the files depend on: the training, how it split its batch, and the versions
of the libraries. What does not match its seal is not used; the two newest are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.record import Phase, ResumedTraining
from harness.results import store
from harness.results.artifact_hash import file_hashes
from harness.system.measure import Meter
from harness.system.workers import stopping
from harness.types import Checkpoints

__all__ = ["FOLDER", "Progress", "StoredCheckpoints", "clear"]

FOLDER = "checkpoints"
"""In a results folder."""
KEPT = 2
"""So many are kept: where the newest is damaged, the one before it is used."""

_FORMAT = 1
_FILE = "checkpoint.json"
_PROGRESS = "progress.json"
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
_WRITING = ".writing"
_STEP = re.compile(r"step-(\d{9})")
_SIGN_OF_LIFE = 1.0
"""Seconds between two notes of how far a training is."""


class _Unusable(UserError):
    """A checkpoint that is damaged, or another training's."""


@dataclass(frozen=True)
class Progress:
    """What the record will say of a training, as it is filled; a checkpoint holds it."""

    meter: Meter
    notes: dict[str, Any]
    warnings: list[str]
    phase: Callable[[str], AbstractContextManager[None]]
    """Measures a phase with the meter."""
    warn: Callable[[str], None]

    def saved(self) -> dict[str, Any]:
        """As JSON types."""
        phases, notes = self.meter.so_far(), store.plain(self.notes)
        return {"phases": phases, "notes": notes, "warnings": list(self.warnings)}

    def restore(self, saved: Mapping[str, Any], again: frozenset[str]) -> None:
        """Go on from what was saved; phases that ran `again` in this process keep its seconds."""
        self.meter.carry(saved["phases"], again=again)
        self.warnings.extend(line for line in saved["warnings"] if line not in self.warnings)
        for name, value in saved["notes"].items():
            known = self.notes.get(name)
            if isinstance(known, list) and isinstance(value, list):
                known[:] = value  # whoever fills it goes on doing so
            else:
                self.notes[name] = value


class StoredCheckpoints(Checkpoints):
    """The checkpoints of one training in a results folder."""

    def __init__(
        self, out: Path, training_id: str, progress: Progress, *, minutes: float | None
    ) -> None:
        """`minutes` of training lie between two; None: one is written where a stop is asked for."""
        self._place = out / FOLDER / training_id
        self._of: dict[str, Any] = {"training_id": training_id, "versions": _versions()}
        self._progress = progress
        self._minutes = minutes
        self._folder = self._place / _digest(self._of)
        self._last = self._noted = time.monotonic()
        self._lost = 0.0
        """Seconds of earlier processes that no phase counts."""

    def begin(self, **what: object) -> Path | None:
        """The folder of the newest sound checkpoint; the record goes on from it."""
        self._of |= store.plain(what)
        self._folder = self._place / _digest(self._of)
        again = frozenset(self._progress.meter.phases)
        found, content = None, None
        if self._place.is_dir():
            with self._progress.phase("checkpoint"):
                self._warn_of_other_versions()
                found, content = self._newest()
        if content is not None:
            self._progress.restore(content["saved"], again)
        self._note_resumed(content, again)
        self._last = self._noted = time.monotonic()
        return found

    def at(self, step: int, save: Callable[[Path], None]) -> None:
        """Write a checkpoint where one is due; raise Stopped where the worker was told to stop."""
        now = time.monotonic()
        if stopping.requested() or (self._minutes and now - self._last >= 60 * self._minutes):
            with self._progress.phase("checkpoint"):
                self._write(step, save)
            self._last = time.monotonic()
        elif self._minutes and now - self._noted >= _SIGN_OF_LIFE:
            self._note_progress()
        stopping.safe_point()

    # Reading

    def _newest(self) -> tuple[Path | None, dict[str, Any] | None]:
        """The newest checkpoint and its content; unusable ones are told and deleted."""
        for folder in reversed(self._steps()):
            try:
                return folder, self._checked(folder)
            except _Unusable as error:
                self._progress.warn(f"a checkpoint of the training is not used: {error}")
                shutil.rmtree(folder, ignore_errors=True)
        return None, None

    def _steps(self) -> list[Path]:
        """The folders of checkpoints, the oldest first."""
        return sorted(f for f in self._folder.glob("step-*") if _STEP.fullmatch(f.name))

    def _checked(self, folder: Path) -> dict[str, Any]:
        """A checkpoint's content. Raises _Unusable where it is not what was written for this."""
        content = _content(folder)
        if content is None:
            raise _Unusable(f"the {_FILE} of {folder.name} is missing, damaged or changed")
        if content["key"] != self._of or content["format"] != _FORMAT:
            raise _Unusable(f"{folder.name} is of another training")
        present = _hashes(folder)
        for name in sorted({*content["files"], *present}):
            if present.get(name) != content["files"].get(name):
                raise _Unusable(f"{name} of {folder.name} is damaged")
        return content

    def _warn_of_other_versions(self) -> None:
        """Tell of checkpoints that other versions of the libraries wrote."""
        for folder in sorted(self._place.glob("*/step-*")):
            content = _content(folder) if folder.parent != self._folder else None
            if content is None or {**content["key"], "versions": None} != {
                **self._of,
                "versions": None,
            }:
                continue
            theirs, ours = content["key"]["versions"], self._of["versions"]
            changed = [
                f"{name} {theirs.get(name)}, here {ours.get(name)}"
                for name in sorted({*theirs, *ours})
                if theirs.get(name) != ours.get(name)
            ]
            self._progress.warn(
                f"a checkpoint of the training is not used: it is of {'; '.join(changed)}"
            )
            return

    def _note_resumed(self, content: Mapping[str, Any] | None, again: frozenset[str]) -> None:
        """Into the record: from where the training goes on, and what earlier processes lost."""
        earlier = _json(self._folder / _PROGRESS) or {}
        if content is None and not earlier:
            return
        phases: Mapping[str, Phase] = content["saved"]["phases"] if content else {}
        kept = sum(p["seconds"] or 0.0 for name, p in phases.items() if name not in again)
        spent = max(earlier.get("seconds", 0.0), content["seconds"] if content else 0.0)
        before = earlier.get("resumed") or self._progress.notes.get("resumed") or {}
        self._lost = max(0.0, spent - kept)
        resumed: ResumedTraining = {
            "times": before.get("times", 0) + 1,
            "from_steps": [*before.get("from_steps", ()), content["step"] if content else 0],
            "lost_seconds": self._lost,
        }
        self._progress.notes["resumed"] = resumed
        self._note_progress()

    # Writing

    def _seconds(self) -> float:
        """What all processes of this training have spent so far."""
        phases = self._progress.meter.so_far()
        return self._lost + sum(phase["seconds"] or 0.0 for phase in phases.values())

    def _note_progress(self) -> None:
        """A sign of life, from which a later process knows what this one spent in vain."""
        self._noted = time.monotonic()
        content = {"seconds": self._seconds(), "resumed": self._progress.notes.get("resumed")}
        with suppress(OSError):  # a full disk ends no training
            store.write_json(self._folder / _PROGRESS, content)

    def _write(self, step: int, save: Callable[[Path], None]) -> None:
        """Write a checkpoint beside the others and drop the oldest; a warning where that fails.

        A full disk ends no training.
        """
        temporary = self._folder / _WRITING
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save(temporary)
            files = _hashes(temporary)
            for file in temporary.rglob("*"):
                _to_disk(file)
            content = {
                "format": _FORMAT,
                "key": self._of,
                "step": step,
                "files": files,
                "saved": self._progress.saved(),
                "seconds": self._seconds(),
            }
            store.write_json(temporary / _FILE, store.seal(content))
            target = self._folder / f"step-{step:09d}"
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            _to_disk(self._folder)
            self._note_progress()
        except Exception as error:  # safetensors, torch and the system each have their own
            shutil.rmtree(temporary, ignore_errors=True)
            reason = " ".join(str(error).split())
            self._progress.warn(f"the checkpoint of step {step} could not be written: {reason}")
        for old in self._steps()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def clear(out: Path, training_id: str) -> None:
    """Delete the checkpoints of a training, whose artifact is there or which never will be."""
    shutil.rmtree(out / FOLDER / training_id, ignore_errors=True)
    with suppress(OSError):  # others are there
        (out / FOLDER).rmdir()


def _versions() -> dict[str, str]:
    def found() -> Iterator[tuple[str, str]]:
        for name in _LIBRARIES:
            with suppress(PackageNotFoundError):
                yield name, version(name)

    return {**dict(found()), "harness": str(_FORMAT)}


def _digest(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def _content(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's sealed `checkpoint.json`; None where it is no such thing."""
    content = _json(folder / _FILE)
    return content if content is not None and store.is_sealed(content) else None


def _json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _hashes(folder: Path) -> dict[str, str]:
    return {name: value for name, value in file_hashes(folder).items() if name != _FILE}


def _to_disk(path: Path) -> None:
    """Have the system write a file or a folder's names out, where it can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
