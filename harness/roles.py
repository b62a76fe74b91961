"""What plugins other than methods are made of: scorers, judges, executors, trackers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.types import ModelRef, Output, Sample

if TYPE_CHECKING:
    from harness.model import LanguageModel
    from harness.yamlfile import StrictModel


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

        from harness.yamlfile import StrictModel

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
        made = Scorer(name, rate, kind, higher_is_better, version, embeds, needs_reference, check)
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
        """Run `python -m harness.worker job_file` and yield the events that it reports.

        The last event is `{"event": "exit", "code": int}`. Closing the generator stops the worker.
        """
        raise NotImplementedError


class Tracker:
    """Is told what happens. Subclass it and set `name`."""

    name: ClassVar[str]

    def event(self, cell: str, event: Mapping[str, Any]) -> None:
        """Called in the parent process for every event of every cell."""
