"""Conformance tests of plugins: training methods, and models that `open_model` returns."""

from __future__ import annotations

from harness.testing.methods import (
    BUDGET,
    CHECKS,
    Trained,
    Trial,
    check_answers_when_reopened,
    check_budget,
    check_loss_falls,
    check_safetensors_only,
    check_seed,
    check_trains,
)
from harness.testing.models import MODEL_CHECKS, ModelTrial

__all__ = [
    "BUDGET",
    "CHECKS",
    "MODEL_CHECKS",
    "ModelTrial",
    "Trained",
    "Trial",
    "check_answers_when_reopened",
    "check_budget",
    "check_loss_falls",
    "check_safetensors_only",
    "check_seed",
    "check_trains",
]
