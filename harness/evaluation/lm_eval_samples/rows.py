"""From lm-eval's logged samples to sample rows and metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from harness import stats
from harness.evaluation.lm_eval_samples.aggregation import BY_NAME, Item, Sums
from harness.evaluation.tasks.sample_rows import (
    NOT_FINITE,
    PROBABILITY,
    cluster,
)
from harness.record import EstimatorKind
from harness.stats import metric_summary
from harness.types import Bounds, Metric

HEADLINE = ("acc", "exact_match", "f1", "mc2")
"""Metrics that may stand under the bare name of a task, the first that it has."""
SHARES = {"acc", "acc_norm", "exact_match"}
RIGHT, MACRO, MICRO = "right", "macro", "micro"
SAME = 1e-6
"""Part of a figure by which it may differ from lm-eval's own: rounding of sums."""

Sample = Mapping[str, Any]
"""A question as lm-eval logs it."""
Samples = Sequence[Sample]
SampleRow = dict[str, Any]
"""As the record keeps it."""
Results = Mapping[str, Mapping[str, Any]]
"""lm-eval's own figures: task or group -> `metric,filter` -> value."""


class NoAnswer(str):
    """What stands for a generated answer where the model's logits are not finite."""


class Reply(str):
    """A generated answer, with what its row keeps of the reasoning before it."""

    row: Mapping[str, object]

    def __new__(cls, text: str, row: Mapping[str, object] = MappingProxyType({})) -> Reply:
        """The text, and the keys for its row."""
        reply = super().__new__(cls, text)
        reply.row = row
        return reply


@dataclass(frozen=True)
class Declared:
    """What a task says of its metrics."""

    better: Mapping[str, bool | None]
    """Metric -> whether higher is better, None where the task does not say."""
    aggregation: Callable[[str], str]
    """The name of a metric's aggregation: as in `aggregation.BY_NAME`, or another."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Metric -> what its aggregation raised."""
    right: Callable[[Sample], float | None] | None = None
    """The probability of the right choice; None of a task that has no choices."""


@dataclass(frozen=True)
class Average:
    """A figure of a group: a metric of its tasks, averaged."""

    metric: str
    filters: Sequence[str] | None
    """None for all."""
    by_size: bool
    """Over questions (micro, lm-eval's `weight_by_size`), else over tasks (macro)."""


@dataclass(frozen=True)
class DeclaredGroup:
    """A group, the names of all tasks below it, and what it averages; empty for the headlines."""

    name: str
    members: Collection[str]
    averages: Sequence[Average]


@dataclass(frozen=True)
class Column:
    """A metric of one task, as one of the task's filters reads the answers."""

    task: str
    key: str
    """lm-eval's name of the metric."""
    filter: str
    suffix: str
    """`.filter` where the filter is not the task's first, else empty."""
    bare: bool
    """Whether the metric has the task's name alone."""
    metric: Metric
    rows: Sequence[SampleRow]
    """Those of the task."""


@dataclass
class Collected:
    """A suite's rows and how to sum them up."""

    results: Results = field(default_factory=dict)
    rows: list[SampleRow] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    by_samples: bool = False
    """Whether the samples' figure stands, with a warning, where lm-eval's own is another."""
    left_out: dict[str, dict[str, object]] = field(default_factory=dict)
    """Metric that is not among `metrics` -> `reason`, and lm-eval's own `value` or None."""

    def own_value(self, name: str, key: str, sample_filter: str) -> float | None:
        """lm-eval's own figure of a task or group; None where it gives none."""
        value = self.results.get(name, {}).get(f"{key},{sample_filter}")
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError):
            return None

    def leave_out(self, name: str, reason: str, value: float | None) -> None:
        """Name a metric that is in no record, with the figure that lm-eval gives it."""
        known = value is not None and math.isfinite(value)
        self.left_out[name] = {"reason": reason, "value": value if known else None}
        own = f"; lm-eval's own figure is {value:.6g}" if known else ""
        self.warnings.append(f"{name} is left out: {reason}{own}")

    def agrees(self, metric: Metric, rows: Sequence[SampleRow], own: float | None) -> bool:
        """Whether a metric's figure is lm-eval's own; where it is not, it is left out.

        Not compared where lm-eval gives no figure, and where samples have no answer.
        """
        if any("missing" in row for row in rows):
            return True
        table = metric_summary.pool([metric_summary.scored(metric_summary.estimator(metric), rows)])
        if not table.ids:
            self.leave_out(metric.name, "no question has a value", own)
            return False
        try:
            figure = stats.point_estimate(
                metric_summary.figure(metric_summary.estimator(metric)), *table.arm
            )
        except ValueError as error:
            self.leave_out(metric.name, str(error), own)
            return False
        if own is None or math.isclose(figure, own, rel_tol=SAME, abs_tol=1e-9):
            return True
        if self.by_samples:
            said = f"lm-eval's own figure is {own:.6g}, that of its samples {figure:.6g}"
            self.warnings.append(f"{metric.name}: {said}, which is kept")
            return True
        self.leave_out(metric.name, f"its figure from the samples would be {figure:.6g}", own)
        return False


