"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA on a base in 4 bits."""

from collections.abc import Callable
from typing import Literal

from harness import Artifact, Job, LowRankOptions, Method, QuantizedOptions, hookimpl, train_lora


class QloraOptions(LowRankOptions, QuantizedOptions):
    """Options of QLoRA, on top of LoRA's."""

    quant_type: Literal["nf4", "fp4", "int8"] = "nf4"
    """Number format of the base: NormalFloat (the paper's), 4-bit float, or 8-bit integers."""


class Qlora(Method):
    """LoRA on a base that is frozen in 4 (or 8) bits (Dettmers et al. 2023, arXiv 2305.14314)."""

    name, Options = "qlora", QloraOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`; it is evaluated on the quantised base it was trained on."""
        return train_lora(job)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `qlora`."""
    register(Qlora())
