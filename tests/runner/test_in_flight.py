"""Executors that run several cells at once: the same records, one thread that hears of them."""

import json
import sys
import threading

import pytest
from harness.plugins.executors.local import Local

from harness import Executor, Tracker
from harness.config.experiment import load_experiment
from harness.errors import PluginFault
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.results import store
from harness.runner.in_flight import EventsInOrder
from harness.runner.places import Places
from harness.runner.run import run_plan
from harness.runner.tracking import Tracking
from tests.conftest import run_warm
from tests.sample_plugins.pair import Pair

METHODS = ["base", {"name": "lora", "r": 2}, {"name": "rslora", "r": 2}]


def planned(small):
    return make_plan(load_experiment(small.file), Plugins(), Settings())


def meeting(kind):
    """After the base, no worker's events are passed on before two workers run."""

    class Meeting(kind):
        met = threading.Barrier(2)

        def run(self, job_file, log_file):
            base = json.loads(job_file.read_text())["cell"]["method"] == "base"
            events = super().run(job_file, log_file)
            yield next(events)
            if not base:
                self.met.wait(timeout=300)
            yield from events

    return Meeting()


class Diary(Tracker):
    name = "diary"

    def __init__(self):
        self.calls, self.threads = [], set()

    def event(self, cell, event):
        self.threads.add(threading.current_thread())

    def start(self, cell, settings):
        self.calls.append(("start", cell))

    def finish(self, cell, status, values):
        self.calls.append(("finish", cell))


def comparable(record):
    """What no clock and no memory is in."""
    measured = record["evaluation"]["suites"].items()
    suites = {name: section["metrics"] for name, section in measured}
    training = record["training"] or {}
    losses = [point["loss"] for point in training.get("loss_curve", ()) if "loss" in point]
    kept = {key: record[key] for key in ("id", "status", "plan", "warnings", "error")}
    return {**kept, "suites": suites, "losses": losses}


@pytest.mark.parametrize("kind", [Pair, Local])
def test_two_cells_in_flight_leave_the_records_that_one_after_another_leaves(
    experiment, warm, kind
):
    """By an executor's own concurrency, and by `--jobs 2` with a thread for each worker."""
    small = experiment(methods=METHODS, suites=["picks"])
    assert not run_warm(small, warm).failed
    plan, out = planned(small), small.folder / "paired"
    events, threads, diary = [], set(), Diary()

    def observe(cell, event):
        threads.add(threading.current_thread())
        events.append((cell.id, event["event"]))

    stdout = sys.stdout
    two = Places([{"OMP_NUM_THREADS": "1"}] * 2) if kind is Local else None
    with Tracking([diary], "paired", out, pytest.fail) as tracking:
        outcome = run_plan(plan, out, meeting(kind), observe, tracking, places=two)
    ids = [cell.id for cell in plan.cells]
    assert (list(outcome.ran), outcome.failed, outcome.exit_code) == (ids, (), 0)
    # in flight together, and after the base
    assert all((id, "recorded") in events for id in ids)
    started = [events.index((id, "started")) for id in ids]
    ended = [events.index((id, "exit")) for id in ids]
    assert ended[0] < min(started[1:]) < max(started[1:]) < min(ended[1:])
    # all received in this thread, by trackers one cell after another
    assert threads | diary.threads == {threading.current_thread()}
    assert diary.calls == [(what, id) for id in ids for what in ("start", "finish")]
    assert sys.stdout is stdout
    for id in ids:
        here, there = (store.read_record(f / "cells" / f"{id}.json") for f in (out, small.out))
        assert comparable(here) == comparable(there)
    mine, theirs = (json.loads((f / "leaderboard.json").read_text()) for f in (out, small.out))
    assert [row["label"] for row in mine["rows"]] == [row["label"] for row in theirs["rows"]]


class Endless(Executor):
    """Cells that never end by themselves."""

    name, concurrency = "endless", 2

    def __init__(self):
        self.closed = []

    def run(self, job_file, log_file):
        cell = json.loads(job_file.read_text())["cell"]
        try:
            while cell["method"] != "base":
                yield {"event": "progress"}
            yield {"event": "exit", "code": 1}
        finally:
            self.closed.append(cell["id"])


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, PluginFault])
def test_an_interrupt_ends_all_workers(experiment, interrupt):
    small = experiment(methods=METHODS)
    plan, endless, running = planned(small), Endless(), set()

    def observe(cell, event):
        if event["event"] == "progress":
            running.add(cell.id)
        if len(running) == 2:
            raise interrupt("now")

    with pytest.raises(interrupt, match="now"):
        run_plan(plan, small.out, endless, observe)
    assert sorted(endless.closed) == sorted(cell.id for cell in plan.cells)
    assert set(small.records()) == {"base-0"}  # of the others there is no record: they run again


@pytest.mark.parametrize("number", [0, -1, "2", None])
def test_a_concurrency_that_is_no_number_is_the_executors_fault(experiment, number):
    executor = type("Odd", (Endless,), {"name": "odd", "concurrency": number})()
    with pytest.raises(PluginFault, match=r"executor 'odd': concurrency is .*: make it 1 or more"):
        run_plan(planned(experiment()), experiment().out, executor, lambda cell, event: None)


def test_events_of_a_later_cell_are_passed_on_in_its_turn(experiment):
    cells, events = planned(experiment(methods=METHODS)).cells, []
    turns = EventsInOrder(cells, lambda cell, event: events.append((cell, event["event"])))
    first, second, third = (cell.id for cell in cells)
    turns.event(second, {"event": "started"})
    turns.event(third, {"event": "skipped"})
    assert events == []
    turns.event(first, {"event": "skipped"})
    assert events == [(first, "skipped"), (second, "started")]
    turns.event(second, {"event": "recorded"})
    assert events[2:] == [(second, "recorded"), (third, "skipped")]
