"""Any adapter of peft by the name of its configuration class."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, field_validator

from harness import Artifact, Job, Method, QuantizedOptions, hookimpl, train_sft, usual
from harness.errors import UserError
from harness.models.layers import check_fit
from harness.training.peft_fields import check_fields, config_name
from harness.training.reload_check import Remembered
from harness.types import ModelRef


class PeftOptions(QuantizedOptions):
    """Which adapter, and its settings."""

    lr: float = Field(1e-3, gt=0, le=1, json_schema_extra=usual(1e-5, 3e-2, log=True))
    """Peak learning rate; what is usual differs by a lot between adapters."""
    config: str = "LoraConfig"
    """A configuration class of peft, such as VeraConfig."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Fields of that class, such as `r` and `target_modules`; peft's defaults for the rest."""

    @field_validator("config")
    @classmethod
    def _known(cls, value: str) -> str:
        return config_name(value)

    @field_validator("fields")
    @classmethod
    def _valid(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        if "config" in info.data:
            check_fields(info.data["config"], value)
        return value

    def fits(self, model: ModelRef) -> None:
        """Raise UserError where a target matches no layer, or a LoRA's r is above a width."""
        super().fits(model)
        lora = self.fields if self.config == "LoraConfig" else None
        rank = lora.get("r") if lora is not None else None
        check_fit(model, self.fields.get("target_modules"), rank, _without_start(lora))

    def footprint(self) -> None:
        """Not predicted: configurations differ too much."""


class Peft(Method):
    """Trains any of peft's adapters that change weights, and checks that it can be reopened."""

    name, Options = "peft", PeftOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`; CellFailed where it does not answer as it was trained."""
        options, remembered = job.options, Remembered(job)
        artifact = train_sft(
            replace(job, trained=remembered.see),
            peft=_config(options.config, options.fields),
            quantization=options.quantization(job.budget.precision),
            **options.recipe(),
        )
        return remembered.check(artifact)


def _without_start(lora: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A LoRA's fields but for how it begins, which takes weights."""
    if lora is None:
        return None
    return {k: v for k, v in lora.items() if k not in ("init_lora_weights", "task_type")}


def _config(name: str, fields: Mapping[str, Any]) -> Any:
    """An instance of peft's class; UserError for what it refuses."""
    import peft

    try:
        return getattr(peft, name)(**{**fields, "task_type": "CAUSAL_LM"})
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from error


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `peft`."""
    register(Peft())
