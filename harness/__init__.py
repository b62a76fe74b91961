"""Evaluation-first benchmarking of fine-tuning methods.

What a plugin needs is imported from here, and what a notebook does: `run`, `evaluate`, `compare`,
`gate` and `load_results`. Each name is loaded when first used, so that `import harness` costs
nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.executor import (
        Executor,
        ExecutorOptions,
        forked_workers,
        stop_wanted,
        worker_command,
        worker_environment,
        worker_events,
    )
    from harness.api.footprint import Footprint
    from harness.api.judge import (
        Judge,
        JudgeBackend,
        Judgement,
        JudgeOptions,
        Question,
        Reply,
    )
    from harness.api.method import Method, MethodOptions, ModelFinder, ModelOption, usual
    from harness.api.model import Generation, LogLikelihood, Model
    from harness.api.scorer import Scorer, scorer
    from harness.api.task import (
        Conversation,
        Requests,
        Resolver,
        Resources,
        Suite,
        SuiteExample,
        SuiteSettings,
        Task,
        TaskTools,
    )
    from harness.api.tools import Tools
    from harness.api.tracker import Tracker
    from harness.config.strict_yaml import Located
    from harness.data.references import check_references
    from harness.data.text_normalization import normalize_unicode, split_words
    from harness.data.tokenization import encode_pair
    from harness.data.tool_calls.written import ToolCall, parse_tool_calls
    from harness.errors import CellFailed, DataError, EnvironmentLack, UserError, nearest
    from harness.evaluation.judging.prompts import encode_chat, encode_continuations, fenced
    from harness.evaluation.judging.verdicts import Verdict, expected_verdict
    from harness.evaluation.served.model import open_served
    from harness.evaluation.tasks.sample_task import DataSettings, SampleTask
    from harness.hookspecs import hookimpl
    from harness.models.adapter_fit import check_target_modules
    from harness.models.language_model import LanguageModel, load_weights, open_artifact
    from harness.models.quantization import four_bit_config
    from harness.models.stored_quantization import check_full_precision
    from harness.runner.parcel import Parcel, UnpackedParcel
    from harness.sdk.comparing import Compared, Gated, compare, gate
    from harness.sdk.results import Results, load_results
    from harness.sdk.running import evaluate, run
    from harness.system.security.time_limit import time_limit
    from harness.training.low_rank import (
        LowRankOptions,
        QuantizationOptions,
        QuantizedOptions,
        train_lora,
    )
    from harness.training.prompt_learning import VirtualTokenOptions, train_virtual_tokens
    from harness.training.sft import train_sft
    from harness.training.sft_options import SftOptions
    from harness.types import (
        Artifact,
        Job,
        Message,
        Metric,
        ModelRef,
        Output,
        Row,
        Sample,
        SuiteResult,
    )

__version__ = "0.1.0"

_HOME = {
    "Artifact": "types",
    "CellFailed": "errors",
    "Compared": "sdk.comparing",
    "Conversation": "api.task",
    "DataError": "errors",
    "DataSettings": "evaluation.tasks.sample_task",
    "Engine": "api.engine",
    "EnvironmentLack": "errors",
    "Executor": "api.executor",
    "ExecutorOptions": "api.executor",
    "Footprint": "api.footprint",
    "Gated": "sdk.comparing",
    "Generation": "api.model",
    "Job": "types",
    "Judge": "api.judge",
    "JudgeBackend": "api.judge",
    "JudgeOptions": "api.judge",
    "Judgement": "api.judge",
    "LanguageModel": "models.language_model",
    "Located": "config.strict_yaml",
    "LogLikelihood": "api.model",
    "LowRankOptions": "training.low_rank",
    "Message": "types",
    "Method": "api.method",
    "MethodOptions": "api.method",
    "Metric": "types",
    "Model": "api.model",
    "ModelFinder": "api.method",
    "ModelOption": "api.method",
    "ModelRef": "types",
    "Output": "types",
    "Parcel": "runner.parcel",
    "QuantizationOptions": "training.low_rank",
    "QuantizedOptions": "training.low_rank",
    "Question": "api.judge",
    "Reply": "api.judge",
    "Requests": "api.task",
    "Resolver": "api.task",
    "Resources": "api.task",
    "Results": "sdk.results",
    "Row": "types",
    "Sample": "types",
    "SampleTask": "evaluation.tasks.sample_task",
    "Scorer": "api.scorer",
    "SftOptions": "training.sft_options",
    "Suite": "api.task",
    "SuiteExample": "api.task",
    "SuiteResult": "types",
    "SuiteSettings": "api.task",
    "Task": "api.task",
    "TaskTools": "api.task",
    "ToolCall": "data.tool_calls.written",
    "Tools": "api.tools",
    "Tracker": "api.tracker",
    "UnpackedParcel": "runner.parcel",
    "UserError": "errors",
    "Verdict": "evaluation.judging.verdicts",
    "VirtualTokenOptions": "training.prompt_learning",
    "adapter_config": "models.adapters",
    "check_full_precision": "models.stored_quantization",
    "check_references": "data.references",
    "check_target_modules": "models.adapter_fit",
    "compare": "sdk.comparing",
    "encode_chat": "evaluation.judging.prompts",
    "encode_continuations": "evaluation.judging.prompts",
    "encode_pair": "data.tokenization",
    "evaluate": "sdk.running",
    "expected_verdict": "evaluation.judging.verdicts",
    "fenced": "evaluation.judging.prompts",
    "four_bit_config": "models.quantization",
    "gate": "sdk.comparing",
    "hookimpl": "hookspecs",
    "load_results": "sdk.results",
    "load_weights": "models.language_model",
    "nearest": "errors",
    "normalize_unicode": "data.text_normalization",
    "open_artifact": "models.language_model",
    "open_served": "evaluation.served.model",
    "parse_tool_calls": "data.tool_calls.written",
    "run": "sdk.running",
    "scorer": "api.scorer",
    "split_words": "data.text_normalization",
    "stop_wanted": "api.executor",
    "time_limit": "system.security.time_limit",
    "train_lora": "training.low_rank",
    "train_sft": "training.sft",
    "train_virtual_tokens": "training.prompt_learning",
    "usual": "api.method",
    "worker_command": "api.executor",
    "worker_environment": "api.executor",
    "forked_workers": "api.executor",
    "worker_events": "api.executor",
}

__all__ = [
    "Artifact",
    "CellFailed",
    "Compared",
    "Conversation",
    "DataError",
    "DataSettings",
    "Engine",
    "EnvironmentLack",
    "Executor",
    "ExecutorOptions",
    "Footprint",
    "Gated",
    "Generation",
    "Job",
    "Judge",
    "JudgeBackend",
    "JudgeOptions",
    "Judgement",
    "LanguageModel",
    "Located",
    "LogLikelihood",
    "LowRankOptions",
    "Message",
    "Method",
    "MethodOptions",
    "Metric",
    "Model",
    "ModelFinder",
    "ModelOption",
    "ModelRef",
    "Output",
    "Parcel",
    "QuantizationOptions",
    "QuantizedOptions",
    "Question",
    "Reply",
    "Requests",
    "Resolver",
    "Resources",
    "Results",
    "Row",
    "Sample",
    "SampleTask",
    "Scorer",
    "SftOptions",
    "Suite",
    "SuiteExample",
    "SuiteResult",
    "SuiteSettings",
    "Task",
    "TaskTools",
    "ToolCall",
    "Tools",
    "Tracker",
    "UnpackedParcel",
    "UserError",
    "Verdict",
    "VirtualTokenOptions",
    "adapter_config",
    "check_full_precision",
    "check_references",
    "check_target_modules",
    "compare",
    "encode_chat",
    "encode_continuations",
    "encode_pair",
    "evaluate",
    "expected_verdict",
    "fenced",
    "forked_workers",
    "four_bit_config",
    "gate",
    "hookimpl",
    "load_results",
    "load_weights",
    "nearest",
    "normalize_unicode",
    "open_artifact",
    "open_served",
    "parse_tool_calls",
    "run",
    "scorer",
    "split_words",
    "stop_wanted",
    "time_limit",
    "train_lora",
    "train_sft",
    "train_virtual_tokens",
    "usual",
    "worker_command",
    "worker_environment",
    "worker_events",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(f"harness.{_HOME[name]}"), name)
