"""Runs the trials of a tuned method, each in its own worker, and picks the winner.

A trial is a cell without suites in `<out>/tuning/<study>`, judged by the loss on the validation
rows. Its record is found by its options' hash, so what is recorded never runs again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.planning.cell import Cell, with_options
from harness.planning.search_space import Search
from harness.record import Record, new_record
from harness.results import store
from harness.results.cost import cost
from harness.runner.tuning import bracketing, study
from harness.system.locks import FOLDER, Locks

FINAL = ("ok", "diverged", "oom")
"""Statuses that a trial keeps; after an `error` it is tried again, as a cell is."""

Trial = dict[str, Any]
"""`number`, `options` (the searched ones), `cell`, `status`, `validation_loss`,
`peak_memory_bytes`, `seconds` (of all phases), `error`; `same_as`: the trial that had these
options before, whose figures these are."""

RunTrial = Callable[[Cell, Path, str], None]
"""`run(cell, folder, title)` trains and judges a trial and leaves its record in `folder`."""


def trial_of(cell: Cell, values: Mapping[str, object]) -> Cell:
    """The cell of a trial: the method with these values, the trial's budget and no suites."""
    assert cell.search is not None
    options = {**cell.options, **values}
    return with_options(cell, options, budget=cell.search.budget, seed=cell.search.seed, suites=())


def folder_of(cell: Cell, out: Path) -> Path:
    """The folder of a tuned cell's trials; the same for all of its seeds."""
    assert cell.search is not None
    name = f"{trial_of(cell, {}).id}-{study.digest(cell.search)[:6]}"
    return out / "tuning" / name


def recorded_trials(cell: Cell, out: Path) -> int:
    """How many trials of a tuned cell need not run, judging by their files."""
    assert cell.search is not None
    folder = folder_of(cell, out)
    files = [file for file in (folder / "cells").glob("*.json") if _read(file) is not None]
    file = folder / "tuning.json"
    trials = json.loads(file.read_text(encoding="utf-8"))["trials"] if file.is_file() else []
    there = {file.stem for file in files}
    known = sum(trial["cell"] in there for trial in trials)  # several may have the same options
    return min(cell.search.most, max(known, len(files)))


def chosen(cell: Cell, tuning: Mapping[str, Any]) -> Cell:
    """The cell with the winner's options; its id is the one that was planned."""
    winner = tuning["trials"][tuning["chosen"]]
    options = {**cell.options, **winner["options"]}
    return dataclasses.replace(
        with_options(cell, options), id=cell.id, search=cell.search, tuned=tuning
    )


def failure(cell: Cell, tuning: Mapping[str, Any], out: Path) -> Record:
    """The record of a cell that cannot be trained because no trial gave a loss."""
    trials = tuning["trials"]
    counted = Counter(trial["status"] for trial in trials)
    counts = ", ".join(f"{count} {status}" for status, count in counted.items())
    return new_record(
        id=cell.id,
        status=trials[0]["status"],
        plan=dataclasses.replace(cell, tuned=tuning).as_record(),
        environment=store.environment(),
        error={
            "type": "TuningFailed",
            "message": f"none of {len(trials)} trials gave a validation loss ({counts}; the first: "
            f"{trials[0]['error']}): change the search space, or delete {folder_of(cell, out)} and "
            "run again",
            "phase": "tuning",
            "traceback": [],
        },
    )


