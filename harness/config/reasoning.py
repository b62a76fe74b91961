"""The key `reasoning`, of suites and of an experiment: what ends a thinking model's reasoning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.config.strict_yaml import StrictModel

__all__ = ["AUTO", "NONE", "Reasoning", "ReasoningSettings"]

AUTO: Literal["auto"] = "auto"
"""The markers that the model's chat template writes; none where it writes none."""
NONE: Literal["none"] = "none"
"""Answers are scored whole, also where the experiment says otherwise."""


class ReasoningSettings(StrictModel):
    """The markers that stand around a model's reasoning."""

    end: str = Field(min_length=1)
    """The answer is what follows its last occurrence."""
    start: str | None = Field(None, min_length=1)
    """It shows where reasoning began that never ended; by default `end` without its slash."""


Reasoning = Literal["auto", "none"] | ReasoningSettings
"""The value of the key."""
