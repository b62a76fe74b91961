"""Options of low-rank adapters, which several methods share."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.sft import SftOptions


class LowRankOptions(SftOptions):
    """Options of an update of rank r to frozen weights, on top of the shared recipe's."""

    lr: float = Field(2e-4, gt=0, le=1)
    """Peak learning rate; about ten times that of full fine-tuning (Biderman et al. 2024)."""
    r: int = Field(16, ge=1, le=4096)
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
