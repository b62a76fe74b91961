"""Several runs of one folder, as processes of their own: what each cell is done by, and how often.

Their executor writes a cell's record at once, as a worker does after hours.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.results import leaderboard_file

ROOT = Path(__file__).parent.parent.parent

RUNS = """
import json, os, sys, time
from pathlib import Path
from harness import Executor
from harness.cli.render.progress import Lines
from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.record import new_record
from harness.results import store
from harness.runner.run import run_plan

folder, out = map(Path, sys.argv[1:])
plan = make_plan(load_experiment(folder / "experiment.yaml"), Plugins(discover=False), Settings())

class Writes(Executor):
    name = "writes"

    def __init__(self, hangs_at, fails_at, at_once):
        self.hangs_at, self.fails_at, self.concurrency = hangs_at, fails_at, at_once

    def run(self, job_file, log_file):
        job = json.loads(job_file.read_text())
        cell = next(one for one in plan.cells if one.id == job["cell"]["id"])
        with (folder / "done.txt").open("a") as done:
            done.write(f"{cell.label} {os.getpid()}\\n")
        if cell.label == self.hangs_at:
            while not (folder / "go").exists():
                time.sleep(0.05)
        time.sleep(0.05)
        error = {"type": "E", "message": "as told", "phase": None, "traceback": []}
        failed = cell.label == self.fails_at
        record = new_record(
            id=cell.id, status="error" if failed else "ok", plan=cell.as_record(), training=None,
            environment=store.environment(), error=error if failed else None,
        )
        store.write_record(Path(job["out"]), record)
        yield {"event": "exit", "code": 0}

def run(settings):
    outcome = run_plan(plan, out, Writes(**settings), Lines().observe)
    told = {"code": outcome.exit_code}
    for name in ("ran", "skipped", "elsewhere", "failed"):
        told[name] = sorted(cell.split("-")[0] for cell in getattr(outcome, name))
    (folder / f"{os.getpid()}.json").write_text(json.dumps(told))

for line in sys.stdin:
    if line == "wait\\n":
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        print("ended", flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        os.dup2(os.open(folder / f"{os.getpid()}.err", os.O_WRONLY | os.O_CREAT), 2)
        run(json.loads(line))
        os._exit(0)
"""

LABELS = ("base", "a", "b", "c", "d", "e", "f")


class Runs:
    """Runs of the base and six methods, the last of which trains as the one before it does."""

    def __init__(self, experiment):
        ranks = zip(LABELS[1:], (1, 2, 3, 4, 5, 5), strict=True)
        methods = ["base", *({"name": "lora", "r": r, "label": label} for label, r in ranks)]
        self.small = experiment(methods=methods, suites=["picks"])
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNS, self.small.folder, self.small.out],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, *, hangs_at="", fails_at="", at_once=1):
        """Start a run; its process."""
        settings = {"hangs_at": hangs_at, "fails_at": fails_at, "at_once": at_once}
        return int(self._say(json.dumps(settings)))

    def end(self, *pids):
        """What each of these did, once all have ended; None of one that was killed."""
        assert self._say("wait") == "ended\n"
        files = [self.small.folder / f"{pid}.json" for pid in pids]
        for pid in pids:
            print((self.small.folder / f"{pid}.err").read_text())
        return [json.loads(file.read_text()) if file.exists() else None for file in files]

    def _say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def done(self):
        """(label, process) of each cell that was begun, in order."""
        file = self.small.folder / "done.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def said(self, pid):
        file = self.small.folder / f"{pid}.err"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def runs(experiment):
    runs = Runs(experiment)
    with runs.process:
        yield runs
        runs.process.stdin.close()


def until(holds):
    limit = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize(("several", "at_once"), [(2, 2), (8, 1)])
def test_runs_of_one_folder_do_each_cell_once_between_them(runs, several, at_once):
    pids = [runs.begin(at_once=at_once) for _ in range(several)]
    ends = runs.end(*pids)
    assert sorted(label for label, _ in runs.done()) == sorted(LABELS)
    for pid, end in zip(pids, ends, strict=True):
        assert end["ran"] == sorted(label for label, by in runs.done() if by == pid)
        assert sorted(end["ran"] + end["elsewhere"]) == sorted(LABELS)
        assert end["skipped"] == end["elsewhere"]
        assert (end["failed"], end["code"]) == ([], 0)
    board = json.loads((runs.small.out / leaderboard_file.NAME).read_text())
    assert {row["label"] for row in board["rows"]} == set(LABELS)
    assert set(runs.small.records()) == {f"{label}-0" for label in LABELS}
    assert not (runs.small.out / "locks").exists()


def test_a_cell_of_a_run_that_was_killed_is_done_by_the_one_that_waits(runs):
    first = runs.begin(hangs_at="c")
    until(lambda: ("c", first) in runs.done())
    second = runs.begin()
    until(lambda: "its end is waited for" in runs.said(second))
    assert f"another run is at it (process {first}, since " in runs.said(second)
    others = {label for label, by in runs.done() if by == second}
    assert others == {"d", "e", "f"}  # nothing else was left
    os.kill(first, signal.SIGKILL)
    killed, end = runs.end(first, second)
    assert killed is None
    assert end["ran"] == ["c", "d", "e", "f"]
    assert [by for label, by in runs.done() if label == "c"] == [first, second]
    assert set(runs.small.records()) == {f"{label}-0" for label in LABELS}


def test_what_fails_in_another_run_is_taken_over_and_run_again_by_the_next(runs):
    first = runs.begin(hangs_at="base", fails_at="base")
    until(lambda: ("base", first) in runs.done())
    second = runs.begin()
    until(lambda: "its end is waited for" in runs.said(second))
    (runs.small.folder / "go").touch()
    for end in runs.end(first, second):
        assert (end["failed"], end["code"]) == (["base"], 5)
    assert [label for label, _ in runs.done()].count("base") == 1
    (third,) = runs.end(runs.begin())
    assert (third["ran"], third["failed"], third["code"]) == (["base"], [], 0)
