"""Full fine-tuning: every weight is trained."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_serializer

from harness import (
    Artifact,
    Job,
    Method,
    ModelRef,
    SftOptions,
    UserError,
    check_full_precision,
    hookimpl,
    train_sft,
)

if TYPE_CHECKING:
    from harness import Footprint


class FullOptions(SftOptions):
    """The shared recipe's options; learning rates are about a tenth of LoRA's."""

    weights: Literal["float32", "bf16"] = "float32"
    """Type of the weights and gradients. In bf16 they take half the memory, and what rounding drops
    of a weight is kept in 16 bits, so that no update is lost (Zamirai et al. 2020, arXiv
    2010.06192); with `optimizer: adamw_8bit` a weight takes 8 bytes instead of 16."""

    def check(self, precision: str) -> None:
        """Raise UserError for bf16 weights under another precision."""
        super().check(precision)
        if self.weights == "bf16" and precision != "bf16":
            raise UserError(
                f"weights: bf16 needs budget.precision: bf16, which is {precision}: set that, or "
                "weights: float32"
            )

    def fits(self, model: ModelRef) -> None:
        """Raise UserError for a model whose files are quantised."""
        super().fits(model)
        check_full_precision(model)

    def footprint(self) -> "Footprint | None":
        """Every weight is trained, in the type that it has."""
        base = super().footprint()
        return base and dataclasses.replace(base, weights=self.weights)

    @model_serializer(mode="wrap")
    def _written(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without `weights` where they are float32, as before there was a choice: ids stay."""
        written = write(self)
        return {k: v for k, v in written.items() if k != "weights" or v != "float32"}


class Full(Method):
    """Trains every weight of the model."""

    name, Options = "full", FullOptions

    def train(self, job: Job) -> Artifact:
        """Weights in `job.folder`."""
        return train_sft(job, weights=job.options.weights, **job.options.recipe())


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `full`."""
    register(Full())
