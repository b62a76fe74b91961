"""What plugins other than methods are made of: scorers, judges, executors, trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.types import Output, Sample

if TYPE_CHECKING:
    from harness.model import LanguageModel


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
    rate: Callable[[Sequence[Output], Sequence[Sample], Tools], Sequence[float | None]]
    kind: Literal["mean", "share"] = "mean"
    higher_is_better: bool = True
    version: int = 1
    """Raise it when the same answer would get another score: it is part of the suite's hash."""
    embeds: bool = False
    """Whether it calls `Tools.embed`, so that the suite's embedder must be there."""


def scorer(
    name: str,
    *,
    kind: Literal["mean", "share"] = "mean",
    higher_is_better: bool = True,
    version: int = 1,
    batch: bool = False,
    embeds: bool = False,
) -> Callable[[Callable[..., Any]], Scorer]:
    """Make a scorer of a function.

    The function gets an answer's text and its Sample and returns a number, or None where the
    sample cannot be scored; with `batch=True` it gets all outputs, all samples and the Tools,
    and returns a list. `kind="share"` says that scores are 0 or 1; `embeds=True` that it calls
    `Tools.embed`.
    """

    def make(function: Callable[..., Any]) -> Scorer:
        def each(
            outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools
        ) -> list[float | None]:
            return [function(o.text, s) for o, s in zip(outputs, samples, strict=True)]

        rate = function if batch else each
        return Scorer(name, rate, kind, higher_is_better, version, embeds)

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