def collect(
    samples: Mapping[str, Samples],
    tasks: Mapping[str, Declared],
    groups: Sequence[DeclaredGroup],
    clusters: str | None = None,
    results: Results | None = None,
    *,
    by_samples: bool = False,
) -> Collected:
    """A row per question; each task's metrics, each group's, `retained`.

    A metric whose figure is not the one in `results` is left out and named in `warnings`; with
    `by_samples` it is kept, and the warning has both. `clusters` names the column of a question
    that says what it hangs together with.
    """
    out = Collected(results or {}, by_samples=by_samples)
    columns: list[Column] = []
    for task, every in samples.items():
        first = every[0]["filter"]
        read_first = [sample for sample in every if sample["filter"] == first]
        rows = question_rows(task, read_first, clusters)
        own = list(_columns(task, tasks[task], every, rows, out))
        if not any(column.key == PROBABILITY for column in own):
            own += _probability(task, tasks[task], read_first, rows)
        columns += own
        out.rows += rows
    above: list[Metric] = []
    for group in groups:
        below = [column for column in columns if column.task in group.members]
        above += _group(group, below, out)
        above += _group_probability(group, below, out)
    _mark_right(columns)
    if any(RIGHT in row["scores"] for row in out.rows):
        above.append(Metric("retained", True, "retained", score=RIGHT))
    out.metrics = [*above, *(column.metric for column in columns)]
    return out


def _columns(
    task: str, declared: Declared, every: Samples, rows: Sequence[SampleRow], out: Collected
) -> Iterator[Column]:
    """A task's metrics, their scores put into `rows`.

    The headline has the task's name alone (`forgetting.arc_easy`). A task may read its answers
    through several filters. The first is the one it means; the metrics of the others have the
    filter's name after theirs.
    """
    first = every[0]["filter"]
    for sample_filter in dict.fromkeys(sample["filter"] for sample in every):
        same = [sample for sample in every if sample["filter"] == sample_filter]
        keys = list(dict.fromkeys(key for sample in same for key in sample["metrics"]))
        main = next((key for key in HEADLINE if key in keys), keys[0] if keys else None)
        suffix = "" if sample_filter == first else f".{sample_filter}"
        for key in keys:
            bare = key == main and sample_filter == first
            name = task if bare else f"{task}.{key}{suffix}"
            own = out.own_value(task, key, sample_filter)
            items = [sample[key] if key in sample["metrics"] else None for sample in same]
            aggregation = declared.aggregation(key)
            sums = BY_NAME.get(aggregation)
            parts = None if sums is None else _parts(sums, items)
            if sums is None or parts is None:
                error = declared.errors.get(key)
                why = f"its aggregation '{aggregation}' is no mean and no ratio of sums"
                out.leave_out(name, f"lm-eval raised {error}" if error else why, own)
                continue
            score, per, kind = _put(rows, parts, sums, key, suffix)
            better = declared.better.get(key)
            metric = Metric(name, better is not False, kind, score, per, task, sums.bounds)
            if not out.agrees(metric, rows, own):
                continue
            out.warnings += _remarks(name, metric, rows, better)
            yield Column(task, key, sample_filter, suffix, bare, metric, rows)


