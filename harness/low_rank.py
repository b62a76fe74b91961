"""What methods with low-rank adapters share: their options, and a base in 4 bits."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.method import usual
from harness.sft import SftOptions


def four_bit(
    precision: str,
    *,
    quant_type: str = "nf4",
    double_quant: bool = True,
    compute_dtype: str = "auto",
) -> dict[str, Any]:
    """A base in 4 bits, as JSON-able keywords of transformers' BitsAndBytesConfig.

    By default as in the QLoRA paper (Dettmers et al. 2023, arXiv 2305.14314), section 3. A
    `compute_dtype` of `auto` is the plan's precision.
    """
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": double_quant,
        "bnb_4bit_compute_dtype": precision if compute_dtype == "auto" else compute_dtype,
    }


class LowRankOptions(SftOptions):
    """Options of an update of rank r to frozen weights, on top of the shared recipe's."""

    lr: float = Field(2e-4, gt=0, le=1, json_schema_extra=usual(2e-5, 2e-3, log=True))
    """Peak learning rate; about ten times that of full fine-tuning (Biderman et al. 2024)."""
    r: int = Field(16, ge=1, le=4096, json_schema_extra=usual(4, 256, log=True))
    """Rank of the update."""
    alpha: int | None = Field(None, ge=1)
    """Scale of the update, divided by r; None means 2r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get an adapter: `all-linear`, or names of modules."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023, arXiv 2312.03732)."""

    def lora_config(self) -> Any:
        """These options as peft's LoraConfig."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha or 2 * self.r,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            use_rslora=self.rslora,
        )
