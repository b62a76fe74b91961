"""The search of tuning: the experiment's `tune` block, and the space of each method.

Every method that trains gets the same number of trials, of the same steps, over its own space, and
may add as many where its best value has none beyond it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.api.method import Method, MethodOptions
from harness.config import strict_yaml
from harness.config.tuning import Choices, Range
from harness.errors import UserError, nearest
from harness.types import Budget, ModelRef

if TYPE_CHECKING:
    from harness.config.experiment import Experiment
    from harness.manager import Plugins

SEARCHED = "lr"
"""The option searched where a method's entry has no `tune`: one dimension, the same for all."""
USUAL = "usual"


@dataclass(frozen=True)
class Search:
    """The search for the options of one method."""

    trials: int
    budget: Budget
    """Of each trial."""
    seed: int
    objectives: tuple[str, ...]
    space: Mapping[str, Mapping[str, Any]]
    """Option -> {low, high, log}, both bounds int for whole numbers, or {choices}."""
    extend: int = 0
    """Most trials that may follow, beyond the values tried; see `runner.tuning.bracketing`."""
    bounds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Option -> what it takes at all: any of ge, gt, le and lt. No id depends on it."""

    def may_extend(self, option: str) -> bool:
        """Whether trials may go beyond an option's range: not where its values are listed.

        Nor with whole numbers: ranks and numbers of tokens are sizes, whose memory was predicted.
        """
        where = self.space[option]
        return "choices" not in where and not isinstance(where["low"], int)

    @property
    def most(self) -> int:
        """The largest number of trials that the search can come to."""
        return self.trials + (self.extend if any(map(self.may_extend, self.space)) else 0)

    def ends(self) -> list[tuple[str, object]]:
        """(option, value) of every bound and choice."""
        return [
            (option, value)
            for option, dimension in self.space.items()
            for value in dimension.get("choices") or (dimension["low"], dimension["high"])
        ]

    def as_record(self) -> dict[str, object]:
        """As in a cell's id and record; apart from the steps, the budget is the cell's."""
        return {
            "number_of_trials": self.trials,
            "extend": self.extend,
            "steps": self.budget.steps,
            "seed": self.seed,
            "objectives": list(self.objectives),
            "space": {option: dict(dimension) for option, dimension in self.space.items()},
        }


def plan_searches(
    experiment: Experiment, plugins: Plugins, chosen: Mapping[str, MethodOptions], budget: Budget
) -> dict[str, Search | None]:
    """Label -> its search, for the labels in `chosen`; None where nothing of it is tuned.

    An option that the entry sets is searched only where its `tune` names it. Raises ConfigError
    with the place in the file.
    """
    return {
        entry.label: _search(
            experiment, at, plugins.methods.get(entry.name), chosen[entry.label], budget
        )
        for at, entry in enumerate(experiment.methods)
        if entry.label in chosen
    }


def _search(
    experiment: Experiment, at: int, method: Method, options: MethodOptions, budget: Budget
) -> Search | None:
    tune, entry = experiment.tune, experiment.methods[at]
    place = ("methods", at, "tune")
    if entry.tune is not None and tune is None:
        raise experiment.error(
            f"method '{entry.label}' has a `tune`, and the experiment has no `tune` block: "
            "add `tune: {trials: 8}`",
            *place,
        )
    if entry.tune is not None and not method.trains:
        raise experiment.error(f"method '{entry.label}' trains nothing to tune", *place)
    if tune is None or not method.trains:
        return None
    if experiment.data is None or experiment.data.validation is None:
        raise experiment.error(
            "tune compares trials on validation rows: set data.validation, such as 0.1", "tune"
        )
    space = _Reader(experiment, at, type(options), budget.precision).space()
    if not space:
        return None
    return Search(
        trials=tune.trials,
        budget=dataclasses.replace(budget, steps=tune.steps or budget.steps),
        seed=experiment.seeds[0] if tune.seed is None else tune.seed,
        objectives=tune.objectives,
        space=space,
        extend=tune.extend,
        bounds={option: _bounds(type(options), option) for option in space},
    )


def _bounds(options: type[MethodOptions], option: str) -> dict[str, float]:
    """The bounds of an option's field: any of ge, gt, le and lt."""
    return {
        kind: getattr(bound, kind)
        for bound in options.model_fields[option].metadata
        for kind in ("ge", "gt", "le", "lt")
        if hasattr(bound, kind)
    }