def _probability(
    task: str, declared: Declared, samples: Samples, rows: Sequence[SampleRow]
) -> Iterator[Column]:
    """The probability of the right choice, put into `rows`, where a task has choices."""
    if declared.right is None:
        return
    scores = [declared.right(sample) for sample in samples]
    for row, score in zip(rows, scores, strict=True):
        row["scores"][PROBABILITY] = score if "missing" not in row else None
    if any(row["scores"][PROBABILITY] is not None for row in rows):
        metric = Metric(
            f"{task}.{PROBABILITY}", True, score=PROBABILITY, where=task, bounds=(0.0, 1.0)
        )
        first = samples[0]["filter"]
        yield Column(task, PROBABILITY, first, "", False, metric, rows)


def _group_probability(
    group: DeclaredGroup, columns: Sequence[Column], out: Collected
) -> list[Metric]:
    """A group's probability of the right choice, averaged as its first figure is."""
    same = [column for column in columns if column.key == PROBABILITY]
    if any(average.metric == PROBABILITY for average in group.averages):
        return []
    title = f"{group.name}.{PROBABILITY}"
    by_size = group.averages[0].by_size if group.averages else True
    return _averages(title, title, same, by_size, len(group.members), None, out)


def _parts(sums: Sums, items: Sequence[Item]) -> list[tuple[float, float] | None] | None:
    """Each item as parts of the sums, None where it has no value; None where one does not fit."""
    parts: list[tuple[float, float] | None] = []
    for item in items:
        try:
            part = None if item is None else sums.parts(item)
        except (TypeError, ValueError, IndexError):
            return None
        parts.append(part if part and all(map(math.isfinite, part)) else None)
    return parts


def _put(
    rows: Sequence[SampleRow],
    parts: Sequence[tuple[float, float] | None],
    sums: Sums,
    key: str,
    suffix: str,
) -> tuple[str, str | None, EstimatorKind]:
    """Write a metric's parts into the rows; the keys of score and denominator, and the kind."""
    score = f"{key}{suffix}"
    mean = sums.kind == "mean"
    top, bottom = (score, None) if mean else (f"{score}.sum", f"{score}.count")
    for row, part in zip(rows, parts, strict=True):
        known = part if "missing" not in row else None
        row["scores"][top] = known and known[0]
        if bottom:
            row["scores"][bottom] = known and known[1]
    binary = all(part is None or part[0] in (0.0, 1.0) for part in parts)
    kind = "share" if mean and key in SHARES and binary else sums.kind
    return top, bottom, kind


def _remarks(
    name: str, metric: Metric, rows: Sequence[SampleRow], better: bool | None
) -> Iterator[str]:
    """What a reader of a metric should know."""
    lacking = sum(row["scores"][metric.score] is None for row in rows if "missing" not in row)
    if lacking:
        yield f"{name}: {lacking} of {len(rows)} questions have no value; the others are averaged"
    if better is None:
        yield f"{name}: its task does not say which direction is better; taken as higher"


def _mark_right(columns: Sequence[Column]) -> None:
    """What `retained` reads: whether a question was answered right, by its task's headline."""
    for column in columns:
        if column.bare and column.metric.kind == "share":
            for row in column.rows:
                row["scores"][RIGHT] = row["scores"][column.metric.score]


def _group(group: DeclaredGroup, columns: Sequence[Column], out: Collected) -> Iterator[Metric]:
    """A group's figures: those of its `averages`, the first under its name alone.

    Without such a list, of the headlines of its tasks. Beside the first stands the other way of
    averaging: over questions (micro, lm-eval's `weight_by_size`) or over tasks (macro).
    """
    name, members = group.name, len(group.members)
    wanted = [
        (average.metric, sample_filter, average.by_size)
        for average in group.averages
        for sample_filter in average.filters
        or sorted({column.filter for column in columns if column.key == average.metric})
    ]
    if not wanted:
        yield from _averages(name, name, [c for c in columns if c.bare], True, members, None, out)
        return
    for number, (key, sample_filter, by_size) in enumerate(wanted):
        same = [c for c in columns if c.key == key and c.filter == sample_filter]
        suffix = same[0].suffix if same else ""
        score = name if number == 0 and all(c.bare for c in same) else f"{name}.{key}{suffix}"
        own = out.own_value(name, key, sample_filter)
        title = f"{name}.{key}{suffix}" if number else name
        averages = _averages(title, score, same, by_size, members, own, out)
        yield from averages if number == 0 else averages[:1]


