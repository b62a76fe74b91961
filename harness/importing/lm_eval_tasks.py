"""What lm-eval's aggregates say of tasks and groups, for `lm_eval_samples.rows`; loads no task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.evaluation.lm_eval_samples.aggregation import number
from harness.evaluation.lm_eval_samples.rows import Average, Declared, DeclaredGroup, Sample
from harness.evaluation.tasks.sample_rows import right_probability
from harness.importing.lm_eval_files import LoggedRun

__all__ = ["declared", "declared_groups"]

_UNSTATED = {
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
    "f1": "f1",
    "brier_score": "brier_score",
    **dict.fromkeys(("acc", "acc_norm", "acc_mutual_info", "exact_match", "em"), "mean"),
}
"""Metric -> its aggregation where a task names none, as lm-eval's registry has it."""
_MUTUAL_INFORMATION = "acc_mutual_info"
_CLOSE = 1e-6


def declared(run: LoggedRun, task: str) -> Declared:
    """What the aggregates say of a task's metrics."""
    config = run.of("configs")[task]
    better = run.of("higher_is_better").get(task)
    chooses = config.get("output_type") == "multiple_choice" and not config.get("process_results")
    samples = run.samples[task]
    return Declared(
        better=better if isinstance(better, Mapping) else {},
        aggregation=lambda metric: _aggregation(run, task, metric),
        right=_right_choice if chooses and _agrees_with_accuracy(samples) else None,
    )


def _aggregation(run: LoggedRun, task: str, metric: str) -> str:
    """By the task's own word, lm-eval's default, or the figure: a mean where it is one."""
    listed = run.of("configs")[task].get("metric_list") or []
    stated = [one.get("aggregation") for one in listed if _is_of(one, metric)]
    if stated and stated[0] is not None:
        return str(stated[0])
    if metric in _UNSTATED:
        return _UNSTATED[metric]
    return "mean" if _is_mean(run, task, metric) else "unstated"


def _is_of(listed: object, metric: str) -> bool:
    return isinstance(listed, Mapping) and listed.get("metric") == metric


def _is_mean(run: LoggedRun, task: str, metric: str) -> bool:
    """Whether lm-eval's figure is the mean of its samples, for every filter."""
    own = run.of("results").get(task, {})
    for sample_filter in dict.fromkeys(sample["filter"] for sample in run.samples[task]):
        same = [sample for sample in run.samples[task] if sample["filter"] == sample_filter]
        figure = own.get(f"{metric},{sample_filter}")
        try:
            items = [number(sample[metric]) for sample in same if sample.get(metric) is not None]
        except TypeError:
            return False
        mean = math.fsum(items) / len(items) if items else math.nan
        if not isinstance(figure, (int, float)) or not math.isclose(mean, figure, rel_tol=_CLOSE):
            return False
    return True


def _right_choice(sample: Sample) -> float | None:
    """Probability of the right choice; None where the target names none."""
    logprobs, right = _choices(sample), _right(sample)
    return right_probability(logprobs, right) if right else None


def _choices(sample: Sample) -> list[float]:
    """Log-probabilities of the choices; mutual information asks each a second time, without."""
    logprobs = [float(logprob) for logprob, _ in sample["filtered_resps"]]
    again = _MUTUAL_INFORMATION in sample["metrics"]
    return logprobs[: len(logprobs) // 2] if again else logprobs


def _right(sample: Sample) -> list[int]:
    """Numbers of the right choices, of a target that is a number, several, or a choice's text."""
    target, count = str(sample["target"]).strip(), len(_choices(sample))
    texts = [str(arguments[-1]).strip() for arguments in sample["arguments"]][:count]
    if target in texts:
        return [texts.index(target)]
    parts = target.strip("[]").split(",")
    numbers = [int(part) for part in map(str.strip, parts) if part.isdigit()]
    known = len(numbers) == len(parts) and all(number < count for number in numbers)
    return numbers if known else []


def _agrees_with_accuracy(samples: Sequence[Sample]) -> bool:
    """Whether what is taken for right is what lm-eval counted as right, wherever it counted."""
    for sample in samples:
        if "acc" in sample["metrics"] and (right := _right(sample)):
            logprobs = _choices(sample)
            likeliest = max(range(len(logprobs)), key=logprobs.__getitem__)
            if (likeliest in right) != bool(sample["acc"]):
                return False
    return True


def declared_groups(run: LoggedRun) -> list[DeclaredGroup]:
    """The groups of a run whose tasks all have samples, each with the averages that it reports."""
    children = run.of("group_subtasks")
    found = []
    for name in children:
        members = _members(name, children)
        if members and members <= run.samples.keys():
            found.append(DeclaredGroup(name, members, _averages(run, name, members)))
    return found


def _members(
    name: str, children: Mapping[str, Any], above: frozenset[str] = frozenset()
) -> set[str]:
    """All tasks below a group, which a group in it may hold."""
    found: set[str] = set()
    for child in children.get(name) or []:
        inside = children.get(child)
        if inside and child not in above:
            found |= _members(child, children, above | {name})
        elif not inside:
            found.add(child)
    return found


def _averages(run: LoggedRun, name: str, members: set[str]) -> list[Average]:
    """Figures of a group; whether they are over questions shows in which of the two they are."""
    averages = []
    for key, figure in (run.of("groups").get(name) or {}).items():
        metric, comma, sample_filter = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(figure, (int, float)):
            by_size = not _is_over_tasks(run, members, key, figure)
            averages.append(Average(metric, [sample_filter], by_size))
    return averages


def _is_over_tasks(run: LoggedRun, members: set[str], key: str, figure: float) -> bool:
    """Whether a group's figure is the mean of its tasks' and not that of their questions."""
    results = [run.of("results").get(task, {}) for task in members]
    own = [(one.get(key), one.get("sample_len")) for one in results]
    values = [value for value, _ in own if isinstance(value, (int, float))]
    sizes = [size for _, size in own if isinstance(size, int)]
    if len(values) != len(own) or len(sizes) != len(own) or not sum(sizes):
        return False
    over_tasks = math.fsum(values) / len(values)
    weighted = (value * size for value, size in zip(values, sizes, strict=True))
    over_questions = math.fsum(weighted) / sum(sizes)
    near = math.isclose(over_tasks, figure, rel_tol=_CLOSE, abs_tol=1e-12)
    return near and not math.isclose(over_questions, figure, rel_tol=_CLOSE, abs_tol=1e-12)
