"""The model as it is: what every method is compared with."""

from collections.abc import Callable
from typing import Any

from pydantic import model_serializer

from harness import Artifact, Job, Method, QuantizationOptions, UserError, hookimpl


class BaseOptions(QuantizationOptions):
    """None for the base itself; quantised it is a row of its own, beside what trained on such."""

    def check(self, precision: str) -> None:
        """Raise UserError for a detail of a quantisation that is not asked for."""
        super().check(precision)
        if self.quant_type == "none" and (details := self.model_fields_set - {"quant_type"}):
            raise UserError(f"{min(details)} is for 4 bits: set quant_type: nf4 too")

    @model_serializer(mode="wrap")
    def _written(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Empty for the base itself, as it was before there were options: ids stay."""
        return {} if self.quant_type == "none" else write(self)


class Base(Method):
    """Trains nothing: the untouched base, or with `quant_type` the same in 4 or 8 bits."""

    name, Options = "base", BaseOptions
    trains = False
    untouched = True

    def train(self, job: Job) -> Artifact:
        """The untouched model; quantised, it is opened as other weights are."""
        quantization = job.options.quantization(job.budget.precision)
        return Artifact(
            "weights" if quantization else "base",
            job.model,
            quantization=quantization,
            precision=job.budget.precision,
            chat_template=job.chat_template,
            weights=job.model if quantization else None,
        )


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `base`."""
    register(Base())