def _averages(
    name: str,
    score: str,
    columns: Sequence[Column],
    by_size: bool,
    members: int,
    own: float | None,
    out: Collected,
) -> list[Metric]:
    """The average that the group declares, then the other one where there are several tasks.

    Scores go into the rows under `score` (micro) and `score.macro`; none where the tasks' figures
    are no means of their questions' scores, for an average of perplexities is no figure of sums.
    """
    kinds = {column.metric.kind for column in columns}
    directions = {column.metric.higher_is_better for column in columns}
    if not columns or kinds - {"share", "mean"} or len(directions) > 1:
        if own is not None:
            reason = "it averages figures that are no means of their questions' scores"
            if len(directions) > 1:
                reason = "its tasks do not agree on which direction is better"
            out.leave_out(name, reason, own)
        return []
    rows = [row for column in columns for row in column.rows]
    for column in columns:
        for row in column.rows:
            value = row["scores"][column.metric.score]
            if value is not None:
                row["scores"] |= {score: value, metric_summary.TASK_WEIGHT: 1 / len(column.rows)}
                row["scores"][f"{score}.{MACRO}"] = value / len(column.rows)
    (better,) = directions
    kind: EstimatorKind = "share" if kinds == {"share"} else "mean"
    first, second = ("", f".{MACRO}") if by_size else (f".{MICRO}", "")
    bounds = _common_bounds(columns)
    micro = Metric(
        name + first, better, kind, score=score, bounds=None if kind == "share" else bounds
    )
    macro = Metric(
        name + second,
        better,
        "ratio",
        score=f"{score}.{MACRO}",
        per=metric_summary.TASK_WEIGHT,
        bounds=bounds,
    )
    averages = [micro, macro] if by_size else [macro, micro]
    if not out.agrees(averages[0], rows, own):
        return []
    return averages if members > 1 else averages[:1]


def _common_bounds(columns: Sequence[Column]) -> Bounds | None:
    """The range of an average of figures that all have it."""
    ranges = {metric_summary.bounds(metric_summary.estimator(one.metric)) for one in columns}
    return ranges.pop() if len(ranges) == 1 and (None, None) not in ranges else None


def question_rows(task: str, samples: Samples, clusters: str | None = None) -> list[SampleRow]:
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
                **_thought(sample),
                **_no_answer(sample),
                "scores": {},
            }
        )
    return rows


def _thought(sample: Sample) -> Mapping[str, object]:
    """The reasoning before the answer; of several, which greedy decoding repeats, the first's."""
    given = [reply for replies in sample["resps"] for reply in replies]
    return next((reply.row for reply in given if isinstance(reply, Reply)), {})


def _no_answer(sample: Sample) -> dict[str, str]:
    """Why a question has no answer, where what the model gave is not finite."""
    given = [reply for replies in sample["resps"] for reply in replies]
    values = [value[0] if isinstance(value, (list, tuple)) else value for value in given]
    lost = any(isinstance(value, NoAnswer) for value in values)
    lost |= any(isinstance(value, float) and not math.isfinite(value) for value in values)
    return {"missing": NOT_FINITE} if lost else {}


def _reply(sample: Sample) -> dict[str, object]:
    """What the model said: the likeliest choice with every choice's log-probability, or a text."""
    replies = sample["filtered_resps"]
    if not (replies and isinstance(replies[0], (list, tuple)) and len(replies[0]) == 2):
        return {"output": replies[0] if len(replies) == 1 else replies}
    logprobs = [float(logprob) for logprob, _ in replies]
    choices = [arguments[1] for arguments in sample["arguments"]]
    known = all(map(math.isfinite, logprobs))
    best = max(range(len(logprobs)), key=logprobs.__getitem__)
    return {
        "output": choices[best] if known else None,
        "choices": choices,
        "logprobs": logprobs,
        "greedy": [bool(greedy) for _, greedy in replies],
    }
