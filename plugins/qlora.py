"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA on a base in 4 bits."""

from collections.abc import Callable
from typing import Any, Literal

from harness import Artifact, Job, LowRankOptions, Method, hookimpl, train_sft
from harness.low_rank import four_bit


class QloraOptions(LowRankOptions):
    """Options of QLoRA, on top of LoRA's."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """Number format of the base: NormalFloat (the paper's) or 4-bit float."""
    double_quant: bool = True
    """Quantise the quantisation constants too: 0.37 bits a weight less."""
    compute_dtype: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic on the dequantised weights; `auto` is the plan's precision."""

    def quantization(self, precision: str) -> dict[str, Any]:
        """These options as keywords of transformers' BitsAndBytesConfig."""
        return four_bit(
            precision,
            quant_type=self.quant_type,
            double_quant=self.double_quant,
            compute_dtype=self.compute_dtype,
        )


class Qlora(Method):
    """Trains low-rank updates of a base that is frozen in 4 bits."""

    name, Options = "qlora", QloraOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`; it is evaluated on the 4-bit base it was trained on."""
        options = job.options
        return train_sft(
            job,
            peft=options.lora_config(),
            quantization=options.quantization(job.budget.precision),
            **options.recipe(),
        )


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `qlora`."""
    register(Qlora())
