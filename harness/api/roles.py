"""What plugins other than methods are made of: scorers, judges, executors, trackers."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.errors import EnvironmentLack
from harness.types import ModelRef, Output, Sample

if TYPE_CHECKING:
    from harness.config.strict_yaml import StrictModel
    from harness.models.language_model import LanguageModel


class Tools(Protocol):
    """What the worker lends to scorers and judges; each is opened when first asked for."""

    def embed(self, texts: Sequence[str]) -> Any:
        """(texts, dimensions) float32 unit vectors of the suite's embedder."""

    def judge_model(self) -> LanguageModel:
        """The model that judges."""

    def progress(self, done: int, total: int) -> None:
        """Feeds the live progress."""


@dataclass(frozen=True)
class Scorer:
    """A function that rates answers, with the name of its metric."""

    name: str
    rate: Callable[..., Sequence[float | None]]
    """`rate(outputs, samples, tools, **options)`; its keyword-only parameters are its options."""
    kind: Literal["mean", "share"] = "mean"
    higher_is_better: bool = True
    version: int = 1
    """Raise it when the same answer would get another score: it is part of the suite's hash."""
    embeds: bool = False
    """Whether it calls `Tools.embed`, so that the suite's embedder must be there."""
    needs_reference: bool = False
    """Whether a sample without a reference is refused before anything runs."""
    check: Callable[..., None] | None = None
    """`check(samples, **options)` raises UserError for what cannot be scored."""
    version_beyond_ascii: int | None = None
    """Counts in place of `version` for a suite with a reference that has letters beyond ASCII,
    where answers to such references alone would get another score."""

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The options: keyword-only parameters of the function."""
        return [
            parameter
            for parameter in inspect.signature(self.rate).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]

    @property
    def models(self) -> list[str]:
        """Options annotated ModelRef: named in the suite, resolved before anything runs."""
        return [p.name for p in self.parameters if p.annotation in (ModelRef, "ModelRef")]

    def options_model(self) -> type[StrictModel]:
        """What checks the options; one without a default is required."""
        from pydantic import create_model

        from harness.config.strict_yaml import StrictModel

        fields: dict[str, Any] = {}
        for parameter in self.parameters:
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            kind = str if parameter.name in self.models else kind
            required = parameter.default is parameter.empty
            fields[parameter.name] = (kind, ... if required else parameter.default)
        home = inspect.unwrap(self.rate).__module__  # where text annotations are looked up
        title = f"Options of {self.name}"
        return create_model(title, __base__=StrictModel, __module__=home, **fields)


def scorer(
    name: str,
    *,
    kind: Literal["mean", "share"] = "mean",
    higher_is_better: bool = True,
    version: int = 1,
    batch: bool = False,
    embeds: bool = False,
    needs_reference: bool = False,
    check: Callable[..., None] | None = None,
    version_beyond_ascii: int | None = None,
) -> Callable[[Callable[..., Any]], Scorer]:
    """Make a scorer of a function.

    The function gets an answer's text and its Sample and returns a number, or None where the
    sample cannot be scored; with `batch=True` it gets all outputs, all samples and the Tools,
    and returns a list. Its keyword-only parameters are the options that a suite may set, checked
    by their annotations; one annotated ModelRef is a model's name there and resolved here.

    `kind="share"` says that scores are 0 or 1; `embeds=True` that it calls `Tools.embed`;
    `needs_reference=True` that a sample without a reference is an error. `check(samples,
    **options)` is called before anything runs and raises UserError for what cannot be scored.
    """

    def make(function: Callable[..., Any]) -> Scorer:
        @functools.wraps(function)
        def each(
            outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools, **options: Any
        ) -> list[float | None]:
            pairs = zip(outputs, samples, strict=True)
            return [function(output.text, sample, **options) for output, sample in pairs]

        rate = function if batch else each
        made = Scorer(
            name,
            rate,
            kind,
            higher_is_better,
            version,
            embeds,
            needs_reference,
            check,
            version_beyond_ascii,
        )
        taken = {"name", "label"} & {parameter.name for parameter in made.parameters}
        if taken:
            raise TypeError(f"scorer '{name}': no option may be called '{taken.pop()}'")
        return made

    return make


@dataclass(frozen=True)
class Judgement:
    """A judge's scores, one per sample (None where it gave no verdict), and facts about them."""

    scores: Sequence[float | None]
    notes: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class Judge:
    """Rates answers with a language model. Subclass it and set `name`."""

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def judge(
        self,
        outputs: Sequence[Output],
        samples: Sequence[Sample],
        *,
        rubric: str,
        tools: Tools,
    ) -> Judgement:
        """Scores of the answers under the rubric."""
        raise NotImplementedError


class Executor:
    """Where cells run. Subclass it and set `name`."""

    name: ClassVar[str]

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, Any]]:
        """Run `python -m harness.runner.worker job_file` and yield the events that it reports.

        The last event is `{"event": "exit", "code": int}`. Closing the generator stops the worker.
        """
        raise NotImplementedError


class Tracker:
    """Writes cells down for a tool that draws them. Subclass it, set `name`, write what it needs.

    Everything is called in the parent process, for the trackers that the user chose by name. The
    cells of a run start and finish one after another.
    """

    name: ClassVar[str]
    needs: ClassVar[str] = ""
    """The module that it cannot do without; imported in `open`, not at the top."""
    install: ClassVar[str] = ""
    """What pip installs for it; by default the module's name."""

    def check(self) -> None:
        """Raise EnvironmentLack where what it needs is not installed."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            command = f'pip install "{self.install or self.needs}"'
            raise EnvironmentLack(f"tracker '{self.name}' needs {self.needs}: {command}")

    def open(self, experiment: str, folder: Path) -> None:
        """Called before the first cell runs; files on this machine belong under `folder`."""

    def start(self, cell: str, settings: Mapping[str, str | int | float | bool]) -> None:
        """A cell starts: its model, method, options, data, budget and seed."""

    def log(self, cell: str, step: int, values: Mapping[str, float]) -> None:
        """A step of training: `train/loss`, `train/validation_loss`, `train/grad_norm` ..."""

    def finish(self, cell: str, status: str, values: Mapping[str, float]) -> None:
        """A cell is recorded: `suites/<suite>/<metric>`, `phases/<phase>/seconds` and the like."""

    def close(self) -> str:
        """Called after the last cell, also where a cell was cut off; how to look at the result."""
        return ""

    def event(self, cell: str, event: Mapping[str, Any]) -> None:
        """Called for every event of every cell, before `start`, `log` and `finish`."""
