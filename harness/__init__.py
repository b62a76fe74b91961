"""Evaluation-first benchmarking of fine-tuning methods.

What a plugin needs is imported from here; each name is loaded when first used, so that
`import harness` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.hookspecs import hookimpl
    from harness.low_rank import LowRankOptions, QuantizedOptions
    from harness.memory.footprint import Footprint
    from harness.method import Method, MethodOptions, usual
    from harness.roles import Executor, Judge, Judgement, Tools, Tracker, scorer
    from harness.sft import SftOptions, train_sft
    from harness.types import Artifact, Job, Output, Row, Sample

__version__ = "0.1.0"

_HOME = {
    "Artifact": "types",
    "Executor": "roles",
    "Footprint": "memory.footprint",
    "Job": "types",
    "Judge": "roles",
    "Judgement": "roles",
    "LowRankOptions": "low_rank",
    "Method": "method",
    "MethodOptions": "method",
    "Output": "types",
    "QuantizedOptions": "low_rank",
    "Row": "types",
    "Sample": "types",
    "SftOptions": "sft",
    "Tools": "roles",
    "Tracker": "roles",
    "hookimpl": "hookspecs",
    "scorer": "roles",
    "train_sft": "sft",
    "usual": "method",
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