@dataclass(frozen=True)
class _Reader:
    """Reads the space of a method entry; validates every bound and choice as an option."""

    experiment: Experiment
    at: int
    options: type[MethodOptions]
    precision: str

    def space(self) -> dict[str, dict[str, object]]:
        entry = self.experiment.methods[self.at]
        wanted: list[str] | Mapping[str, Any] | None = entry.tune
        if wanted is None:
            if SEARCHED in entry.options:
                return {}
            if SEARCHED not in self.options.usual_ranges():
                raise self.experiment.error(
                    f"method '{entry.label}' has no usual range of '{SEARCHED}' to tune in: write "
                    "`tune: {option: {low: ..., high: ...}}`, or `tune: []`",
                    "methods",
                    self.at,
                )
            wanted = [SEARCHED]
        if isinstance(wanted, list):
            for index, option in enumerate(wanted):
                self.check_option(option, index)
            wanted = dict.fromkeys(wanted, USUAL)
        return {option: self.dimension(option, spec) for option, spec in wanted.items()}

    def error(self, message: str, *key: str | int) -> Exception:
        return self.experiment.error(message, "methods", self.at, "tune", *key)

    @property
    def title(self) -> str:
        return f"method '{self.experiment.methods[self.at].label}'"

    def check_option(self, option: str, key: str | int) -> None:
        if option not in self.options.model_fields:
            hint = nearest(option, self.options.model_fields)
            raise self.error(f"unknown option '{option}' to tune of {self.title}: {hint}", key)

    def dimension(self, option: str, spec: Any) -> dict[str, object]:
        """One option's part of the space."""
        self.check_option(option, option)
        if isinstance(spec, list):
            return {"choices": self.choices(option, spec)}
        usual = self.options.usual_ranges().get(option)
        if spec == USUAL:
            if usual is None:
                raise self.error(
                    f"option '{option}' of {self.title} has no usual range: write "
                    f"`{option}: {{low: ..., high: ...}}` or a list of values",
                    option,
                )
            spec = Range(**usual)
        log = bool(usual and usual["log"]) if spec.log is None else spec.log
        low, high = (self.number(option, bound) for bound in (spec.low, spec.high))
        if low >= high or (log and low <= 0):
            need = "low must be below high" if low >= high else "low must be above 0 for log: true"
            raise self.error(f"{option} of {self.title}: {need}, got {low} to {high}", option)
        return {"low": low, "high": high, "log": log}

    def number(self, option: str, bound: object) -> float:
        number = self.validated(option, bound)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise self.error(f"{option} of {self.title} is not a number: list its values", option)
        return number

    def choices(self, option: str, values: Choices) -> list[object]:
        if not values:
            raise self.error(f"{option} of {self.title}: nothing to choose from", option)
        return list(dict.fromkeys(self.validated(option, value) for value in values))

    def validated(self, option: str, value: object) -> Any:
        """A value as the method's options hold it. Raises ConfigError where they refuse it."""
        entry = self.experiment.methods[self.at]
        options = strict_yaml.validate_options(
            self.options,
            {**entry.options, option: value},
            self.experiment.located,
            ("methods", self.at, "tune"),
            what=self.title,
        )
        try:
            options.check(self.precision)
        except UserError as error:
            raise self.error(f"{option}: {value} of {self.title}: {error}", option) from None
        validated = getattr(options, option)
        if isinstance(validated, ModelRef):
            raise self.error(f"{option} of {self.title} names a model: give it labels", option)
        return validated
