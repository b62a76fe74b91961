"""Runs of one experiment into which faults are injected, and what must hold when they are over."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.record import Record
from harness.results import store
from tests.conftest import ROOT, Experiment

METHODS: list[Any] = ["base", "full", {"name": "lora", "r": 4}, {"name": "ia3", "label": "ia3"}]
SUITES = ["picks", "answers"]
TOKEN = "HARNESS_TEST_RUN"
"""Variable that every process of a run inherits, by which those that outlive it are found."""
PATIENCE = 15.0
"""Seconds in which whatever belongs to a run that was killed must be gone."""


def four_methods(folder: Path, model: Path, **changes: Any) -> Experiment:
    """The experiment that faults are injected into: four methods, two suites."""
    from tests.conftest import write_experiment

    return write_experiment(folder, model, **{"methods": METHODS, "suites": SUITES, **changes})


# ---- what must hold


def figures(out: Path) -> dict[str, Any]:
    """Every quality figure, rank and tie of `leaderboard.json`; no seconds, no memory."""
    board = json.loads((out / "leaderboard.json").read_text())
    assert store.is_sealed(board)
    kept = ("rank", "metrics", "tied_with", "status", "seeds", "cells")
    return {row["label"]: {key: row[key] for key in kept} for row in board["rows"]}


def samples(out: Path) -> dict[str, str]:
    """Sample file -> its sha256, as the records have it."""
    found = {}
    for file in (out / "cells").glob("*.json"):
        record = store.read_record(file)
        for suite in store.suites(record):
            store.check_samples(out, record, suite)
            stated = store.suites(record)[suite]["samples"]
            assert stated is not None
            found[stated["file"]] = stated["sha256"]
    return found


def is_finished(record: Record) -> bool:
    """Whether nothing is left to do: what was measured without the base is compared with it yet."""
    evaluation = record["evaluation"]
    if record["status"] != "ok" or evaluation is None:
        return False
    return record["plan"]["label"] == "base" or evaluation["base"] is not None


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Files of what is recorded whole, and of sealed artifacts: inode and time of change."""
    records = {f: store.stored(out, f.stem) for f in (out / "cells").glob("*.json")}
    done = [file for file, record in records.items() if record and is_finished(record)]
    files = [*done, *(out / "artifacts").glob("*/training.json")]
    facts = {file: file.stat() for file in files}
    return {str(f.relative_to(out)): (s.st_ino, s.st_mtime_ns) for f, s in facts.items()}


def assert_kept(before: Mapping[str, tuple[int, int]], out: Path) -> None:
    """No recorded cell was recorded again, and no sealed artifact trained again."""
    after = finished(out)
    assert {name: after.get(name) for name in before} == dict(before)


def assert_clean(*folders: Path) -> None:
    """No file is left that was being written, and no job of a worker."""
    left = [
        file
        for folder in folders
        for pattern in ("*.tmp", "*.job", "job.json", "*.lock", "*.lease", ".writing")
        for file in folder.rglob(pattern)
    ]
    assert left == []


def assert_equal(out: Path, reference: Path) -> None:
    """The same figures from the same answers."""
    assert samples(out) == samples(reference)
    assert figures(out) == figures(reference)


# ---- a run


@dataclass
class Ended:
    """How a run ended."""

    code: int
    said: str
    """Standard output and error."""


class Run:
    """`harness run` in a process of its own, with a folder of its own for temporary files."""

    def __init__(
        self,
        small: Experiment,
        out: Path,
        *,
        arguments: Sequence[str] = (),
        before: Sequence[str] = (),
        paths: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`before` is put in front of the command; `paths` are searched for modules first."""
        self.out, self.token = out, uuid.uuid4().hex
        self.scratch = out.with_name(f"{out.name}-scratch")
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.log = self.scratch / f"{self.token}.log"
        command = [*before, sys.executable, "-m", "harness.cli", "run", str(small.file)]
        search = os.pathsep.join(map(str, [*paths, ROOT]))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--out", str(out), *arguments],
                cwd=small.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": search,
                    "TMPDIR": str(self.scratch),
                    TOKEN: self.token,
                    **(env or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self, seconds: float = 1200) -> Ended:
        """Wait for its end."""
        try:
            code = self.process.wait(seconds)
        finally:
            self.stop()
        said = self.log.read_text(errors="replace")
        self.log.unlink()
        return Ended(code, said)

    def processes(self) -> list[psutil.Process]:
        """All that belong to it, by the variable that they inherited."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(TOKEN) == self.token:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """Its workers that are alive."""
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [one for one in children if is_worker(one)]
        return []

    def stop(self) -> None:
        """End whatever is left of it."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def assert_gone(self) -> None:
        """No process of it outlives it by more than moments."""
        until = time.monotonic() + PATIENCE
        while (left := [p for p in self.processes() if _alive(p)]) and time.monotonic() < until:
            time.sleep(0.1)
        told = [command_of(process) for process in left]
        self.stop()
        assert told == []


def is_worker(process: psutil.Process) -> bool:
    """Whether it runs a cell; a server of which workers are forked does not."""
    return "harness.runner.worker " in command_of(process)


def command_of(process: psutil.Process) -> str:
    """Its command with its arguments, or its title."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def until_done(small: Experiment, out: Path, times: int = 3) -> Ended:
    """Run again until all is recorded, as often as so many times."""
    for _ in range(times):
        run = Run(small, out)
        ended = run.ended()
        run.assert_gone()
        if ended.code == 0:
            break
    assert ended.code == 0, ended.said
    return ended


# ---- moments


@dataclass(frozen=True)
class Moment:
    """When a fault is injected: so many files after the start, and so many seconds after that."""

    files: int
    seconds: float
    seed: int

    def wait(self, run: Run) -> bool:
        """Wait for it; whether it came before the run ended."""
        while run.process.poll() is None:
            if len(_written(run.out)) >= self.files:
                time.sleep(self.seconds)
                return run.process.poll() is None
            time.sleep(0.01)
        return False


def moments(count: int, files: int, seed: int = 0) -> list[Moment]:
    """Seeded moments: half of them right after an event, half some time after one."""
    chance = random.Random(seed)
    return [
        Moment(
            chance.randrange(files),
            chance.expovariate(100 if number % 2 else 1),
            chance.randrange(2**31),
        )
        for number in range(count)
    ]


def _written(out: Path) -> list[Path]:
    """What a run has written so far, whole or not."""
    return [file for file in out.rglob("*") if file.is_file()] if out.is_dir() else []
