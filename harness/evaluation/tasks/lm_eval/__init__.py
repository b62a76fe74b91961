"""Tasks of EleutherAI's lm-eval, unchanged, on our own scoring."""

from __future__ import annotations

import logging
from typing import Any

from harness.evaluation.suite import Suite
from harness.evaluation.tasks.lm_eval import rows
from harness.evaluation.tasks.lm_eval.aggregation import guard
from harness.evaluation.tasks.lm_eval.tasks import (
    check,
    counts,
    data_hash,
    load_tasks,
    picked,
    taken_tasks,
)
from harness.evaluation.tasks.protocol import Question
from harness.types import SuiteResult

__all__ = ["answer", "ask", "check", "counts", "data_hash", "load_tasks", "metrics"]


def ask(suite: Suite, model: Any) -> Question:
    """Nothing for the shared passes: lm-eval makes its own requests."""
    return Question()


def metrics(suite: Suite) -> list[str] | None:
    """Only the loaded tasks tell."""
    return None


def answer(suite: Suite, question: Question, tools: Any) -> SuiteResult:
    """Runs the tasks; a row per question, by its `doc_hash`, with every log-probability."""
    import lm_eval

    from harness.evaluation.tasks.lm_eval.model import shared_prefix_lm

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    tasks = taken_tasks(suite)
    asked = picked(suite, tasks)
    lm = shared_prefix_lm(tools.model, tools.progress)
    for task in tasks["tasks"].values():
        guard(task)
    result = lm_eval.evaluate(
        lm=lm,
        # a task of which nothing is asked would be asked whole
        task_dict={"tasks": {name: tasks["tasks"][name] for name in asked}, "groups": {}}
        if suite.picked
        else tasks,
        samples=asked,
        bootstrap_iters=0,
        apply_chat_template=bool(suite["apply_chat_template"]),
    )
    own = {**result["results"], **(result.get("groups") or {})}
    found = rows.collect(result["samples"], tasks, suite["cluster"], own)
    shots = {name: task.config.num_fewshot or 0 for name, task in tasks["tasks"].items()}
    cut = (
        f"{lm.cut} requests were longer than the model's context and lost their beginning, as in "
        "lm-eval"
    )
    return SuiteResult(
        rows=found.rows,
        metrics=found.metrics,
        notes={
            "num_fewshot": shots,
            "longer_than_context": lm.cut,
            "chat_template": bool(suite["apply_chat_template"]),
            **({"trust_task_code": True} if suite["trust_task_code"] else {}),
            **({"left_out": found.left_out} if found.left_out else {}),
        },
        warnings=[
            f"suite '{suite.name}': {message}"
            for message in [*([cut] if lm.cut else []), *found.warnings]
        ],
    )
