"""A training that goes on from a checkpoint is the one that was never interrupted, to the bit."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil

import pytest

from harness.manager import plugins
from harness.system.measure import Meter
from harness.system.workers import stopping
from harness.training.checkpoints import Progress, StoredCheckpoints
from tests.training.test_sft import ROWS, job

STEPS = 5


class Run:
    """A training in this process, as the worker would run it, in a results folder."""

    def __init__(self, out, model, method, budget, options):
        self.method = plugins().methods.get(method)
        self.notes, self.warnings, self.meter = {}, [], Meter()
        progress = Progress(
            self.meter, self.notes, self.warnings, self.meter.phase, self.warnings.append
        )
        whole = {"steps": STEPS, "batch": 4, "micro_batch": 2, **budget}
        folder = out / "artifact"
        shutil.rmtree(folder, ignore_errors=True)
        self.job = dataclasses.replace(
            job(folder, model, **whole),
            train=(ROWS * STEPS)[: 4 * STEPS],
            options=self.method.Options(**options),
            checkpoints=StoredCheckpoints(out, "a" * 64, progress, minutes=None),
            phase=self.meter.phase,
            notes=self.notes,
            warn=self.warnings.append,
            report=self.report,
        )
        self.until = None

    def report(self, **event):
        if self.until and event.get("step") == self.until:
            stopping._requested.set()

    def train(self, until=None):
        """Train, told to stop after the step `until` where one is given; the files' hashes."""
        self.until = until
        try:
            self.method.train(self.job)
        finally:
            stopping._requested.clear()
        files = sorted(self.job.folder.rglob("*.safetensors"))
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.fixture
def run(tmp_path, tiny_model):
    def make(method, where="whole", *, budget=None, **options):
        return Run(tmp_path / where, tiny_model, method, budget or {}, options)

    return make


def interrupted(run, *arguments, at, **keywords):
    """The last of several trainings of one folder, each told to stop at a step, and its hashes."""
    for step in at:
        with pytest.raises(stopping.Stopped):
            run(*arguments, "parts", **keywords).train(until=step)
    last = run(*arguments, "parts", **keywords)
    return last, last.train()


WAYS = {
    "full": ("full", {}),
    "bf16": ("full", {"weights": "bf16", "budget": {"precision": "bf16"}}),
    "lora": ("lora", {"dropout": 0.3, "r": 4}),
    "pissa": ("pissa", {"r": 4}),
    "qlora": ("qlora", {"r": 4, "dropout": 0.3}),
    "best": ("lora", {"r": 4, "lr": 0.3, "validate_every": 1, "keep_best": True}),
}


REST = {
    "packed": ("full", {"packing": True}),
    "8 bits": ("full", {"optimizer": "paged_adamw_8bit"}),  # a CPU does not page it
    "dora": ("dora", {"r": 4, "dropout": 0.3}),
    "ia3": ("ia3", {}),
    "loftq": ("loftq", {"r": 4}),
    "prompt": ("prompt", {}),
    "prefix": ("prefix", {}),
    "vera": ("peft", {"config": "VeraConfig", "fields": {"r": 8, "target_modules": ["q_proj"]}}),
    "int8": ("qlora", {"r": 4, "quant_type": "int8"}),
    "recomputed": ("lora", {"r": 4, "dropout": 0.3, "gradient_checkpointing": True}),
    "packed, passes": ("lora", {"r": 4, "dropout": 0.3, "packing": True}),
    "all in bf16, 8 bits": (
        "full",
        {"weights": "bf16", "optimizer": "adamw_8bit", "budget": {"precision": "bf16"}},
    ),
}


@pytest.mark.parametrize(
    "way", [*WAYS, *(pytest.param(way, marks=pytest.mark.long) for way in REST)]
)
def test_a_training_in_parts_is_the_whole_one_to_the_bit(run, way):
    method, options = (WAYS | REST)[way]
    whole = run(method, **options)
    expected = whole.train()
    stops = (2, 4) if way == "lora" else (3,)
    parts, found = interrupted(run, method, at=stops, **options)
    assert parts.notes["loss_curve"] == whole.notes["loss_curve"]
    assert len(expected) >= 1
    assert found == expected
    assert parts.notes.pop("resumed")["from_steps"] == list(stops)
    timed = {"tokens_per_second", "seconds_per_step"}
    assert {k: v for k, v in parts.notes.items() if k not in timed} == {
        k: v for k, v in whole.notes.items() if k not in timed
    }
    assert parts.warnings == whole.warnings


def test_the_scale_of_the_loss_in_fp16_goes_on_too(run):
    import torch

    from harness.training.sft import train_sft

    def scaled(trainer):  # accelerate makes no scaler for a CPU
        trainer.accelerator.native_amp = True
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)

    class Fp16:
        def train(self, job):
            return train_sft(job, lr=1e-3, warmup=0.0, started=scaled)

    def make(*arguments, **options):
        one = run(*arguments, budget={"precision": "fp16"}, **options)
        one.method = Fp16()
        return one

    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        whole = make("full")
        expected = whole.train()
        parts, found = interrupted(make, "full", at=(2,))
    finally:
        torch.set_autocast_dtype("cpu", before)
    assert parts.notes["loss_curve"] == whole.notes["loss_curve"]
    assert found == expected
    assert 2 <= parts.notes["skipped_steps"] == whole.notes["skipped_steps"] < STEPS
    assert parts.notes["loss_scale"] == whole.notes["loss_scale"] < 2.0**20


def test_the_best_weights_of_an_earlier_process_are_kept(run, monkeypatch):
    from harness.training import sft

    made = sft.arguments

    def highest_loss(*given):  # this loss only falls, so that the first weights count as the best
        arguments = made(*given)
        arguments.greater_is_better = True
        return arguments

    monkeypatch.setattr(sft, "arguments", highest_loss)
    method, options = WAYS["best"]
    whole = run(method, **options)
    expected = whole.train()
    assert whole.notes["best_checkpoint"] < 3
    parts, found = interrupted(run, method, at=(3,), **options)
    assert parts.notes["best_checkpoint"] == whole.notes["best_checkpoint"]
    assert found == expected


def test_one_that_forgets_the_random_state_has_another_curve(run, monkeypatch):
    """With dropout: so the test above would see it."""
    from trl import SFTTrainer

    method, options = WAYS["lora"]
    whole = run(method, **options)
    whole.train()
    monkeypatch.setattr(SFTTrainer, "_load_rng_state", lambda trainer, folder: None)
    parts, _ = interrupted(run, method, at=(2,), **options)
    assert parts.notes["loss_curve"][:2] == whole.notes["loss_curve"][:2]
    assert parts.notes["loss_curve"] != whole.notes["loss_curve"]
