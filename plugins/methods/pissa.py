"""PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA that starts from the principal components."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from harness import Artifact, Job, LowRankOptions, Method, hookimpl, train_sft, usual


class PissaOptions(LowRankOptions):
    """LoRA's options; the update starts large, so learning rates are lower."""

    lr: float = Field(5e-5, gt=0, le=1, json_schema_extra=usual(5e-6, 2.5e-3, log=True))
    """Peak learning rate; the paper's is 2e-5."""
    alpha: int | None = Field(None, ge=1, le=2**20)
    """Scale of the update, divided by r; None means r, as in the paper."""
    svd: Literal["fast", "full"] = "fast"
    """Fast is randomised (16 power iterations): seconds instead of minutes for a large model."""


class Pissa(Method):
    """Trains each weight's principal components, the rest frozen (Meng et al. 2024, 2404.02948)."""

    name, Options = "pissa", PissaOptions

    def train(self, job: Job) -> Artifact:
        """An adapter for the untouched base, of twice the rank: what the components changed by."""
        options = job.options
        start = {"fast": "pissa_niter_16", "full": "pissa"}[options.svd]
        config = options.lora_config(init_lora_weights=start, lora_alpha=options.alpha or options.r)
        return train_sft(job, peft=config, **options.recipe())


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `pissa`."""
    register(Pissa())
