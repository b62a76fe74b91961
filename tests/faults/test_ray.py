"""Faults of a Ray cluster, each injected for real: nodes, drivers, object stores, folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, Experiment, run_warm
from tests.faults.runs import assert_clean, assert_equal, command_of, four_methods, is_worker
from tests.warm import Warm

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("ctrl_c_is_heard")]
ray = pytest.importorskip("ray")

MIB = 2**20


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, warm: Warm) -> Experiment:
    """Four methods and two suites, run on this machine without Ray."""
    small = four_methods(
        tmp_path_factory.mktemp("reference"),
        tiny_model,
        budget={"steps": 400, "batch": 2, "max_length": 96, "precision": "float32"},
    )
    assert not run_warm(small, warm).failed
    return small


@contextmanager
def cluster(nodes: int, **head: Any) -> Iterator[Any]:
    """A Ray cluster on this machine: a head that runs no cell, and nodes of one core."""
    from ray.cluster_utils import Cluster

    settings = {"object_store_memory": 80 * MIB, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **settings, **head})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, object_store_memory=80 * MIB)
        yield made
    finally:
        made.shutdown()


class Driver:
    """`harness run --executor ray` in a process of its own."""

    def __init__(self, small: Experiment, out: Path, address: str, *options: str) -> None:
        given = [f"address={address}", "gpus=0", "cpus=1", *options]
        asked = [part for option in given for part in ("--executor-option", option)]
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.said = out, out.with_name(f"{out.name}.said")
        with self.said.open("ab") as said:
            command = [sys.executable, "-m", "harness.cli", "run", str(small.file)]
            self.process = subprocess.Popen(
                [*command, "--out", str(out), "--executor", "ray", *asked],
                cwd=small.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def ended(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(900)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def worker(self) -> psutil.Process:
        """Wait until a worker of another cell than the base has run for some seconds."""
        until = time.monotonic() + 600
        while time.monotonic() < until:
            assert self.process.poll() is None, self.said.read_text()
            for worker in workers():
                with suppress(psutil.Error, OSError, IndexError):  # it has ended meanwhile
                    job = json.loads(Path(command_of(worker).split()[-1]).read_text())
                    old_enough = time.time() - worker.create_time() > 1
                    if job["cell"]["label"] != "base" and old_enough:
                        return worker
            time.sleep(0.1)
        raise TimeoutError(self.said.read_text())


def workers() -> list[psutil.Process]:
    """Workers that are descendants of a Ray actor of this machine."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if is_worker(process) and any(p.name().startswith("ray::") for p in process.parents()):
                found.append(process)
    return found


def gone(processes: list[psutil.Process], seconds: float = 15) -> bool:
    """Whether all of them end in time."""
    _, alive = psutil.wait_procs(processes, seconds)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def assert_whole(out: Path, reference: Experiment) -> None:
    """The same figures from the same answers, and nothing left behind."""
    assert_equal(out, reference.out)
    assert_clean(out)


def warnings(out: Path) -> list[str]:
    records = [json.loads(file.read_text()) for file in (out / "cells").glob("*.json")]
    return [line for record in records for line in record["warnings"]]


def test_cells_of_a_killed_node_run_again_elsewhere(
    reference: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:  # a socket's path is a short one
        monkeypatch.setenv("TMPDIR", scratch)  # of the nodes' processes
        kill_a_node(reference, out)
        left = list(Path(scratch).glob("harness-ray-*"))
    assert left == []  # what the lost cell left was found by a later one, and removed
    assert_whole(out, reference)
    assert [line for line in warnings(out) if "was lost" in line and "(1 of 3 times)" in line]


def kill_a_node(reference: Experiment, out: Path) -> None:
    """Run on two nodes, of which one is killed while it trains."""
    with cluster(2) as made:
        driver = Driver(reference, out, made.address)
        worker = driver.worker()
        above = {process.pid for process in worker.parents()}
        (node,) = (
            node
            for node in made.worker_nodes
            if node.all_processes["raylet"][0].process.pid in above
        )
        made.remove_node(node, allow_graceful=False)
        assert gone([worker])
        assert driver.ended() == 0, driver.said.read_text()
        assert workers() == []


@pytest.mark.parametrize("store", ["auto", "ray"])
def test_a_killed_driver_picks_up_where_it_was(
    reference: Experiment, tmp_path: Path, store: str
) -> None:
    out = tmp_path / "out"
    with cluster(2) as made:
        driver = Driver(reference, out, made.address, f"store={store}")
        driver.worker()
        running = workers()
        recorded = {f.name: f.stat().st_mtime_ns for f in (out / "cells").glob("*.json")}
        driver.process.kill()
        assert gone(running)
        again = Driver(reference, out, made.address, f"store={store}")
        assert again.ended() == 0, again.said.read_text()
        assert workers() == []
    now = {f.name: f.stat().st_mtime_ns for f in (out / "cells").glob("*.json")}
    assert recorded.items() <= now.items()
    assert_whole(out, reference)


@pytest.mark.parametrize("store", ["auto", "ray"])
def test_ctrl_c_ends_workers_at_a_safe_point(
    reference: Experiment, tmp_path: Path, store: str
) -> None:
    out = tmp_path / "out"
    with cluster(1) as made:
        driver = Driver(reference, out, made.address, f"store={store}")
        driver.worker()
        running = workers()
        driver.process.send_signal(signal.SIGINT)
        assert driver.ended() == 130, driver.said.read_text()
        assert gone(running)
        assert "Interrupted: " in driver.said.read_text()
        again = Driver(reference, out, made.address, f"store={store}")
        assert again.ended() == 0, again.said.read_text()
    assert_whole(out, reference)


def heavy(reference: Experiment, out: Path, mib: int) -> None:
    """Leave what a cell of this folder carries with it: a file of random bytes."""
    (cell,) = (f.stem for f in (reference.out / "cells").glob("lora*.json"))
    file = out / "artifacts" / cell / "large.bin"
    file.parent.mkdir(parents=True)
    with file.open("wb") as sink:
        for _ in range(mib):
            sink.write(os.urandom(MIB))


def test_more_than_the_object_store_holds_is_spilled(reference: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    heavy(reference, out, 300)
    with cluster(1) as made:
        driver = Driver(reference, out, made.address, "store=ray")
        assert driver.ended() == 0, driver.said.read_text()
    assert not list(out.glob("artifacts/*/large.bin"))  # of no training, so it is not kept
    assert_whole(out, reference)


def test_a_full_object_store_is_one_line_in_the_record(
    reference: Experiment, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    heavy(reference, out, 300)
    with cluster(1, _system_config={"local_fs_capacity_threshold": 0.0}) as made:
        driver = Driver(reference, out, made.address, "store=ray")
        assert driver.ended() == 5, driver.said.read_text()
        records = [json.loads(file.read_text()) for file in (out / "cells").glob("*.json")]
        (failed,) = (record for record in records if record["status"] != "ok")
        assert failed["plan"]["label"] == "lora"
        assert failed["error"]["message"].startswith("Ray's object store of node ")
        assert "--object-store-memory" in failed["error"]["message"]
        assert "\n" not in failed["error"]["message"]
        # where the files go through a folder instead, the same cluster runs it
        again = Driver(reference, out, made.address, f"store=file://{tmp_path}/seen")
        assert again.ended() == 0, again.said.read_text()
    assert list((tmp_path / "seen").iterdir()) == []
    assert_whole(out, reference)
