"""Cells that do not end by themselves: interrupted runs, time limits, and workers that say nothing.

Their workers are real processes that do no work.
"""

import json
import os
import signal
import sys
import threading
import time

import pytest

from harness import Executor
from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.record import new_record
from harness.results import store
from harness.runner import cell_runner
from harness.runner.run import run_plan
from harness.system.workers import interruption, worker_process

pytestmark = pytest.mark.usefixtures("ctrl_c_is_heard")

METHODS = ["base", {"name": "lora", "r": 2}, {"name": "rslora", "r": 2}, {"name": "dora", "r": 2}]

WORKER = """
import json, signal, sys, time

def say(**event):
    print(json.dumps(event), flush=True)

def stop(*_):
    if "heeds" in sys.argv[1]:
        say(event="stopped")
        sys.exit(143)

signal.signal(signal.SIGTERM, stop)
say(event="phase", name="train")
if "works" not in sys.argv[1]:
    while True:
        time.sleep(1)
"""


class Acts(Executor):
    """Workers that do as `ways` says of their cell's label; others have their record at once."""

    name = "acts"

    def __init__(self, plan, ways, concurrency=1):
        self.plan, self.ways, self.concurrency, self.begun = plan, ways, concurrency, []

    def run(self, job_file, log_file):
        cell = next(one for one in self.plan.cells if one.id == job_file.stem)
        self.begun.append(cell.label)
        way = self.ways.get(cell.label, "works")
        command = [sys.executable, "-c", WORKER, way]
        for event in worker_process.events(command, log_file, os.environ):
            if event["event"] == "exit" and way == "works":
                store.write_record(job_file.parent.parent, record_of(cell))
            yield event


def record_of(cell):
    return new_record(
        id=cell.id,
        status="ok",
        plan=cell.as_record(),
        training=None,
        environment=store.environment(),
    )


@pytest.fixture
def plan(experiment):
    """The plan of four cells; with `max_minutes`, of workers that may take that long."""

    def planned(**budget):
        small = experiment(methods=METHODS, suites=["picks"])
        small = small.write(budget={**small.content["budget"], **budget})
        return make_plan(load_experiment(small.file), Plugins(discover=False), Settings())

    return planned


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def recorded(out):
    return {json.loads(file.read_text())["plan"]["label"] for file in out.glob("cells/*.json")}


def interrupt(*numbers):
    """An observer that sends these signals to this process once `lora` trains, and later on."""
    sent = list(numbers)

    def observe(cell, event):
        if cell.label == "lora" and event["event"] in ("phase", "stopping") and sent:
            os.kill(os.getpid(), sent.pop(0))

    return observe


def interrupted_run(plan, out, executor, observe):
    """The outcome of a run that gets a signal; None where it gets a second one."""
    outcomes = []

    def run():
        with interruption.heeded():
            outcomes.append(run_plan(plan, out, executor, observe))

    with pytest.raises(KeyboardInterrupt):
        run()
    return outcomes[0] if outcomes else None


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize(
    ("way", "numbers"),
    [("heeds", [signal.SIGINT]), ("ignores", [signal.SIGINT, signal.SIGINT])],
    ids=["once", "twice"],
)
def test_an_interrupted_run_keeps_what_is_recorded_and_the_next_goes_on(
    plan, out, at_once, way, numbers
):
    plan = plan()
    acts = Acts(plan, {"lora": way, "rslora": way}, at_once)
    outcome = interrupted_run(plan, out, acts, interrupt(*numbers))
    assert sorted(acts.begun) == ["base", "lora", "rslora"][: 1 + at_once]
    assert recorded(out) == {"base"}
    if way == "heeds":  # twice leaves no time for a leaderboard
        assert outcome.interrupted
        assert (len(outcome.ran), outcome.failed) == (1, ())
        assert [row["label"] for row in outcome.board["rows"]] == ["base"]
        assert (out / "leaderboard.json").is_file()
    assert not list(out.glob("logs/*.job"))
    assert not (out / "locks").exists()

    again = Acts(plan, {})
    outcome = run_plan(plan, out, again, lambda cell, event: None)
    assert (outcome.exit_code, outcome.interrupted) == (0, False)
    assert again.begun == ["lora", "rslora", "dora"]


