"""Finds the damage of a results folder, and mends it.

Nothing that was measured is thrown away: what is broken is set aside, under another name, and what
is deleted can be computed again and is named.
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UserError
from harness.models import trained_artifact
from harness.models.trained_artifact import TRAINING_FILE, InvalidArtifact
from harness.record import Record
from harness.results import leaderboard_file, store
from harness.results.store import Stored
from harness.system.hub import file_sha256
from harness.system.locks import FOLDER, Locks, is_abandoned
from harness.verification.damage import Damage, Examined, Kind

__all__ = ["SET_ASIDE", "examine"]

SET_ASIDE = "set-aside"
"""Of a results folder: samples and artifacts that were set aside, at their own paths."""
SAMPLES = ".jsonl.gz"
CHECKPOINTS = "checkpoints"


def examine(out: Path, *, mend: bool = False) -> Examined:
    """Examine a results folder and the trials in it; with `mend`, mend what is found.

    Raises UserError where it is no results folder, or where a run is at work in it and `mend` is
    asked for.
    """
    if not any((out / name).is_dir() for name in ("cells", "samples", "artifacts")):
        raise UserError(f"{out}: no results folder (it has no cells/): name one, such as results/x")
    examined = Examined(str(out))
    places = [out, *sorted(cells.parent for cells in (out / "tuning").glob("*/cells"))]
    with _locks_held(out, examined) if mend else nullcontext():
        if not mend:
            for file in filter(is_abandoned, _lock_files(out)):
                examined.damage.append(_stale_lock(out, file))
        for place in places:
            _Folder(out, place, examined, mend=mend).examine()
    return examined


@contextmanager
def _locks_held(out: Path, examined: Examined) -> Iterator[None]:
    """Hold every lock that there is: those of dead processes go. Raises Taken beside a run."""
    locks = Locks(out / FOLDER)
    with ExitStack() as stack:
        for file in _lock_files(out):
            stale = is_abandoned(file)
            stack.enter_context(locks.held(file.stem))
            if stale:
                found = _stale_lock(out, file)
                found.mend, found.mended = "deleted", True
                examined.damage.append(found)
        yield


def _lock_files(out: Path) -> list[Path]:
    return sorted(file for file in (out / FOLDER).glob("*") if file.suffix in (".lock", ".lease"))


def _stale_lock(out: Path, file: Path) -> Damage:
    problem, meaning = "the process that held it is gone", "the next run takes it over"
    return Damage("lock", file.relative_to(out).as_posix(), problem, meaning, "--mend: deleted")


class _Folder:
    """A results folder: what is wrong is reported, and mended at once where that is asked for."""

    def __init__(self, out: Path, place: Path, examined: Examined, *, mend: bool) -> None:
        self.out, self.place = out, place
        self._examined, self._mend = examined, mend

    def examine(self) -> None:
        """Everything, in an order in which what is mended first shows what follows from it."""
        self._temporary()
        for cell in self._named("cells", ".json"):
            self._record(cell)
        for record in list(self.records.values()):
            self._samples(record)
        for cell in self._named("samples"):
            self._sections(cell)
        for cell in self._named("artifacts"):
            self._artifact(cell)
        self._checkpoints()
        self._kept_json("blocks")
        self._replaced()
        self._leaderboard()
        if self.place == self.out:
            begun = {*self._named("samples"), *self._named("artifacts")}
            self._examined.unfinished += sorted(begun - set(self.records))

    # What is found

    def _temporary(self) -> None:
        for file in sorted(self.place.rglob(f".*{store.TEMPORARY}")):
            if file.is_file() and (self._mend or store.is_abandoned(file)):
                problem = "a process was killed while it wrote this"
                meaning = "what it was to replace is whole"
                self._found("leftover", file, problem, meaning, "deleted", file.unlink)
        if self._mend or not _lock_files(self.out):
            for file in sorted((self.place / "logs").glob("*.job")):
                problem, meaning = (
                    "the run that this was a worker's task of is gone",
                    "its cell runs",
                )
                self._found("leftover", file, problem, meaning, "deleted", file.unlink)

    def _record(self, cell: str) -> None:
        file = self.place / "cells" / f"{cell}.json"
        try:
            problem = store.invalidity(self.place, cell)
        except UserError as error:
            problem = _problem(error, file)
            self._found("record", file, problem, "it counts as not recorded", "make it readable")
            return
        if problem is None:
            return
        if problem.startswith("schema "):
            told = "install the finetune-harness that wrote it, or run the experiment again"
            self._found("record", file, problem, "it is not used", told)
            return

        def act() -> str:
            target = store.put_aside(file)
            return f"it is now cells/{target.name}"

        self._found("record", file, problem, self._again(cell), "set aside", act)

    def _samples(self, record: Record) -> None:
        """A recorded cell whose samples are not those of its record is no longer recorded."""
        cell = record["id"]
        for suite, section in store.suites(record).items():
            stated = section.get("samples")
            if stated is None:
                continue
            file = self.place / stated["file"]
            try:
                store.check_samples(self.place, record, suite)
            except UserError as error:
                if not self._has_samples:
                    self._without_samples()
                    return
                act = partial(self._set_cell_aside, cell, file)
                problem, told = _problem(error, file), "the cell's record is set aside"
                self._found("samples", file, problem, self._again(cell), told, act)
                return

    def _without_samples(self) -> None:
        if not any(one.kind == "samples" for one in self._examined.damage):
            problem = "no sample file is there"
            meaning = "figures stand; nothing can be compared sample by sample, or recomputed"
            told = "put samples/ back, from where the folder was copied"
            self._found("samples", self.place / "samples", problem, meaning, told)

    def _sections(self, cell: str) -> None:
        """Finished suites, which vouch for their samples until the cell is recorded."""
        folder, named = self.place / "samples" / cell, self._sample_files(cell)
        for file in sorted(folder.glob("*.json")):
            samples = file.with_name(file.stem + SAMPLES)
            try:
                store.read_section(file)
            except UserError as error:
                problem = _problem(error, file)
                if samples in named:
                    meaning = "the record, which says the same, stands"
                    self._found("section", file, problem, meaning, "deleted", file.unlink)
                    continue
                meaning = f"suite {file.stem} of cell {cell} is measured again"
                move = partial(self._set_aside, file, samples)
                self._found("section", file, problem, meaning, f"moved to {SET_ASIDE}/", move)
        if any((self.place / "cells").glob(f"{glob.escape(cell)}.json*")) and not named:
            return  # they may be all that is left of what a broken record was of
        for samples in sorted({*folder.glob(f"*{SAMPLES}")} - named):
            section = samples.with_name(samples.name.removesuffix(SAMPLES) + ".json")
            if not section.exists():
                problem = "samples that no record and no finished suite names"
                meaning = f"their suite is measured again, if {cell} still has it"
                self._found("leftover", samples, problem, meaning, "deleted", samples.unlink)

    def _artifact(self, cell: str) -> None:
        folder = self.place / "artifacts" / cell
        problem = _artifact_fault(folder)
        if problem is None:
            return
        record = self.records.get(cell)
        stands = record is not None and record["status"] == "ok"
        if not stands and not (folder / TRAINING_FILE).exists():
            meaning = f"the training of {cell} did not come to its end, and begins again"
            delete = partial(shutil.rmtree, folder)
            self._found("artifact", folder, problem, meaning, "deleted", delete)
            return
        meaning = (
            "the figures of its record stand; to have its weights again delete "
            f"cells/{cell}.json too and run the experiment"
            if stands
            else f"cell {cell} is trained again"
        )
        move = partial(self._set_aside, folder)
        self._found("artifact", folder, problem, meaning, f"moved to {SET_ASIDE}/", move)

    def _checkpoints(self) -> None:
        """`checkpoints/<training id>/<key>/step-<number>`, each with a seal over its files."""
        for training in sorted((self.place / CHECKPOINTS).glob("*")):
            delete = partial(shutil.rmtree, training)
            if any(_artifact_fault(place) is None for place in self._trained(training.name)):
                problem, meaning = "its training is finished", "nothing is lost"
                self._found("checkpoint", training, problem, meaning, "deleted", delete)
                continue
            for step in filter(Path.is_dir, sorted(training.glob("*/*"))):
                fault = _checkpoint_fault(step)
                if fault is not None and (self._mend or step.name.startswith("step-")):
                    meaning = "the training goes on from the one before it, or begins again"
                    delete = partial(shutil.rmtree, step)
                    self._found("checkpoint", step, fault, meaning, "deleted", delete)

    def _trained(self, training_id: str) -> list[Path]:
        return trained_artifact.with_training(self.place, training_id)

    def _kept_json(self, name: str) -> None:
        """Sealed files that a worker keeps to go on from: a broken one costs its own part."""
        for file in sorted((self.place / name).rglob("*.json")):
            if _is_sealed(file):
                continue
            problem, meaning = "its seal is not that of its content", "its part is computed again"
            self._found("leftover", file, problem, meaning, "deleted", file.unlink)

    def _replaced(self) -> None:
        """What was set aside of cells that have been measured anew since."""
        for file in sorted((self.place / "cells").glob("*.json.invalid*")):
            if (cell := file.name.partition(".json.invalid")[0]) in self.records:
                problem, meaning = "it was set aside", f"{cell} is recorded anew"
                self._found("leftover", file, problem, meaning, "deleted", file.unlink)
        for folder in sorted((self.place / SET_ASIDE).glob("*/*")):
            if folder.name in self.records and self._is_whole(folder.name):
                problem, meaning = "it was set aside", f"{folder.name} is recorded anew"
                act = partial(shutil.rmtree, folder)
                self._found("leftover", folder, problem, meaning, "deleted", act)

    def _leaderboard(self) -> None:
        file = self.place / leaderboard_file.NAME
        if not file.is_file():
            return
        stated = _parsed(file)
        cells = _cells(stated)
        rank_by = str(stated["rank_by"]) if stated.get("rank_by") else None
        gone = sorted(cells - set(self.records))
        records = [
            Stored(self.place, record)
            for cell, record in self.records.items()
            if cell in cells or not cells
        ]
        if not gone and leaderboard_file.read(self.place, records, rank_by=rank_by) is not None:
            return
        problem = (
            "is broken or was changed"
            if not stated or not store.is_sealed(stated)
            else (
                f"has cells without a record ({', '.join(gone)[:200]})"
                if gone
                else "is not of these records, or of another version"
            )
        )

        def act() -> str:
            try:
                board = leaderboard_file.build(None, records, rank_by=rank_by)
            except HarnessError:  # such as of other suites, or of no record at all
                file.unlink()
                return "deleted; the next run writes it"
            store.write_json(file, leaderboard_file.sealed(board, records, rank_by=rank_by))
            return f"made anew of {len(records)} records"

        self._found("leaderboard", file, problem, "nothing is lost", "made anew", act)

    # What it is held against

    @cached_property
    def records(self) -> dict[str, Record]:
        """Cell -> its record, where that is valid."""
        found: dict[str, Record] = {}
        for cell in self._named("cells", ".json"):
            with suppress(UserError):  # a file that cannot be read is reported as such
                if (record := store.stored(self.place, cell)) is not None:
                    found[cell] = record
        return found

    @cached_property
    def _has_samples(self) -> bool:
        return any((self.place / "samples").glob(f"*/*{SAMPLES}"))

    def _named(self, kind: str, suffix: str = "") -> list[str]:
        """Cells that the folder has something of: a file with a suffix, or else a folder."""
        places = sorted((self.place / kind).glob(f"*{suffix}"))
        return [
            place.name.removesuffix(suffix)
            for place in places
            if (place.is_file() if suffix else place.is_dir())
        ]

    def _sample_files(self, cell: str) -> set[Path]:
        """The sample files that the record of a cell names; none without a record."""
        record = self.records.get(cell)
        sections = store.suites(record).values() if record else ()
        stated = [section.get("samples") for section in sections]
        return {self.place / one["file"] for one in stated if one}

    def _is_whole(self, cell: str) -> bool:
        """Whether a recorded cell that was trained has its artifact."""
        folder = self.place / "artifacts" / cell
        return not self.records[cell]["training"] or (folder / TRAINING_FILE).is_file()

    def _again(self, cell: str) -> str:
        """What the next run does for a cell without a record."""
        if _artifact_fault(self.place / "artifacts" / cell) is None:
            return f"cell {cell} is evaluated again, its training is kept"
        return f"cell {cell} runs again"

    # Mending

    def _set_cell_aside(self, cell: str, samples: Path) -> str:
        """Set a record aside, and a broken sample file of it with what vouches for that."""
        target = store.put_aside(self.place / "cells" / f"{cell}.json")
        self._set_aside(samples, samples.with_name(samples.name.removesuffix(SAMPLES) + ".json"))
        self.records.pop(cell, None)
        return f"the record is now cells/{target.name}, the samples in {SET_ASIDE}/"

    def _set_aside(self, *places: Path) -> None:
        """Move files and folders to the same paths in `set-aside/`, never onto others.

        What a forged record names outside of the results folder stays where it is.
        """
        inside = self.place.resolve()
        for place in places:
            if not place.exists() or not place.resolve().is_relative_to(inside):
                continue
            target = self.place / SET_ASIDE / place.relative_to(self.place)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                store.put_aside(target)
            place.rename(target)

    def _found(
        self,
        kind: Kind,
        place: Path,
        problem: str,
        meaning: str,
        mend: str,
        act: Callable[[], str | None] | None = None,
    ) -> None:
        one = Damage(kind, place.relative_to(self.out).as_posix(), problem, meaning, mend)
        self._examined.damage.append(one)
        if not self._mend or act is None:
            if act is not None:
                one.mend = f"--mend: {mend}"
            return
        try:
            one.mend, one.mended = act() or mend, True
        except OSError as error:
            one.mend = f"not mended ({error.strerror}): make the folder writable"


def _problem(error: UserError, place: Path) -> str:
    """What an error says is wrong with a file, without its path and without advice."""
    return str(error).partition(";")[0].removeprefix(str(place)).lstrip(": ")


def _artifact_fault(folder: Path) -> str | None:
    """What is wrong with an artifact; None where its files are those that were saved."""
    try:
        trained_artifact.check_files(folder, trained_artifact.read(folder))
    except InvalidArtifact as error:
        return _problem(error, folder)
    return None


def _checkpoint_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None where its files are those that were saved."""
    content = _parsed(folder / "checkpoint.json")
    files = content.get("files")
    if not isinstance(files, dict) or not store.is_sealed(content):
        return "it was not written to its end, or was changed"
    changed = [
        name
        for name, sha256 in files.items()
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256
    ]
    return f"{changed[0]} changed since it was saved" if changed else None


def _parsed(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_sealed(file: Path) -> bool:
    content = _parsed(file)
    return bool(content) and store.is_sealed(content)


def _cells(board: Mapping[str, Any]) -> set[str]:
    """The cells of a leaderboard's rows, as far as it is one."""
    rows = board.get("rows")
    named = (
        [row.get("cells") for row in rows if isinstance(row, dict)]
        if isinstance(rows, list)
        else []
    )
    return {str(cell) for cells in named if isinstance(cells, list) for cell in cells}
