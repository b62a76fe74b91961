"""A worker that is killed while it trains, and one that goes on: the same losses and weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time

import pytest
from pydantic import TypeAdapter

from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.cell import with_suites
from harness.planning.plan import Settings, make_plan
from harness.runner.worker import STOPPED, Work

STEPS = 80
LAST = 20
"""After which none is killed: a fast machine is some steps ahead of what it has reported."""
EVERY = 0.1 / 60
"""Minutes between checkpoints: some steps lie between two, so that steps run twice."""


@pytest.fixture
def train(experiment, warm, tmp_path):
    """`train(where, method, minutes=None, kill=(step, seconds, signal))` runs a training's worker.

    Its exit code and its record, None without one; it gets the signal so long after that step.
    """

    def run(where, method, *, minutes=None, kill=None):
        budget = {"steps": STEPS, "batch": 4, "micro_batch": 2, "precision": "float32"}
        small = experiment(
            methods=["base", method],
            suites=["picks"],
            budget={**budget, "checkpoint_minutes": minutes},
        )
        (_, cell) = make_plan(load_experiment(small.file), Plugins(), Settings()).cells
        work = Work(with_suites(cell, ()), tmp_path / where, None)
        job = tmp_path / "job.json"
        job.write_bytes(TypeAdapter(Work).dump_json(work))
        pid, code = None, None
        for event in warm.run(job, tmp_path / "log"):
            pid, code = event.get("pid", pid), event.get("code", code)
            if kill and event.get("step") == kill[0]:
                time.sleep(kill[1])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, kill[2])
                kill = None
        record = tmp_path / where / "cells" / f"{work.cell.id}.json"
        return code, json.loads(record.read_text()) if record.is_file() else None

    return run


def weights(out):
    (artifact,) = (out / "artifacts").iterdir()
    files = sorted(artifact.glob("*.safetensors"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def damage(out, number):
    """Truncate a file of the newest checkpoint, or flip a bit in it; the checkpoint's name."""
    *_, newest = sorted((out / "checkpoints").glob("*/*/step-*"))
    file = newest / ("optimizer.pt" if number % 2 else "weights-00000.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 3] if number % 2 else content)
    return newest.name


def check(train, tmp_path, method, kills, damaged=()):
    """Kill a training after each of these steps, damage what it left after some.

    One that is told to stop writes a checkpoint then, and else none.
    """
    code, whole = train("whole", method)
    assert code == 0
    spoilt = set()
    for number, kill in enumerate(kills):
        told = kill[2] == signal.SIGTERM
        code, record = train("parts", method, minutes=None if told else EVERY, kill=kill)
        assert (code, record) == (STOPPED if told else -signal.SIGKILL, None)
        if number in damaged:
            spoilt.add(damage(tmp_path / "parts", number))
    code, parts = train("parts", method, minutes=EVERY)
    assert code == 0
    assert parts["id"] == whole["id"]
    assert parts["training"]["loss_curve"] == whole["training"]["loss_curve"]
    assert len(whole["training"]["loss_curve"]) >= STEPS
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    resumed = parts["training"].pop("resumed")
    assert resumed["times"] == len(kills)
    assert all(0 < step <= STEPS for step in resumed["from_steps"])
    assert resumed["lost_seconds"] > 0
    assert "resumed" not in whole["training"]
    assert set(parts["training"]) == set(whole["training"])
    assert not (tmp_path / "parts/checkpoints").exists()
    not_used = [line for line in parts["warnings"] if "checkpoint" in line]
    assert {name for name in spoilt if any(name in line for line in not_used)} == spoilt
    assert len(not_used) == len(spoilt)
    assert [line for line in parts["warnings"] if line not in not_used] == whole["warnings"]


def test_one_that_is_stopped_and_killed_goes_on_as_if_it_had_not_been(train, tmp_path):
    ends = [(4, 0.0, signal.SIGTERM), (12, 0.02, signal.SIGKILL)]
    check(train, tmp_path, {"name": "lora", "r": 4, "dropout": 0.2}, ends)


METHODS = {
    "full": {"name": "full", "packing": True},
    "lora": {"name": "lora", "r": 4, "dropout": 0.2},
    "pissa": {"name": "pissa", "r": 4, "dropout": 0.2},
    "qlora": {"name": "qlora", "r": 4, "dropout": 0.2},
    "best": {"name": "lora", "r": 4, "lr": 0.1, "validate_every": 2, "keep_best": True},
}


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_five_kills_and_two_damaged_checkpoints_change_nothing(train, tmp_path, name):
    draw = random.Random(name)
    steps = sorted(draw.sample(range(6, LAST), 5))
    kills = [(step, draw.uniform(0, 0.03), signal.SIGKILL) for step in steps]
    check(train, tmp_path, METHODS[name], kills, damaged=(1, 2))
