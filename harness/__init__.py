"""Evaluation-first benchmarking of fine-tuning methods.

What a plugin needs is imported from here; each name is loaded when first used, so that
`import harness` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.executor import Executor
    from harness.api.footprint import Footprint
    from harness.api.judge import Judge, Judgement
    from harness.api.method import Method, MethodOptions, usual
    from harness.api.model import Generation, LogLikelihood, Model
    from harness.api.scorer import scorer
    from harness.api.tools import Tools
    from harness.api.tracker import Tracker
    from harness.hookspecs import hookimpl
    from harness.models.language_model import LanguageModel, open_artifact
    from harness.training.low_rank import LowRankOptions, QuantizedOptions
    from harness.training.sft import SftOptions, train_sft
    from harness.types import Artifact, Job, Output, Row, Sample

__version__ = "0.1.0"

_HOME = {
    "Artifact": "types",
    "Executor": "api.executor",
    "Footprint": "api.footprint",
    "Generation": "api.model",
    "Job": "types",
    "Judge": "api.judge",
    "Judgement": "api.judge",
    "LanguageModel": "models.language_model",
    "LogLikelihood": "api.model",
    "LowRankOptions": "training.low_rank",
    "Method": "api.method",
    "MethodOptions": "api.method",
    "Model": "api.model",
    "Output": "types",
    "QuantizedOptions": "training.low_rank",
    "Row": "types",
    "Sample": "types",
    "SftOptions": "training.sft",
    "Tools": "api.tools",
    "Tracker": "api.tracker",
    "hookimpl": "hookspecs",
    "open_artifact": "models.language_model",
    "scorer": "api.scorer",
    "train_sft": "training.sft",
    "usual": "api.method",
}

__all__ = [
    "Artifact",
    "Executor",
    "Footprint",
    "Generation",
    "Job",
    "Judge",
    "Judgement",
    "LanguageModel",
    "LogLikelihood",
    "LowRankOptions",
    "Method",
    "MethodOptions",
    "Model",
    "Output",
    "QuantizedOptions",
    "Row",
    "Sample",
    "SftOptions",
    "Tools",
    "Tracker",
    "hookimpl",
    "open_artifact",
    "scorer",
    "train_sft",
    "usual",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(f"harness.{_HOME[name]}"), name)
