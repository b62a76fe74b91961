"""A cell's training side by side with TRL's SFTTrainer, and what a worker's start costs.

    python benchmarks/training.py [--parts same,support,dolly,start] [--mirror DIR] [--to FILE]

Each side trains in a process of its own, in turn, `--rounds` times; medians count. Both sides get
the same rows as the same tokens in the same order, learning rate and schedule, so their losses must
agree. `same`: a bare TRL script with a cell's settings. `support`, `dolly`: this project's defaults
and `micro_batch: auto` against TRL's defaults (gradient checkpointing, bf16) and those in float32,
which tells how much of the difference is bf16 on a CPU without it (--sides leaves some out).
`start`: imports and loading as a share of the quickstart. DIR is laid out as the Hub:
databricks/databricks-dolly-15k. About 40 minutes on two cores; --steps shortens it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from harness.data.rows import load_rows, training_order
from harness.data.sources import resolve
from harness.data.tokenization import encode_row
from harness.models.packaged import resolve_model
from harness.results import store
from harness.system.environment import environment
from harness.system.hardware import default_precision, facts
from harness.system.measure import Meter, StepClock
from harness.types import Artifact, Budget, Job, Row

PARTS = ("same", "support", "dolly", "start")
ROOT = Path(__file__).parent.parent
LR = 5e-5
SIDES = {
    "same": ("harness", "trl"),
    "support": ("harness", "harness_auto", "trl_defaults", "trl_defaults_float32"),
    "dolly": ("harness", "harness_auto", "trl_defaults", "trl_defaults_float32"),
}


def training_rows(part: str, count: int, mirror: Path | None) -> list[Row]:
    """The first rows of a seed's order."""
    if part == "dolly":
        name = "databricks/databricks-dolly-15k"
        source = resolve(name, base=ROOT, bundled={}, mirror=mirror)
        rows = load_rows(source, columns={"input": "context", "output": "response"})
    else:
        rows = load_rows(ROOT / "harness/bundled/support-train.jsonl")
    return [rows[i] for i in training_order(len(rows), count, seed=0)]


# one side, in a process of its own