def test_a_worker_that_another_told_to_stop_ends_the_run_without_a_record(plan, out):
    plan, events = plan(), []
    acts = Acts(plan, {"lora": "heeds"})

    def observe(cell, event):
        events.append((cell.label, event["event"]))
        if events[-1] == ("lora", "phase"):
            (pid,) = children()
            os.kill(pid, signal.SIGTERM)

    outcome = run_plan(plan, out, acts, observe)
    assert (outcome.interrupted, outcome.failed) == (True, ())
    assert acts.begun == ["base", "lora"]
    assert recorded(out) == {"base"}
    assert events.count(("lora", "stopped")) == 1


def children():
    """The workers of this process that run its code; a guard is a shell."""
    import psutil

    found = psutil.Process().children()
    return [child.pid for child in found if WORKER in child.cmdline()]


def test_a_cell_whose_time_is_up_is_recorded_with_what_to_do_and_the_others_go_on(
    plan, out, monkeypatch
):
    monkeypatch.setattr(interruption, "SECONDS_AFTER_LIMIT", 0.5)
    free, plan = plan(), plan(max_minutes=0.03)
    assert [cell.id for cell in plan.cells] == [cell.id for cell in free.cells]
    acts = Acts(plan, {"lora": "ignores", "rslora": "heeds"})
    outcome = run_plan(plan, out, acts, lambda cell, event: None)
    assert (outcome.exit_code, outcome.interrupted) == (5, False)
    assert outcome.failed == tuple(cell.id for cell in plan.cells[1:3])
    assert acts.begun == ["base", "lora", "rslora", "dora"]
    for cell in plan.cells[1:3]:
        record = store.read_record(out / "cells" / f"{cell.id}.json")
        assert record["status"] == "error"
        assert record["error"]["type"] == "TimeLimit"
        assert record["error"]["phase"] == "train"
        assert record["error"]["message"] == (
            "stopped in train after budget.max_minutes (0.03): give it more, as with --set "
            "budget.max_minutes=0.06, or leave the limit out; the next run goes on from what is "
            f"finished ({out / 'logs' / cell.id}.log)"
        )
        assert "max_minutes" not in record["plan"]["budget"]
    again = run_plan(free, out, Acts(free, {}), lambda cell, event: None)
    assert (again.exit_code, again.ran) == (0, outcome.failed)


def test_a_worker_that_says_nothing_is_told_of_once_and_in_its_record(plan, out, monkeypatch):
    monkeypatch.setattr(worker_process, "IDLE", 1000)
    monkeypatch.setattr(cell_runner, "SILENCE", 0.3)
    plan, told = plan(), []

    class Silent(Acts):
        def run(self, job_file, log_file):
            events = super().run(job_file, log_file)
            cell = next(one for one in self.plan.cells if one.id == job_file.stem)
            if cell.label == "lora":
                for _ in range(10):
                    time.sleep(0.1)
                    yield {"event": "idle"}
            yield from events

    def observe(cell, event):
        if event["event"] == "warning":
            told.append((cell.label, event["message"]))

    outcome = run_plan(plan, out, Silent(plan, {}), observe)
    assert outcome.exit_code == 0
    ((label, message),) = told
    assert label == "lora"
    assert message.startswith("no sign of life for 0.005 minutes (see ")
    for cell in plan.cells:
        record = store.read_record(out / "cells" / f"{cell.id}.json")
        assert record["warnings"] == ([message] if cell.label == "lora" else [])


class Deaf(Executor):
    """Hears of no interrupt and goes on with its events, as executors did that knew of none."""

    name = "deaf"

    def __init__(self):
        self.closed = threading.Event()

    def run(self, job_file, log_file):
        try:
            while True:
                time.sleep(0.05)
                yield {"event": "progress"}
        finally:
            self.closed.set()


def test_an_executor_that_knows_of_no_interrupt_is_closed_at_its_next_event(plan, out, monkeypatch):
    monkeypatch.setattr(cell_runner, "SECONDS_TO_TELL", 0.3)
    plan, deaf = plan(), Deaf()
    sent = []

    def observe(cell, event):
        if event["event"] == "progress" and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    assert interrupted_run(plan, out, deaf, observe).interrupted
    assert deaf.closed.is_set()
    assert recorded(out) == set()
