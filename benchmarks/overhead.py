"""What the harness itself costs: of a cell, of recorded cells with nothing to do, and of hashes.

    python -m benchmarks.overhead --records 1000 --megabytes 1000

Prints the seconds of a run's parts that are no phase of a cell (process, imports, locks, hashes,
records), the seconds of a run of recorded cells with nothing to do, and those of hashing a model's
folder for the first and for the second time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import scale
from harness.models.tiny import write_tiny_model
from harness.results import store
from harness.system import hub
from harness.system.child_process import environment

CELL = 60.0
"""Seconds of the cell that the parts are held against."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["HARNESS_CACHE"] = str(Path(place) / "cache")
        model = Path(place) / "model"
        write_tiny_model(model)
        cells(Path(place) / "cell", model)
        nothing_to_do(Path(place) / "many", model, given.records)
        hashing(Path(place) / "large", given.megabytes)


def cells(folder: Path, model: Path) -> None:
    """Runs of few and of more cells: what each cell costs beside its phases, and what each run."""
    few, many = (_beside(folder / str(count), model, count) for count in (1, 7))
    each = (many - few) / 6
    print(f"beside the phases, a cell: {each:.2f} s, {each / CELL:.1%} of one of {CELL:.0f} s")
    print(f"a run: {few - 2 * each:.2f} s, whatever its cells are")


def _beside(folder: Path, model: Path, count: int) -> float:
    """Seconds of a run of so many cells and their base that are in no phase of a record."""
    folder.mkdir(parents=True)
    scale.plan_of(folder, model, count, 1)
    seconds = run(folder)
    records = [store.read_record(file) for file in (folder / "out/cells").glob("*.json")]
    phases = sum(map(_seconds, records))
    print(f"a run of {len(records)} cells: {seconds:.1f} s, in phases {phases:.1f} s")
    return seconds - phases


def _seconds(record: Any) -> float:
    parts = [part["phases"] for part in (record["training"], record["evaluation"]) if part]
    return sum(phase["seconds"] or 0 for phases in parts for phase in phases.values())


def nothing_to_do(folder: Path, model: Path, records: int) -> None:
    """The second and third run of recorded cells."""
    at = scale.write_results(folder, model, records, max(1, records // 10))
    first, second, third = (run(at) for _ in range(3))
    print(f"{records} recorded cells: {first:.2f} s, then {second:.2f} s and {third:.2f} s")


def hashing(folder: Path, megabytes: int) -> None:
    """The content hash of a model's folder, twice."""
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(10**6))
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        hub.content_hash(folder)
        times.append(time.perf_counter() - begun)
    print(f"hash of {megabytes} MB: {times[0]:.2f} s, again {times[1]:.4f} s")


def run(folder: Path) -> float:
    """Seconds of `harness run` of an experiment in a folder."""
    command = [sys.executable, "-m", "harness.cli", "run", str(folder / "many.yaml")]
    quiet = subprocess.DEVNULL
    begun = time.perf_counter()
    subprocess.run(
        [*command, "--out", str(folder / "out")],
        check=False,
        stdout=quiet,
        stderr=quiet,
        env={**environment(), "PYTHONDONTWRITEBYTECODE": ""},  # compiled once, as a user's
    )
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
