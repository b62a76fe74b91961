"""Cells whose workers are forked are those of new interpreters, but for the time of imports."""

import os

import psutil
import pytest

from harness.config.experiment import load_experiment
from harness.sdk import running
from harness.sdk.measuring import Measuring
from harness.system.workers import fork_server
from tests.faults.runs import assert_equal, is_worker

pytestmark = pytest.mark.skipif(
    not fork_server.possible(),
    reason="workers are forked on Linux without a GPU",
)


class Watching(running._Silent):
    """Sees the workers of a run whenever an event comes: process -> its parent."""

    def __init__(self):
        self.parents = {}

    def observe(self, cell, event):
        for child in psutil.Process().children(recursive=True):  # parents come first
            # what a worker starts has its title until it is another program
            if is_worker(child) and child.ppid() not in self.parents:
                self.parents[child.pid] = child.ppid()


def execute(small, out, **options):
    """Run it here; process -> parent of the workers that were seen."""
    watching, executor = Watching(), running.executor_with("local", options)
    experiment, measuring = load_experiment(small.file), Measuring(out=out)
    running.execute(experiment, measuring, executor, None, screen=watching)
    return watching.parents


def test_records_are_those_of_new_interpreters(experiment, tmp_path):
    small = experiment(methods=["base", {"name": "lora", "r": 4}], suites=["picks", "answers"])
    forked = execute(small, tmp_path / "forked")
    fresh = execute(small, tmp_path / "fresh", fork=False)
    assert len(forked) == len(fresh) == 2
    assert len(set(forked.values())) == 1
    assert os.getpid() not in forked.values()
    assert set(fresh.values()) == {os.getpid()}
    assert not any(map(psutil.pid_exists, forked.values()))
    assert_equal(tmp_path / "forked", tmp_path / "fresh")


def test_a_single_cell_has_a_new_interpreter(experiment, tmp_path):
    small = experiment(methods=["base"], suites=["picks"])
    assert set(execute(small, tmp_path / "out").values()) == {os.getpid()}
