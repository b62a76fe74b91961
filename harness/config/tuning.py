"""The experiment's `tune` block, and the `tune` of a method's entry."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from harness.config.strict_yaml import StrictModel


class Tune(StrictModel):
    """The experiment's `tune` block."""

    trials: int = Field(ge=1, le=10_000)
    """Trials of each method."""
    extend: int = Field(default=4, ge=0, le=100)
    """Most trials added beyond the values tried while the best of them has nothing beyond it."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of a trial; None means `budget.steps`."""
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    """Seed of the search and of every trial; None means the first of `seeds`."""
    objectives: tuple[Literal["validation_loss", "peak_memory"], ...] = ("validation_loss",)
    """What is minimised; of a Pareto front the trial of lowest validation loss is taken."""

    @field_validator("objectives")
    @classmethod
    def _with_quality(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "validation_loss" not in value or len(set(value)) < len(value):
            raise ValueError("expected [validation_loss] or [validation_loss, peak_memory]")
        return value


class Range(StrictModel):
    """The range of an option's search, bounds included."""

    low: int | float
    """The least value tried."""
    high: int | float
    """The greatest value tried."""
    log: bool | None = None
    """Whether the scale is logarithmic; None: as in the option's usual range."""


Choices = list[bool | int | float | str]


Space = dict[str, Range | Choices | Literal["usual"]]


EntrySpace = list[str] | Space
"""A method's `tune`: options searched in their usual ranges, or option -> range or choices."""
