"""The executor `ray`: one cell on a Ray of this machine, and what is told before anything runs."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EnvironmentLack, UserError
from harness.sdk.running import executor_with

OPTIONS = {"address": "local", "gpus": 0, "cpus": 1}


def session(**options: object) -> Any:
    return executor_with("ray", {**OPTIONS, **options}).session("cpu", pytest.fail)


def refused(match: str, **options: object) -> None:
    with pytest.raises(UserError, match=match) as caught, session(**options):
        pytest.fail("it was entered")
    assert "\n" not in str(caught.value)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_cell_leaves_on_ray_the_record_that_it_leaves_here(
    experiment: Any, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files travel, as to a node that does not see the results folder."""
    pytest.importorskip("ray")
    from harness.config.experiment import load_experiment
    from harness.manager import Plugins
    from harness.planning.plan import Settings, make_plan
    from harness.runner.run import run_plan
    from tests.conftest import run_warm

    monkeypatch.setenv("GREETING", "hello")
    small = experiment(suites=["picks"])
    assert not run_warm(small, warm).failed
    plan, there = make_plan(load_experiment(small.file), Plugins(), Settings()), small.folder / "r"
    ray, events = executor_with("ray", {**OPTIONS, "store": "ray", "env": "GREETING"}), []
    with ray.session("cpu", pytest.fail):
        assert ray.concurrency == (os.cpu_count() or 1)
        outcome = run_plan(plan, there, ray, lambda cell, event: events.append(event))
        with pytest.raises(
            UserError, match=r"no node has 4096 CPUs and 0 GPUs for a cell .* lower"
        ):
            executor_with("ray", {**OPTIONS, "cpus": 4096})._fit(sys.modules["ray"], "cpu")
        with pytest.raises(UserError, match="the cluster has no GPU, and the cells are for one"):
            executor_with("ray", {"address": "local"})._fit(sys.modules["ray"], "cuda")
    assert (len(outcome.ran), outcome.failed) == (1, ())
    kinds = [event["event"] for event in events]
    assert kinds.index("node") < kinds.index("exit") < kinds.index("recorded")
    mine, theirs = (
        json.loads(next((out / "cells").glob("*.json")).read_text()) for out in (there, small.out)
    )
    assert mine["evaluation"]["suites"] == theirs["evaluation"]["suites"]
    assert (mine["status"], mine["warnings"]) == ("ok", theirs["warnings"])
    log = (there / "logs" / f"{mine['id']}.log").read_text()
    assert log.startswith(f"ray: {mine['id']} as ")
    assert not sys.modules["ray"].is_initialized()


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(EnvironmentLack, match=r"needs Ray: pip install 'finetune-harness\[ray\]'"),
        session(),
    ):
        pass


def test_what_is_wrong_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    port = free_port()
    refused(rf"no Ray at 127.0.0.1:{port} \(.*refused\): is it up", address=f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    refused(rf"no Ray at 127.0.0.1:{port}", address=None)
    refused("a Ray Client carries no streams", address="ray://127.0.0.1:10001")
    refused("cannot connect to rubbish: Invalid address format", address="rubbish")
    refused("env=NOT_SET_HERE: NOT_SET_HERE is not set here", env="NOT_SET_HERE")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"adress": "auto"}, "unknown key 'adress'.*did you mean 'address'"),
        ({"cpus": 0}, "cpus of --executor-option of 'ray'"),
        ({"gpus": -1}, "gpus of --executor-option of 'ray'"),
        ({"cpus": "two"}, "cpus of --executor-option of 'ray'"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        executor_with("ray", options)


def test_a_local_executor_takes_no_options(harness: Any, experiment: Any) -> None:
    file = experiment().file
    ran = harness("run", file, "--executor-option", "address=auto")
    assert (ran.code, "unknown key 'address'" in ran.error) == (2, True)
    ran = harness("run", file, "--executor-option", "address")
    assert "expected KEY=VALUE, such as address=auto" in ran.error


def test_a_node_of_another_python_or_harness_is_named() -> None:
    from harness.plugins.executors import ray

    mine = ray._probe()("")
    ray._check_node("10.0.0.2 (box)", mine, mine, "auto")
    cases = [
        ({"python": "3.9"}, r"node 10.0.0.2 \(box\) has Python 3.9, this is 3"),
        ({"harness": None}, "has no finetune-harness: install finetune-harness==0"),
        ({"harness": "0.0.1"}, "has finetune-harness 0.0.1: install finetune-harness==0"),
        ({"store": "FileNotFoundError: seen-1"}, "store=file:///x: node 10.0.0.2"),
    ]
    for change, match in cases:
        with pytest.raises(UserError, match=match):
            ray._check_node("10.0.0.2 (box)", mine, {**mine, **change}, "file:///x")


def test_a_file_that_is_too_large_to_send_is_named(tmp_path: Path) -> None:
    from harness.errors import CellFailed

    executor = executor_with("ray", {**OPTIONS, "carry_gb": 1.5})
    executor._check_carried({"/data/rows.jsonl": 10**9}, "10.0.0.2 (box)")
    with pytest.raises(CellFailed, match=r"10.0.0.2 \(box\) does not see /models/big, and 9.0 GB"):
        executor._check_carried(
            {"/data/rows.jsonl": 10**9, "/models/big": 8 * 10**9}, "10.0.0.2 (box)"
        )
