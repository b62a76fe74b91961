"""bf16 weights whose rounding is kept: float32's updates to the last bit, and its loss curves."""

import math
import shutil

import pytest

from harness.errors import UserError
from harness.manager import plugins
from harness.training import bf16_weights, sft
from harness.training.bf16_weights import join, keeping_rests, split
from tests.training.test_sft import job


def test_a_float32_number_is_a_bf16_number_and_the_rest_of_its_bits():
    import torch

    torch.manual_seed(0)
    numbers = torch.randn(10_000) * torch.logspace(-44, 37, 10_000)
    numbers[:4] = torch.tensor([0.0, -0.0, 1e-45, 1.0])
    halves = ((torch.arange(1, 2**14).int() << 16) + 2**15).view(torch.float32)
    for exact in (numbers, halves, -halves):
        rounded, rest = split(exact)
        assert torch.equal(join(rounded, rest).view(torch.int32), exact.view(torch.int32))
        assert (rounded.dtype, rest.dtype) == (torch.bfloat16, torch.int16)
        # the nearest: as torch rounds, but for ties
        off = (rounded.double() - exact.double()).abs()
        assert (off <= (exact.bfloat16().double() - exact.double()).abs()).all()


@pytest.mark.parametrize("part", [2**26, 100])
@pytest.mark.parametrize("name", ["adamw", "fused", "8bit"])
def test_a_step_is_that_of_float32_weights_to_the_last_bit(monkeypatch, name, part):
    import bitsandbytes
    import torch

    monkeypatch.setattr(bf16_weights, "PART", part)
    kind = bitsandbytes.optim.AdamW if name == "8bit" else torch.optim.AdamW
    keywords = {"8bit": {"optim_bits": 8}, "fused": {"fused": True}, "adamw": {}}[name]
    torch.manual_seed(0)
    whole = [torch.nn.Parameter(torch.randn(n, 72).bfloat16().float()) for n in (1, 64, 3)]
    mine = [torch.nn.Parameter(weight.data.bfloat16()) for weight in whole]
    unused = torch.nn.Parameter(torch.ones(2).bfloat16())
    first = [weight.data.clone() for weight in mine]
    expected = kind(whole, lr=1e-4, weight_decay=0.1, **keywords)
    kept = keeping_rests(kind)([*mine, unused], lr=1e-4, weight_decay=0.1, **keywords)
    for _ in range(20):
        for exact, rounded in zip(whole, mine, strict=True):
            gradient = torch.randn_like(rounded)
            exact.grad, rounded.grad = gradient.float(), gradient
        expected.step()
        kept.step()
    for exact, rounded, before in zip(whole, mine, first, strict=True):
        assert torch.equal(join(rounded.data, kept._rests[rounded]), exact.data)
        assert rounded.dtype == rounded.grad.dtype == torch.bfloat16
        assert not torch.equal(rounded.data, before)
    assert torch.equal(unused, torch.ones(2).bfloat16())


def trained(folder, model, **options):
    """The losses of a full fine-tuning of 24 steps in bf16, and the weights that it began with."""
    work = job(folder, model, steps=24, batch=4, precision="bf16")
    work = type(work)(**{**vars(work), "train": list(work.train) * 12})
    sft.train_sft(work, lr=LR, warmup=0.0, schedule="constant_with_warmup", **options)
    return [point["loss"] for point in work.notes["loss_curve"]]


LR = 1e-4
"""A weight of 0.2 has neighbours in bf16 that are 0.001 away: five such updates in one way."""


@pytest.fixture
def stored_in_bf16(tiny_model, tmp_path):
    """The tiny model as models are published: every weight is a bf16 number."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "stored"
    shutil.copytree(tiny_model, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def test_small_updates_that_bf16_alone_loses_are_kept(stored_in_bf16, tmp_path, monkeypatch):
    whole = trained(tmp_path / "float32", stored_in_bf16)
    kept = trained(tmp_path / "kept", stored_in_bf16, weights="bf16")
    monkeypatch.setattr(bf16_weights, "keeping_rests", lambda kind: kind)
    plain = trained(tmp_path / "plain", stored_in_bf16, weights="bf16")
    fall = [curve[0] - math.fsum(curve[-4:]) / 4 for curve in (whole, kept, plain)]
    assert fall[0] > 0.02
    assert fall[1] == pytest.approx(fall[0], rel=0.15)
    assert fall[2] < 0.6 * fall[0]
    assert max(abs(a - b) for a, b in zip(kept, whole, strict=True)) < 0.1 * fall[0]


def test_weights_in_bf16_are_trained_saved_and_opened(tiny_model, tmp_path):
    import torch

    from harness.models.language_model import open_artifact

    work = job(tmp_path, tiny_model, precision="bf16")
    options = plugins().methods.get("full").Options(lr=1e-3, weights="bf16", optimizer="adamw_8bit")
    artifact = plugins().methods.get("full").train(type(work)(**{**vars(work), "options": options}))
    assert work.notes["loss_curve"][-1]["loss"] < work.notes["loss_curve"][0]["loss"]
    opened = open_artifact(artifact)
    assert {p.dtype for p in opened.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_weights_in_bf16_need_that_precision(precision):
    options = plugins().methods.get("full").Options(weights="bf16")
    with pytest.raises(UserError, match=f"needs budget.precision: bf16, which is {precision}"):
        options.check(precision)
    options.check("bf16")


def test_the_option_is_no_part_of_an_id_until_it_is_used():
    full = plugins().methods.get("full").Options
    assert "weights" not in full().model_dump(mode="json")
    written = full(weights="bf16").model_dump(mode="json")
    assert full.model_validate(written).weights == "bf16"
