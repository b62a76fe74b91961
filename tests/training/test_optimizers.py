"""The recipe's optimizers: which is the default where, and that the 8-bit ones train for real."""

import pytest

from harness.errors import EnvironmentLack, UserError
from harness.training import sft, sft_options
from tests.training.test_sft import job


@pytest.mark.parametrize(
    ("gpu", "optimizer"), [(True, "adamw_torch_fused"), (False, "adamw_torch")]
)
def test_adamw_is_fused_where_there_is_a_gpu(monkeypatch, gpu, optimizer):
    monkeypatch.setattr(sft_options, "has_gpu", lambda: gpu)
    assert sft_options.SftOptions().optimizer == optimizer
    assert sft_options.SftOptions(optimizer="adamw_torch").optimizer == "adamw_torch"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_eight_bit_adamw_trains_on_a_cpu_as_adamw_does(tiny_model, tmp_path, method):
    from harness.training.low_rank import LowRankOptions

    losses = {}
    for optimizer in ("adamw_torch", "adamw_8bit"):
        work = job(tmp_path / optimizer, tiny_model)
        peft = LowRankOptions(r=8).lora_config() if method == "lora" else None
        sft.train_sft(work, lr=2e-3, peft=peft, optimizer=optimizer, warmup=0.0)
        losses[optimizer] = [point["loss"] for point in work.notes["loss_curve"]]
    plain, small = losses.values()
    assert plain[-1] < plain[0] - 0.1
    assert small == pytest.approx(plain, rel=0.03)


def test_an_optimizer_that_cannot_run_here_is_refused(monkeypatch):
    monkeypatch.setattr(sft_options, "has_gpu", lambda: False)
    with pytest.raises(UserError, match="paged_adamw_8bit needs a CUDA GPU: use adamw_8bit here"):
        sft_options.SftOptions(optimizer="paged_adamw_8bit").check("float32")
    sft_options.SftOptions(optimizer="adamw_8bit").check("float32")
    monkeypatch.setattr(sft_options, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentLack, match="adamw_8bit needs bitsandbytes: pip install"):
        sft_options.SftOptions(optimizer="adamw_8bit").check("float32")