class Tuner:
    """Tunes each method once, whatever the number of its seeds."""

    def __init__(self, out: Path, run: RunTrial, report: Callable[..., None]) -> None:
        """`report(cell, event)` is called for each trial that ran."""
        self._out = out
        self._run = run
        self._report = report
        self._results: dict[Path, dict[str, object]] = {}
        self._searching = threading.Lock()
        self._locks = Locks(out / FOLDER)

    def tune(self, cell: Cell) -> dict[str, object]:
        """The result of a cell's search: the section `plan.tuning` of its record.

        `trials`; `chosen`, the number of the trial with the lowest validation loss (None if none
        has one); `validation_loss`, that trial's; `at_edge`, the options whose value of it is the
        highest or lowest tried; `extended`, how many trials were added for that; `front`, the
        numbers of the trials on the Pareto front; `seconds`, of all trials together. Raises Taken
        where another run is at these trials.
        """
        folder = folder_of(cell, self._out)
        with self._searching:  # cells of several seeds may be in flight
            if folder in self._results:
                return self._results[folder]
            with self._locks.held(f"tuning-{folder.name}"):
                self._results[folder] = self._search(cell, folder)
                store.write_json(folder / "tuning.json", self._results[folder])
                return self._results[folder]

    def _search(self, cell: Cell, folder: Path) -> dict[str, object]:
        search = cell.search
        assert search is not None
        if _drop_errors(folder):  # the study has them as failed
            (folder / "study.db").unlink(missing_ok=True)
        sampler = study.Study(folder / "study.db", search, cell.options)
        trials: list[Trial] = []
        for number in range(search.trials):
            values = sampler.values(number)
            trial = self._trial(cell, folder, number, values, trials)
            sampler.tell(number, objectives(trial, search))
            trials.append(trial)
        while len(trials) < search.most:
            best = summary(trials, search)["chosen"]
            beyond = bracketing.beyond(trials, best, search)
            if beyond is None or trials[-1]["status"] == "error":
                break
            trials.append(self._trial(cell, folder, len(trials), beyond, trials))
        return {"study": f"tuning/{folder.name}", **summary(trials, search)}

    def _trial(
        self, cell: Cell, folder: Path, number: int, values: dict[str, object], before: list[Trial]
    ) -> Trial:
        """A trial's figures: read from its record, or measured now."""
        assert cell.search is not None
        total = cell.search.trials if number < cell.search.trials else cell.search.most
        trial_cell = trial_of(cell, values)
        file = folder / "cells" / f"{trial_cell.id}.json"
        same = next((t["number"] for t in before if t["cell"] == trial_cell.id), None)
        new = same is None and _read(file) is None
        if new:
            try:
                self._run(trial_cell, folder, f"{cell.label} trial {number + 1}/{total}")
            finally:
                shutil.rmtree(folder / "artifacts", ignore_errors=True)
        trial_record = store.read_record(file)
        trial = {
            "number": number,
            "options": values,
            "cell": trial_cell.id,
            **_figures(trial_record),
        }
        if same is not None:
            trial |= {"same_as": same, "seconds": 0.0}
        if new:
            self._report(cell, {"event": "trial", "trials": total, **trial})
        return trial


def objectives(trial: Trial, search: Search) -> list[float] | None:
    """A trial's objective values, lower is better; None if it failed."""
    known = {
        "validation_loss": trial["validation_loss"],
        "peak_memory": trial["peak_memory_bytes"],
    }
    values = [known[name] for name in search.objectives]
    return None if trial["status"] != "ok" or None in values else values


def summary(trials: Sequence[Trial], search: Search) -> dict[str, Any]:
    """The winner, the Pareto front and the cost of some trials."""
    placed = {t["number"]: place for t in trials if (place := objectives(t, search)) is not None}
    losses = {number: trials[number]["validation_loss"] for number in placed}
    best = min(losses, key=lambda number: (losses[number], placed[number]), default=None)
    several = len(search.objectives) > 1
    return {
        "trials": list(trials),
        "extended": max(0, len(trials) - search.trials),
        "chosen": best,
        "validation_loss": None if best is None else losses[best],
        "at_edge": bracketing.at_edge(trials, best, search),
        **({"front": front(placed)} if several else {}),
        "seconds": sum(trial["seconds"] for trial in trials),
    }


def front(placed: Mapping[int, Sequence[float]]) -> list[int]:
    """The Pareto front: the keys whose objective values no other dominates, in order."""

    def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
        pairs = list(zip(first, second, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [
        key
        for key, place in placed.items()
        if not any(dominates(other, place) for other in placed.values())
    ]


def _figures(trial_record: Record) -> dict[str, object]:
    """The figures of a trial, from its record."""
    training = trial_record["training"] or {}
    judged = training.get("validation") or {}
    phases = [phase["seconds"] for phase in (training.get("phases") or {}).values()]
    return {
        "status": trial_record["status"],
        "validation_loss": judged.get("loss"),
        "peak_memory_bytes": cost([trial_record])["peak_memory_bytes"],
        "seconds": sum(filter(None, [*phases, judged.get("seconds")])),
        "error": trial_record["error"]["message"] if trial_record["error"] else None,
    }


def _read(file: Path) -> Record | None:
    """A trial's record, if it has one that stands."""
    if not file.is_file():
        return None
    record = store.read_record(file)
    return record if record["status"] in FINAL else None


def _drop_errors(folder: Path) -> bool:
    """Delete the records of failed trials, so that they run again; True if there were any."""
    broken = [file for file in (folder / "cells").glob("*.json") if _read(file) is None]
    for file in broken:
        file.unlink()
    return bool(broken)
