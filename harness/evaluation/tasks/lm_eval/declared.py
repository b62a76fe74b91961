"""What a loaded task of lm-eval says of its figures, for `lm_eval_samples.rows`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.evaluation.lm_eval_samples.aggregation import BY_NAME, Item
from harness.evaluation.lm_eval_samples.rows import Average, Declared, DeclaredGroup, Sample
from harness.evaluation.tasks.lm_eval.tasks import groups
from harness.evaluation.tasks.sample_rows import right_probability
from harness.system.security.time_limit import TEMPLATE_SECONDS, time_limit

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks.manager import TaskDict

Aggregation = Callable[[Sequence[Item]], object]
"""A task's figure from the items of its questions."""


@dataclass
class Guarded(Mapping[str, Aggregation]):
    """A task's aggregation functions, none of which ends the evaluation of all tasks.

    One that raises is tried again on the questions that have a value; where it raises again its
    figure is NaN and `errors` says why. A metric without a function has lm-eval's mean.
    """

    functions: Mapping[str, Aggregation]
    errors: dict[str, str] = field(default_factory=dict)
    """Metric -> what its aggregation raised."""

    def name(self, metric: str) -> str:
        """The name that lm-eval registers a metric's aggregation by; its own where it has none."""
        from lm_eval.api import registry

        function = self.functions.get(metric)
        if function is None:
            return "mean"
        for name in BY_NAME:
            if registry.get_aggregation(name) is function:
                return name
        return str(getattr(function, "__name__", type(function).__name__))

    def __getitem__(self, metric: str) -> Aggregation:
        from lm_eval.api.metrics import mean

        function = self.functions.get(metric, mean)

        def aggregate(items: Sequence[Item]) -> object:
            try:
                return function(items)
            except Exception:
                try:
                    return function([item for item in items if item is not None])
                except Exception as error:
                    reason = " ".join(str(error).split())[:200]
                    self.errors[metric] = f"{type(error).__name__}: {reason}"
                    return math.nan

        return aggregate

    def __iter__(self) -> Iterator[str]:
        return iter(self.functions)

    def __len__(self) -> int:
        return len(self.functions)


FILTER_SECONDS = 0.05
"""For an answer: a task's patterns match thousands in a second, unless they backtrack for ever."""


def guard(task: Task) -> Guarded:
    """Let no aggregation of a task raise, and no filter run for ever; its guarded functions."""
    guarded = Guarded(task.aggregation())
    task.aggregation = lambda: guarded
    apply = task.apply_filters

    def limited() -> object:
        seconds = max(TEMPLATE_SECONDS, FILTER_SECONDS * len(task._instances or ()))
        with time_limit(seconds, f"a filter of the task '{task.config.task}'"):
            return apply()

    task.apply_filters = limited
    return guarded


def declared(task: Task) -> Declared:
    """What a task says of its metrics."""
    functions = task.aggregation()
    guarded = functions if isinstance(functions, Guarded) else Guarded(functions)
    config = getattr(task, "config", None)
    # A task that reads its own figures out of the log-probabilities has its own idea of what is
    # right: TruthfulQA's mc2 has several right answers under one target.
    chooses = task.OUTPUT_TYPE == "multiple_choice"
    chooses = chooses and not getattr(config, "process_results", None)
    return Declared(
        better=task.higher_is_better(),
        aggregation=guarded.name,
        errors=guarded.errors,
        right=(lambda sample: _right_choice(task, sample)) if chooses else None,
    )


def declared_groups(tasks: TaskDict) -> list[DeclaredGroup]:
    """lm-eval's groups (`mmlu` ...) among the tasks, with what they average."""
    return [
        DeclaredGroup(
            name,
            members,
            [
                Average(listed.metric, listed.filter_list, listed.weight_by_size)
                for listed in tasks["groups"][name].aggregate_metric_list or []
            ],
        )
        for name, members in groups(tasks).items()
    ]


def _right_choice(loaded: Task, sample: Sample) -> float | None:
    """Probability of what lm-eval counts as right for `acc`; None where it is no choice."""
    choices = loaded.doc_to_choice(sample["doc"])
    logprobs = [float(logprob) for logprob, _ in sample["filtered_resps"]][: len(choices)]
    several = getattr(loaded, "multiple_input", 0)
    gold = (loaded.doc_to_text if several else loaded.doc_to_target)(sample["doc"])
    right = [
        choices.index(one) if isinstance(one, str) and one in choices else one
        for one in (gold if isinstance(gold, list) else [gold])
    ]
    known = all(isinstance(one, int) and 0 <= one < len(choices) for one in right)
    return right_probability(logprobs, right) if right and known else None
