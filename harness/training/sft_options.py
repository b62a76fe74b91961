"""What every method on the shared recipe lets a user set."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.api.method import MethodOptions, usual
from harness.errors import EnvironmentLack, UserError
from harness.models.families import check_packing, check_trainable
from harness.types import ModelRef

if TYPE_CHECKING:
    from harness.api.footprint import Footprint


Optimizer = Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"]
EIGHT_BITS = ("adamw_8bit", "paged_adamw_8bit")


class SftOptions(MethodOptions):
    """Optimizer, schedule, layout and validation: what the plan does not own."""

    lr: float = Field(5e-5, gt=0, le=1, json_schema_extra=usual(1e-6, 1e-3, log=True))
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    optimizer: Optimizer = Field(default_factory=lambda: default_optimizer())
    """AdamW: torch's (`adamw_torch_fused`, the default on CUDA, holds no copies of all weights as
    `adamw_torch` does there), or bitsandbytes' with its moments in 8 bits. The paged one moves them
    to host memory where the GPU's is short, and needs CUDA."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    packing: bool = False
    """Lay a batch's rows end to end without padding; no row attends to another."""
    validate_every: int = Field(0, ge=0)
    """Steps between validation losses; 0 means none while training."""
    keep_best: bool = False
    """Keep the checkpoint of the lowest validation loss instead of the last."""

    def check(self, precision: str) -> None:
        """Raise UserError where the options contradict each other or the machine."""
        if self.keep_best and not self.validate_every:
            raise UserError("keep_best needs validate_every: set it to a number of steps")
        if self.optimizer == "paged_adamw_8bit" and not has_gpu():
            raise UserError("optimizer paged_adamw_8bit needs a CUDA GPU: use adamw_8bit here")
        if self.optimizer in EIGHT_BITS and find_spec("bitsandbytes") is None:
            raise EnvironmentLack(
                f"optimizer {self.optimizer} needs bitsandbytes: pip install bitsandbytes"
            )

    def fits(self, model: ModelRef) -> None:
        """Raise UserError where TRL cannot train the model's family, or pack its rows."""
        check_trainable(model)
        if self.packing:
            check_packing(model)

    def footprint(self) -> Footprint | None:
        """Every weight is trained."""
        from harness.api.footprint import Footprint

        return Footprint(
            trains="all",
            optimizer=self.optimizer,
            gradient_checkpointing=self.gradient_checkpointing,
            packing=self.packing,
        )

    def recipe(self) -> dict[str, Any]:
        """The recipe's part of the options, as keywords for `train_sft`."""
        return {key: getattr(self, key) for key in SftOptions.model_fields}


def default_optimizer() -> Optimizer:
    """Torch's AdamW, fused on CUDA: it needs 16 bytes a float32 weight there, unfused 20."""
    return "adamw_torch_fused" if has_gpu() else "adamw_torch"


def has_gpu() -> bool:
    """Whether training runs on CUDA here."""
    from harness.system.hardware import facts

    return facts().device == "cuda"
