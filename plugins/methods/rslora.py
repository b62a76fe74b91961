"""rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): LoRA whose scale is right at any rank."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from harness import Artifact, Job, LowRankOptions, Method, QuantizedOptions, hookimpl, train_lora


class RsloraOptions(LowRankOptions, QuantizedOptions):
    """LoRA's options; the scale is alpha / sqrt(r)."""

    alpha: int | None = Field(16, ge=1, le=2**20)
    """Scale of the update, divided by sqrt(r): the same for every rank, 16 as in the paper."""
    rslora: Literal[True] = True
    """Always: without it the method is lora."""


class Rslora(Method):
    """LoRA scaled by alpha / sqrt(r), not alpha / r (Kalajdzievski 2023, arXiv 2312.03732)."""

    name, Options = "rslora", RsloraOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`."""
        return train_lora(job)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `rslora`."""
    register(Rslora())
