"""fp16's loss scaling, by torch's own scaler on the CPU: what it skips, and that it is recorded."""

import pytest

from harness.training import sft
from tests.training.test_sft import job


@pytest.fixture
def trained(tiny_model, tmp_path):
    """`trained(scale)`: train in fp16 on the CPU from this loss scale; the job and the weights."""
    import torch
    from safetensors.torch import load_file

    def train(scale, name, steps=4, **budget):
        work = job(tmp_path / name, tiny_model, precision="fp16", steps=steps, **budget)

        def scaled(trainer):
            # accelerate makes no scaler for a CPU, which needs none
            trainer.accelerator.native_amp = True
            trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

        torch.set_autocast_dtype("cpu", torch.float16)
        sft.train_sft(work, lr=1e-3, warmup=0.0, schedule="linear", started=scaled)
        return work, load_file(tmp_path / name / "model.safetensors")

    before = torch.get_autocast_dtype("cpu")
    yield train
    torch.set_autocast_dtype("cpu", before)


def test_overflowing_steps_are_skipped_halve_the_scale_and_are_recorded(trained):
    """Gradients times 2^22 are beyond fp16's 65,504, and some halvings later they are not."""
    work, _ = trained(2.0**22, "high", steps=12)
    notes = work.training
    skipped = notes["skipped_steps"]
    assert 1 <= skipped < 12
    assert notes["loss_scale"] == 2.0 ** (22 - skipped)
    curve = notes["loss_curve"]
    assert len(curve) == 12  # a skipped step has its loss, and none is taken for a divergence
    stepped = ["grad_norm" in point for point in curve]
    assert stepped.count(False) == skipped
    # the schedule waits for a step
    rates = [point["learning_rate"] for point in curve]
    expected = [1e-3 * (1 - sum(stepped[:at]) / 12) for at in range(12)]
    assert rates == pytest.approx(expected)


def test_a_scale_that_does_not_overflow_changes_no_step(trained):
    import torch

    one, weights = trained(1.0, "one")
    high, _ = trained(2.0**10, "high")
    assert one.training["skipped_steps"] == high.training["skipped_steps"] == 0
    losses = [[p["loss"] for p in work.training["loss_curve"]] for work in (one, high)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < losses[0][0]
    assert {weight.dtype for weight in weights.values()} == {torch.float16}


def test_a_training_that_lost_many_steps_says_so(trained, tiny_model, tmp_path):
    warnings = []
    work = job(tmp_path, tiny_model, precision="fp16")
    work = type(work)(**{**vars(work), "warn": warnings.append, "notes": {"skipped_steps": 2}})
    from harness.training.loss_scaling import warn_of_skipped

    warn_of_skipped(work)
    (line,) = warnings
    assert line.startswith("precision fp16: 2 of 4 steps changed nothing")
    work.notes["skipped_steps"] = 0
    warn_of_skipped(work)
    assert len(warnings) == 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_compiling_does_not_leave_tf32_on(tiny_model, tmp_path, monkeypatch, precision):
    """transformers turns it on for torch.compile, for the whole process, where the card has it."""
    import torch
    from transformers import training_args

    from harness.training.trainer import arguments

    asked = []
    monkeypatch.setattr(training_args, "is_torch_tf32_available", lambda: True)
    monkeypatch.setattr(training_args, "enable_tf32", asked.append)
    arguments(job(tmp_path, tiny_model, compile=True, precision=precision), sft.SftOptions(), 2)
    assert asked[-1] is False
    assert not torch.backends.cuda.matmul.allow_tf32