def run_side(side: str, part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, and tell seconds, memory and losses."""
    steps, batch = arguments.steps, arguments.batch
    rows = training_rows(part, steps * batch, arguments.mirror)
    model = resolve_model(arguments.model, mirror=None)
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            model=model,
            options=None,
            budget=Budget(
                steps=steps,
                batch=batch,
                max_length=arguments.max_length,
                precision=default_precision(facts()),
                micro_batch="auto" if side == "harness_auto" else None,
            ),
            seed=0,
            train=rows,
            validation=[],
            folder=Path(folder),
            chat_template=None,
            loss="assistant",
            phase=meter.phase,
            report=lambda **event: None,
        )
        told = _harness(job) if side.startswith("harness") else _trl(job, side)
    train = meter.phases["train"]
    peak = train["peak_allocated_bytes"] or train["peak_host_bytes"]
    return {**told, "peak_bytes": peak, "train_seconds": train["seconds"]}


def _harness(job: Job) -> dict[str, Any]:
    """The recipe of a cell, every weight trained."""
    from harness.training.sft import train_sft

    train_sft(job, lr=LR)
    notes = job.notes
    return {
        "micro_batch": notes["micro_batch"],
        "seconds_per_step": notes["seconds_per_step"],
        "tokens_per_second": notes["tokens_per_second"],
        "losses": [point["loss"] for point in notes["loss_curve"]],
    }


def _trl(job: Job, side: str) -> dict[str, Any]:
    """What a user of TRL writes; the clock is the only thing of ours."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from harness.models.language_model import load_tokenizer, load_weights

    base, budget, clock = Artifact("base", job.model), job.budget, StepClock()
    with job.phase("load"):
        model, tokenizer = load_weights(base), load_tokenizer(base)
    encoded = [encode_row(tokenizer, row, max_length=budget.max_length) for row in job.train]
    rows = {
        "input_ids": [e.input_ids for e in encoded],
        "labels": [e.labels for e in encoded],
    }
    settings: dict[str, Any] = {}
    if side == "trl":
        settings = {"gradient_checkpointing": False, "bf16": budget.precision == "bf16"}
        settings["optim"] = "adamw_torch"
    elif side == "trl_defaults_float32":
        settings = {"bf16": False}
    config = SFTConfig(
        output_dir=str(job.folder),
        max_steps=budget.steps,
        per_device_train_batch_size=budget.batch,
        learning_rate=LR,
        lr_scheduler_type="cosine",
        warmup_steps=int(0.05 * budget.steps),
        train_sampling_strategy="sequential",
        max_length=None,
        # tokens, labels and cuts are ours on both sides: TRL would drop rows cut before the answer
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=facts().device == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.end()

    data = Dataset.from_dict(rows)
    trainer = SFTTrainer(
        model, config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]
    )
    with job.phase("train"):
        trainer.train()
    later = clock.seconds[1:]
    tokens = sum(len(e.input_ids) for e in encoded[budget.batch :])
    return {
        "micro_batch": budget.batch,
        "seconds_per_step": sum(later) / len(later),
        "tokens_per_second": tokens / sum(later),
        "losses": [point["loss"] for point in trainer.state.log_history if "loss" in point],
    }


# the sides in turn


def contest(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides of a part, in turn; medians, and ratios to the first side."""
    sides = [side for side in SIDES[part] if side in (arguments.sides or SIDES[part])]
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side in sides:
            rounds[side].append(_child(side, part, arguments))
    told: dict[str, Any] = {"rounds": rounds}
    reference = rounds[sides[0]][0]["losses"]
    for side, runs in rounds.items():
        keys = ("seconds_per_step", "tokens_per_second", "peak_bytes")
        told[side] = {key: median(run[key] for run in runs) for key in keys}
        told[side]["micro_batch"] = runs[0]["micro_batch"]
        pairs = zip(runs[0]["losses"], reference, strict=True)
        told[side]["largest_loss_difference"] = max(abs(a - b) for a, b in pairs)
    ours = told[sides[0]]
    for side in sides:
        other = told[side]
        other["step_ratio"] = ours["seconds_per_step"] / other["seconds_per_step"]
        other["speed_ratio"] = ours["tokens_per_second"] / other["tokens_per_second"]
        other["peak_ratio"] = ours["peak_bytes"] / other["peak_bytes"]
        print(
            f"{part}, {side} (micro-batch {other['micro_batch']}): "
            f"{other['seconds_per_step']:.2f} s a step, "
            f"{other['tokens_per_second']:.0f} useful tokens a second, "
            f"peak {other['peak_bytes'] / 2**20:.0f} MiB; {sides[0]}'s defaults: "
            f"{other['step_ratio']:.3f} times the seconds, {other['speed_ratio']:.2f} times the "
            f"tokens a second, {other['peak_ratio']:.3f} times the peak; losses differ by "
            f"{other['largest_loss_difference']:.1e} at most",
            flush=True,
        )
    return told


def _child(side: str, part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    keys = ("model", "steps", "batch", "max_length", "mirror")
    given = [(f"--{key.replace('_', '-')}", getattr(arguments, key)) for key in keys]
    options = [str(text) for pair in given if pair[1] is not None for text in pair]
    command = [sys.executable, __file__, "--parts", part, "--side", side, *options]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def start(mirror: Path | None) -> dict[str, Any]:
    """Seconds of the quickstart from a worker's start to its first phase, and of loading."""
    from harness.config.experiment import load_experiment
    from harness.manager import plugins
    from harness.planning.plan import Settings, make_plan
    from harness.runner.run import run_plan

    waits: dict[str, list[float]] = {}

    def observe(cell: Any, event: Any) -> None:
        if event["event"] in ("started", "phase") and len(waits.setdefault(cell.id, [])) < 2:
            waits[cell.id].append(time.perf_counter())

    experiment = load_experiment(ROOT / "harness/bundled/quickstart.yaml")
    plan = make_plan(experiment, plugins(), Settings(mirror=mirror))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        out = Path(folder)
        outcome = run_plan(plan, out, plugins().executors.get("local"), observe)
        wall = time.perf_counter() - begun
        assert not outcome.failed, outcome.failed
        records = [store.read_record(out / "cells" / f"{id}.json") for id in outcome.ran]
    imports = sum(later - first for first, later in waits.values())
    loading = _seconds(records, ("load", "reload"))
    told = {"wall_seconds": wall, "import_seconds": imports, "load_seconds": loading}
    told["share"] = (imports + loading) / wall
    print(
        f"start: quickstart {wall:.0f} s, of them imports {imports:.0f} s and loading "
        f"{loading:.0f} s: {told['share']:.1%}",
        flush=True,
    )
    return told


def _seconds(records: Sequence[Any], names: Sequence[str]) -> float:
    sections = [one[part] or {} for one in records for part in ("training", "evaluation")]
    phases = [section.get("phases") or {} for section in sections]
    return float(sum(found[name]["seconds"] for found in phases for name in names if name in found))


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--mirror", type=Path, help="needed for dolly and start")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sides",
        type=lambda text: text.split(","),
        help="only these, such as harness,trl_defaults_float32: bf16 takes minutes a step on a CPU "
        "that has none",
    )
    parser.add_argument("--to", type=Path, help="a JSON file")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"unknown part {unknown.pop()}: one of {', '.join(PARTS)}")
    if "dolly" in parts and arguments.mirror is None:
        raise SystemExit("--mirror DIR is needed for dolly")
    if arguments.side:
        print(json.dumps(run_side(arguments.side, parts[0], arguments)))
        return
    told: dict[str, Any] = {
        "model": arguments.model,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "max_length": arguments.max_length,
        "environment": environment(),
    }
    if arguments.to and arguments.to.is_file():  # parts of an earlier call on this machine
        earlier = json.loads(arguments.to.read_text(encoding="utf-8"))
        if all(earlier.get(key) == value for key, value in told.items()):
            told = earlier
    for part in parts:
        told[part] = start(arguments.mirror) if part == "start" else contest(part, arguments)
        if arguments.to:
            store.write_json(arguments.to, told)


if __name__ == "__main__":
    main()
