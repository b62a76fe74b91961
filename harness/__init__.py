"""Evaluation-first benchmarking of fine-tuning methods.

What a plugin needs is imported from here; each name is loaded when first used, so that
`import harness` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.footprint import Footprint
    from harness.api.method import Method, MethodOptions, usual
    from harness.api.roles import Executor, Judge, Judgement, Tools, Tracker, scorer
    from harness.hookspecs import hookimpl
    from harness.training.low_rank import LowRankOptions, QuantizedOptions
    from harness.training.sft import SftOptions, train_sft
    from harness.types import Artifact, Job, Output, Row, Sample

__version__ = "0.1.0"

_HOME = {
    "Artifact": "types",
    "Executor": "api.roles",
    "Footprint": "api.footprint",
    "Job": "types",
    "Judge": "api.roles",
    "Judgement": "api.roles",
    "LowRankOptions": "training.low_rank",
    "Method": "api.method",
    "MethodOptions": "api.method",
    "Output": "types",
    "QuantizedOptions": "training.low_rank",
    "Row": "types",
    "Sample": "types",
    "SftOptions": "training.sft",
    "Tools": "api.roles",
    "Tracker": "api.roles",
    "hookimpl": "hookspecs",
    "scorer": "api.roles",
    "train_sft": "training.sft",
    "usual": "api.method",
}

__all__ = [
    "Artifact",
    "Executor",
    "Footprint",
    "Job",
    "Judge",
    "Judgement",
    "LowRankOptions",
    "Method",
    "MethodOptions",
    "Output",
    "QuantizedOptions",
    "Row",
    "Sample",
    "SftOptions",
    "Tools",
    "Tracker",
    "hookimpl",
    "scorer",
    "train_sft",
    "usual",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(f"harness.{_HOME[name]}"), name)
