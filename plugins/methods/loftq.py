"""LoftQ (Li et al. 2023, arXiv 2310.08659): LoRA that starts by mending the quantisation's error.

Of the paper's alternating steps the first: the base is quantised as it is, and the adapter starts
as the best approximation of rank r to what that lost. More steps would quantise other weights than
the base's, and the adapter would fit no 4-bit base but its own. peft's own functions for it run on
CUDA and XPU only and leave the adapter's scale out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import Field

from harness import (
    Artifact,
    Job,
    LowRankOptions,
    Method,
    QuantizedOptions,
    hookimpl,
    load_weights,
    train_sft,
)


class LoftqOptions(LowRankOptions, QuantizedOptions):
    """LoRA's options, and those of the base in 4 bits."""

    alpha: int | None = Field(None, ge=1, le=2**20)
    """Scale of the update, divided by r; None means r."""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """Number format of the base: 4-bit NormalFloat (the paper's) or float."""

    def footprint(self) -> None:
        """Not predicted: the full-precision model is open beside the quantised one."""


class Loftq(Method):
    """QLoRA that begins as what the quantisation lost (Li et al. 2023, arXiv 2310.08659)."""

    name, Options = "loftq", LoftqOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`, for the 4-bit base."""
        options = job.options
        return train_sft(
            job,
            peft=options.lora_config(lora_alpha=options.alpha or options.r),
            quantization=options.quantization(job.budget.precision),
            started=partial(start_from_error, job),
            **options.recipe(),
        )


def start_from_error(job: Job, trainer: Any) -> None:
    """Set each adapter to the rank-r part of (weight - quantised weight), which it then adds.

    The weights come from the model in the plan's precision, opened beside the quantised one.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import Linear4bit

    whole = load_weights(Artifact("base", job.model, precision=job.budget.precision))
    inner = trainer.model.get_base_model()
    for name, layer in inner.named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        stored = layer.get_base_layer().weight
        exact = whole.get_submodule(name).weight.data.float()
        lost = exact - dequantize_4bit(stored.data, stored.quant_state).float().to(exact.device)
        rank, scale = layer.r["default"], layer.scaling["default"]
        u, s, v = torch.svd_lowrank(lost, q=rank, niter=16)
        root = (s / scale).sqrt()
        for side, values in ((layer.lora_A, root[:, None] * v.T), (layer.lora_B, u * root)):
            weight = side["default"].weight
            weight.data.copy_(values.contiguous())


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `loftq`."""
    register(Loftq())
