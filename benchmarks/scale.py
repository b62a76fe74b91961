"""What commands over many records cost: `leaderboard`, `compare`, and a `run` with nothing to do.

    python benchmarks/scale.py --records 2000 --labels 200

Makes results folders of N and 2N records, copies of a real record whose samples are moved a little,
and prints the CPU seconds of each command on both. Times of N and 2N in the ratio of two are linear
in records. The first leaderboard is computed and kept in a cache of its own, where the next one
finds it; `run` keeps it beside the records, and what follows reads it there. The figures are made
up; nothing of it is a result.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from harness.config import experiment as config
from harness.manager import plugins
from harness.models.tiny import write_tiny_model
from harness.planning.cell import Cell
from harness.planning.plan import Plan, Settings, make_plan
from harness.results import store
from harness.system.child_process import environment

SOURCE = Path(__file__).parent.parent / "results/reference/quickstart"
SUITES = ("perplexity", "similarity")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--only", default="", metavar="TEXT", help="Commands that begin with it.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HARNESS_CACHE"] = str(Path(folder) / "cache")
        model = Path(folder) / "model"
        write_tiny_model(model)
        sizes = (arguments.records, 2 * arguments.records)
        plans = [write_results(Path(folder) / str(n), model, n, arguments.labels) for n in sizes]
        board = ["--format", "json"]
        commands = {
            "leaderboard, first": lambda at: ["leaderboard", str(at / "out"), *board],
            "leaderboard, again": lambda at: ["leaderboard", str(at / "out"), *board],
            "run, first": lambda at: ["run", str(at / "many.yaml"), "--out", str(at / "out")],
            "run": lambda at: ["run", str(at / "many.yaml"), "--out", str(at / "out")],
            "leaderboard": lambda at: ["leaderboard", str(at / "out"), *board],
            "compare": lambda at: ["compare", "label-1", "label-2", "--results", str(at / "out")],
            "compare all": lambda at: ["compare", str(at / "out"), "--json"],
        }
        print(f"CPU seconds; {arguments.labels} labels; {sizes[0]} and {sizes[1]} records; ratio")
        chosen = {name: of for name, of in commands.items() if name.startswith(arguments.only)}
        for name, command in chosen.items():
            few, many = (cpu_seconds(*command(at)) for at in plans)
            print(f"{name:18} {few:6.2f} {many:6.2f} {many / few:5.2f}", flush=True)


def cpu_seconds(*arguments: str) -> float:
    """User and system seconds of a `harness` command and its children."""
    before = _spent()
    command = [sys.executable, "-m", "harness.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
    return _spent() - before


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_results(folder: Path, model: Path, records: int, labels: int) -> Path:
    """An experiment of `records` cells under `labels` labels, beside the base, all recorded."""
    folder.mkdir()
    plan = plan_of(folder, model, labels, records // labels)
    files = {"base": "base-*.json", "lora": "lora-*.json"}
    copied = {
        name: store.read_record(next((SOURCE / "cells").glob(pattern)))
        for name, pattern in files.items()
    }
    rows = {
        name: {suite: store.read_samples(SOURCE, told, suite) for suite in SUITES}
        for name, told in copied.items()
    }
    for cell in plan.cells:
        name = "base" if cell is plan.base else "lora"
        write_cell(folder / "out", cell, plan.base.id, copied[name], rows[name])
    return folder


def plan_of(folder: Path, model: Path, labels: int, seeds: int) -> Plan:
    """The cells of an experiment of `labels` labels with so many seeds each."""
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    methods = [{"name": "lora", "label": f"label-{n}", "lr": (n + 1) / 1e6} for n in range(labels)]
    experiment = {
        "name": "many",
        "model": str(model),
        "data": {"train": "rows.jsonl"},
        "budget": {"steps": 1, "batch": 1, "max_length": 32, "precision": "float32"},
        "methods": methods,
        "seeds": list(range(seeds)),
        "suites": list(SUITES),
    }
    file = folder / "many.yaml"
    file.write_text(yaml.safe_dump(experiment))
    return make_plan(config.load_experiment(file, [], []), plugins(), Settings())


def write_cell(
    out: Path,
    cell: Cell,
    base: str,
    copied: dict[str, Any],
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    """A record of the cell: the copied one's figures, over samples moved by the cell's own noise.

    A row's scores beside its figures (tokens, groups) stay, so that every suite stays one suite.
    """
    noise = random.Random(cell.id)
    suites = {}
    for suite, section in copied["evaluation"]["suites"].items():
        if suite not in rows:
            continue
        moved = [{**row, "scores": _moved(row["scores"], noise)} for row in rows[suite]]
        suites[suite] = {**section, "samples": store.write_samples(out, cell.id, suite, moved)}
    evaluation = {**copied["evaluation"], "suites": suites}
    evaluation["base"] = None if cell.id == base else base
    own = {"id": cell.id, "plan": cell.as_record(), "evaluation": evaluation}
    store.write_record(out, {**copied, **own})


def _moved(scores: dict[str, Any], noise: random.Random) -> dict[str, Any]:
    return {
        name: value * noise.uniform(0.98, 1.02) if name in ("nll", "cosine") else value
        for name, value in scores.items()
    }


if __name__ == "__main__":
    main()
