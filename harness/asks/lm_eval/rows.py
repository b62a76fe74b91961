"""From lm-eval's logged samples to sample rows and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.asks import cluster
from harness.asks.lm_eval.tasks import groups
from harness.types import Metric

HEADLINE = ("acc", "exact_match", "f1", "mc2")
"""Metrics that may stand under the bare name of a task, the first that it has."""
SHARES = {"acc", "acc_norm", "exact_match"}
RIGHT, MACRO, WEIGHT = "right", "macro", "weight"

Samples = Sequence[Mapping[str, Any]]


@dataclass
class Collected:
    """A suite's rows and how to sum them up."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)


def collect(samples: Mapping[str, Samples], tasks: Any, clusters: str | None = None) -> Collected:
    """A row per question; each task's metrics, each group's micro and macro average, `retained`.

    `clusters` names the column of a question that says what it hangs together with.
    """
    above_of = groups(tasks)
    out = Collected()
    for task, every in samples.items():
        better = tasks["tasks"][task].higher_is_better()
        inside = [group for group, members in above_of.items() if task in members]
        rows, metrics = _task(task, every, better, inside, clusters)
        out.rows += rows
        out.metrics += metrics
    above = [metric for name, members in above_of.items() for metric in _group(name, members)]
    if any(RIGHT in row["scores"] for row in out.rows):
        above.append(Metric("retained", True, "retained", score=RIGHT))
    out.metrics = [*above, *out.metrics]
    return out


def _task(
    task: str,
    every: Samples,
    better: Mapping[str, bool],
    groups: Sequence[str],
    clusters: str | None,
) -> tuple[list[dict[str, Any]], list[Metric]]:
    """A task's rows and metrics; the headline has the task's name alone (`forgetting.arc_easy`).

    A task may read its answers through several filters. The first is the one it means; the
    metrics of the others have the filter's name after theirs.
    """
    first = every[0]["filter"]
    rows = _rows(task, [sample for sample in every if sample["filter"] == first], clusters)
    metrics = []
    for sample_filter in dict.fromkeys(sample["filter"] for sample in every):
        same = [sample for sample in every if sample["filter"] == sample_filter]
        keys = [k for k in same[0]["metrics"] if isinstance(same[0][k], (int, float, bool))]
        main = next((k for k in HEADLINE if k in keys), keys[0] if keys else None)
        for key in keys:
            bare = key == main and sample_filter == first
            suffix = "" if sample_filter == first else f".{sample_filter}"
            score = f"{key}{suffix}"
            kind: Any = "share" if key in SHARES else "mean"
            name = task if bare else f"{task}.{score}"
            metrics.append(Metric(name, bool(better.get(key, True)), kind, score=score, where=task))
            for row, sample in zip(rows, same, strict=True):
                row["scores"][score] = float(sample[key])
            if bare:
                _mark(rows, score, groups, right=kind == "share")
    return rows, metrics


def _mark(rows: Sequence[dict[str, Any]], score: str, groups: Sequence[str], right: bool) -> None:
    """What group metrics and `retained` read: a task counts once in its groups' macro average."""
    for row in rows:
        value = row["scores"][score]
        if right:
            row["scores"][RIGHT] = value
        if groups:
            row["scores"] |= {WEIGHT: 1 / len(rows), **dict.fromkeys(groups, value)}
            row["scores"] |= {f"{group}.{MACRO}": value / len(rows) for group in groups}


def _group(name: str, members: set[str]) -> list[Metric]:
    """Over all its questions (micro, lm-eval's size-weighted mean), and the mean of its tasks'."""
    micro = Metric(name, True, "share", score=name)
    macro = Metric(f"{name}.{MACRO}", True, "ratio", per=WEIGHT)
    return [micro, macro] if len(members) > 1 else [micro]


def _rows(task: str, samples: Samples, clusters: str | None) -> list[dict[str, Any]]:
    """Sample rows without scores; a question that a task has twice gets two ids."""
    met: Counter[str] = Counter()
    rows = []
    for sample in samples:
        key = sample["doc_hash"]
        met[key] += 1
        number = f"-{met[key]}" if met[key] > 1 else ""
        rows.append(
            {
                "id": f"{task}/{key[:16]}{number}",
                "group": task,
                **cluster(clusters, {"group": task, **sample["doc"]}, f"task {task}"),
                "doc_hash": key,
                "prompt": sample["arguments"][0][0],
                "reference": sample["target"],
                **_reply(sample),
                "scores": {},
            }
        )
    return rows


def _reply(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What the model said: the likeliest choice with every choice's log-probability, or a text."""
    replies = sample["filtered_resps"]
    if not (replies and isinstance(replies[0], (list, tuple)) and len(replies[0]) == 2):
        return {"output": replies[0] if len(replies) == 1 else replies}
    logprobs = [float(logprob) for logprob, _ in replies]
    choices = [arguments[1] for arguments in sample["arguments"]]
    best = max(range(len(logprobs)), key=logprobs.__getitem__)
    return {
        "output": choices[best],
        "choices": choices,
        "logprobs": logprobs,
        "greedy": [bool(greedy) for _, greedy in replies],
    }
