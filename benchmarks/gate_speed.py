"""What a decision costs: 10,000 draws on MMLU's size, and the whole command on large records.

    python benchmarks/gate_speed.py

Prints seconds beside those of starting Python with numpy alone, in one run. The scores are made up;
nothing of it is a result.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness import stats
from harness.record import new_record
from harness.results import store
from harness.stats.metric_summary import summarise
from harness.system.measure import Meter
from harness.types import Metric

SAMPLES = 15_000
METRICS = {
    "share": Metric("accuracy", True, "share"),
    "mean": Metric("cosine", True),
    "exp_ratio": Metric("perplexity", False, "exp_ratio", "nll", "tokens"),
}


def seconds(name: str, work: object) -> float:
    meter = Meter()
    with meter.phase("work"):
        work()  # type: ignore[operator]
    taken = float(meter.phases["work"]["seconds"])
    print(f"{name}: {taken:.2f} s", flush=True)
    return taken


def write(out: Path, label: str, metric: Metric) -> None:
    rng = np.random.default_rng(len(label))
    hard = np.random.default_rng(0).normal(size=SAMPLES)
    scores = [
        {"accuracy": float(h < 0.5), "cosine": 0.6 - h / 10, "nll": 30 + h, "tokens": 12}
        for h in hard + rng.normal(0, 0.05, SAMPLES)
    ]
    rows = [
        {"id": f"q{i}", "prompt": "A question of some length. " * 12, "reference": "yes"}
        | {"output": "An answer.", "scores": one}
        for i, one in enumerate(scores)
    ]
    section = {
        "hash": "5" * 64,
        "metrics": summarise([metric], rows),
        "samples": store.write_samples(out, label, "quiz", rows),
    }
    plan = {"model": {"name": "m"}, "method": label, "options": {}, "seed": 0, "suites": ["quiz"]}
    evaluation = {"suites": {"quiz": section}, "base": None, "tokenizer_hash": "t"}
    store.write_record(out, new_record(id=label, status="ok", plan=plan, evaluation=evaluation))


def main() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 14_000))
    for kind in ("mean", "share"):
        one, other = ((a < 0.5) * 1.0, (b < 0.5) * 1.0) if kind == "share" else (a, b)
        seconds(
            f"10,000 draws on 14,000 pairs, {kind}",
            lambda kind=kind, one=one, other=other: stats.bootstraps(
                kind, [(one, None), (other, None)], draws=10_000
            ),
        )
    start = seconds("python with numpy", lambda: run("-c", "import numpy"))
    with tempfile.TemporaryDirectory() as folder:
        for kind, metric in METRICS.items():
            out = Path(folder) / kind
            write(out, "new", metric)
            write(out, "old", metric)
            gate = ("-m", "harness.cli", "gate", out / "new", "--baseline", out / "old")
            taken = seconds(f"harness gate, {SAMPLES} samples, {kind}", lambda g=gate: run(*g))
            print(f"  {taken / start:.1f} times python with numpy")


def run(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=False, capture_output=True)


if __name__ == "__main__":
    main()
