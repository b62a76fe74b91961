"""What methods with low-rank adapters share: their options, and a base in 4 or 8 bits."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from harness.api.method import MethodOptions, usual
from harness.errors import EnvironmentLack, UserError
from harness.models.adapter_fit import check_target_modules
from harness.models.families import check_quantized
from harness.models.quantization import four_bit_config
from harness.system.hardware import check_precision, facts
from harness.training.sft import train_sft
from harness.training.sft_options import SftOptions
from harness.types import Artifact, Job, ModelRef

if TYPE_CHECKING:
    from peft import LoraConfig

    from harness.api.footprint import Footprint


class QuantizationOptions(MethodOptions):
    """Options of weights that may be quantised as they are loaded."""

    quant_type: Literal["none", "nf4", "fp4", "int8"] = "none"
    """Number format of the base: full precision, 4-bit NormalFloat or float, or 8-bit integers."""
    double_quant: bool = True
    """In 4 bits, quantise the quantisation constants too: 0.37 bits a weight less."""
    compute_dtype: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """In 4 bits, arithmetic on the dequantised weights; `auto` is the plan's precision."""

    def check(self, precision: str) -> None:
        """Raise UserError where bitsandbytes is missing, or 4-bit options are set for another."""
        super().check(precision)
        if self.quant_type == "none":
            return
        if find_spec("bitsandbytes") is None:
            raise EnvironmentLack(
                f"quant_type {self.quant_type} needs bitsandbytes: pip install bitsandbytes"
            )
        rejected = sorted({"double_quant", "compute_dtype"} & self.model_fields_set)
        if self.quant_type == "int8" and rejected:
            raise UserError(f"{rejected[0]} is for 4 bits: leave it out with quant_type int8")
        try:
            check_precision(self.compute_dtype, facts())
        except UserError as error:
            raise UserError(f"compute_dtype: {error}") from None

    def fits(self, model: ModelRef) -> None:
        """Raise UserError where the model's family does not run in 4 or 8 bits."""
        super().fits(model)
        if self.quant_type != "none":
            check_quantized(model)

    def quantization(self, precision: str) -> dict[str, object] | None:
        """These options as keywords of transformers' BitsAndBytesConfig; None: full precision.

        8 bits are those of LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339).
        """
        if self.quant_type == "none":
            return None
        if self.quant_type == "int8":
            return {"load_in_8bit": True}
        return four_bit_config(
            precision,
            quant_type=self.quant_type,
            double_quant=self.double_quant,
            compute_dtype=self.compute_dtype,
        )


class QuantizedOptions(QuantizationOptions, SftOptions):
    """Options of training on a frozen base that may be quantised."""

    def footprint(self) -> Footprint | None:
        """That of what it is mixed with, on a base of so many bits."""
        base = super().footprint()
        bits = {"none": None, "int8": 8}.get(self.quant_type, 4)
        return base and dataclasses.replace(base, bits=bits, double_quant=self.double_quant)


class LowRankOptions(SftOptions):
    """Options of an update of rank r to frozen weights, on top of the shared recipe's."""

    lr: float = Field(2e-4, gt=0, le=1, json_schema_extra=usual(2e-5, 1e-2, log=True))
    """Peak learning rate; about ten times that of full fine-tuning (Biderman et al. 2024)."""
    r: int = Field(16, ge=1, le=4096, json_schema_extra=usual(4, 256, log=True))
    """Rank of the update."""
    alpha: int | None = Field(None, ge=1, le=2**20)
    """Scale of the update, divided by r; None means 2r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Layers that get an adapter: `all-linear`, or names of modules."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023, arXiv 2312.03732)."""

    def fits(self, model: ModelRef) -> None:
        """Raise UserError where a target matches no layer, or r is above a layer's width."""
        super().fits(model)
        check_target_modules(model, self.target_modules, self.r, self.lora_fields())

    def footprint(self) -> Footprint | None:
        """Two matrices of rank r beside each target; autograd keeps what is between them."""
        base = super().footprint()
        return base and dataclasses.replace(
            base,
            trains="adapter",
            targets=self.target_modules,
            adapter=lambda inputs, outputs: self.r * (inputs + outputs),
            # with dropout, the mask and what it leaves of the input
            keeps=lambda inputs, outputs: self.r + (2 * inputs if self.dropout else 0),
            peft=self.lora_config,
        )

    def lora_fields(self) -> dict[str, Any]:
        """These options as fields of peft's LoraConfig; a method with others adds its own."""
        return {
            "r": self.r,
            "lora_alpha": self.alpha or 2 * self.r,
            "lora_dropout": self.dropout,
            "target_modules": self.target_modules,
            "use_rslora": self.rslora,
        }

    def lora_config(self, **changes: Any) -> LoraConfig:
        """These options as peft's LoraConfig; `changes` are further fields of it."""
        from peft import LoraConfig

        return LoraConfig(task_type="CAUSAL_LM", **{**self.lora_fields(), **changes})


def train_lora(job: Job, **changes: Any) -> Artifact:
    """An adapter in `job.folder`, on the base as QuantizedOptions say, on which it is evaluated.

    The job's options are LowRankOptions too; `changes` are further fields of peft's LoraConfig.
    """
    options = job.options
    return train_sft(
        job,
        peft=options.lora_config(**changes),
        quantization=options.quantization(job.budget.precision),
        **options.recipe(),
    )
