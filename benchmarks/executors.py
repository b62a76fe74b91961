"""What Ray costs and what it gives: the same cells on `local` and on `ray`, on one node and on two.

    python benchmarks/executors.py [--times 1] [--steps 32]

Prints seconds on the wall, those that processes computed (sampled twice a second), and ratios of
one run. Asked: a local Ray takes at most 1.1 times what the local executor takes on the quickstart,
and two nodes of one core are at least 1.6 times faster than one. The machine must be quiet, and
have two cores for the latter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TOKEN = "HARNESS_BENCHMARK_RUN"


@dataclass(frozen=True)
class Taken:
    wall: float
    computed: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s, {self.computed:.1f} s computed"


def processor_seconds(token: str, known: dict[int, float]) -> None:
    """Note how long each process of a run has computed so far."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(TOKEN) == token:
                times = process.cpu_times()
                known[process.pid] = times.user + times.system


def harness(*arguments: str, name: str, out: Path, env: dict[str, str] | None = None) -> Taken:
    token, known = uuid.uuid4().hex, dict[int, float]()
    began = time.monotonic()
    with (out.parent / f"{out.name}.said").open("wb") as said:
        run = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", "run", *arguments, "--out", str(out)],
            env={**os.environ, **(env or {}), TOKEN: token},
            stdout=said,
            stderr=said,
        )
        while run.poll() is None:
            processor_seconds(token, known)
            time.sleep(0.5)
    taken = Taken(time.monotonic() - began, sum(known.values()))
    if run.returncode:
        raise SystemExit((out.parent / f"{out.name}.said").read_text())
    print(f"{name}: {taken}", flush=True)
    return taken


def figures(out: Path) -> dict[str, Any]:
    board = json.loads((out / "leaderboard.json").read_text())
    return {row["label"]: row["metrics"] for row in board["rows"]}


def against_local(folder: Path, times: int, asked: Sequence[str]) -> None:
    """The quickstart on each executor, in turns."""
    for number in range(times):
        here, there = folder / f"local-{number}", folder / f"ray-{number}"
        local = harness(*asked, name="local executor", out=here)
        ray = harness(*asked, "--executor", "ray", name="local Ray", out=there)
        same = figures(here) == figures(there)
        print(f"  Ray takes {ray.wall / local.wall:.3f} times (figures equal: {same})", flush=True)


def nodes(folder: Path, times: int, asked: Sequence[str]) -> None:
    """The same cells on one node of one core and on two."""
    from ray.cluster_utils import Cluster

    taken: dict[int, list[float]] = {1: [], 2: []}
    for number in range(times):
        for count in taken:
            settings = {"num_cpus": 0, "include_dashboard": False}
            cluster = Cluster(initialize_head=True, head_node_args=settings)
            try:
                for _ in range(count):
                    cluster.add_node(num_cpus=1)
                at = f"address={cluster.address}"
                on = ("--executor", "ray", "--executor-option", at, "--executor-option", "cpus=1")
                out = folder / f"nodes-{count}-{number}"
                ran = harness(*asked, *on, name=f"{count} node(s) of one core", out=out)
                taken[count].append(ran.wall)
            finally:
                cluster.shutdown()
        print(f"  two are {taken[1][-1] / taken[2][-1]:.2f} times faster", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--steps", type=int, default=32, help="of a training; the quickstart's 32")
    parser.add_argument("--only", choices=["local", "nodes"])
    chosen = parser.parse_args()
    steps = ["--set", f"budget.steps={chosen.steps}"]
    with tempfile.TemporaryDirectory() as name:
        if chosen.only != "nodes":
            against_local(Path(name), chosen.times, ["quickstart", *steps])
        if chosen.only != "local":
            os.environ["OMP_NUM_THREADS"] = "1"
            one = ["--methods", "lora", "--set", "seeds=[0,1,2,3,4,5]"]
            brief = ["--set", "suites=[{name: perplexity, limit: 4}]"]
            nodes(Path(name), chosen.times, ["quickstart", *steps, *one, *brief])


if __name__ == "__main__":
    main()
