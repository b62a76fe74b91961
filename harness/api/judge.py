"""A judge: rates answers with a language model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field
from typing_extensions import Self

from harness.api.model import Progress
from harness.api.tools import Tools
from harness.config.strict_yaml import StrictModel
from harness.types import Bounds, Message, Metric, Output, Sample

NoVerdict = Literal[
    "empty", "refused", "truncated", "unparseable", "low_mass", "not_finite", "no_reply"
]
"""Why a question to a judge has no verdict. `low_mass`: the verdicts that count are together less
likely than the judge asks for."""


@dataclass(frozen=True)
class Question:
    """What a judge is asked once: a conversation that ends in one of a few words."""

    messages: Sequence[Message]
    choices: Sequence[str]
    """The verdicts that count, such as `1` to `5` or `A` and `B`, without spaces around them."""
    start: str = ""
    """What the judge's answer begins with where the backend can say so, such as `Score:`."""
    literal: bool = True
    """Whether the messages' texts are text alone: a special token of the judge's that one of them
    spells, such as `<|im_end|>`, must not be read as that token."""


@dataclass(frozen=True)
class Reply:
    """What a judge answered to one question."""

    weights: Mapping[str, float] | None
    """Probability of each choice, not normalised (their sum is the mass on valid verdicts); the
    share of samples where the backend gives no log-probabilities. None where nothing was read;
    beside a `missing` they are kept, and are no verdict."""
    missing: NoVerdict | None = None
    """Why there is no verdict; None where there is one."""
    text: str = ""
    """What it wrote, where it wrote something."""


class JudgeBackend(Protocol):
    """Where a judging model runs: in this process, or behind an OpenAI-compatible endpoint."""

    def ask(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Reply]:
        """The replies, in the questions' order; one without a verdict says why."""

    def info(self) -> Mapping[str, Any]:
        """For the record: model, backend, counts of asked, retried and missing, and the cost.

        JSON values, never a key or a header.
        """


@dataclass(frozen=True)
class Judgement:
    """A judge's scores, one per sample (None where it gave no verdict), and facts about them."""

    scores: Sequence[float | None]
    """Of the first of its metrics."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """For the record, beside who judged; JSON values."""
    warnings: Sequence[str] = ()
    not_finite: int = 0
    """Answers without a score because the judge's log-probabilities are not finite. More than 5 %
    of them fail the suite: the judge's weights are broken."""
    more: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Scores of its other metrics, by name."""
    missing: Sequence[NoVerdict | None] = ()
    """Why each sample has no score, None where it has one; empty for a judge that does not say.
    They are counted, and more of them than the suite's `max_missing` fail it."""
    rows: Sequence[Mapping[str, Any]] = ()
    """What the sample file keeps of each verdict under `judge`, as JSON values; or empty."""


class JudgeOptions(StrictModel):
    """A judge's own keys in a suite's `judge:`, beside `name` and `model`.

    Fields are annotated; a subclass adds its own, and may give `rubric` a default.
    """

    rubric: str = Field(min_length=1)
    """What the scores mean."""


class Judge:
    """Rates answers with a language model. Subclass it, set `name` and write `judge`."""

    name: ClassVar[str]
    """What a suite's `judge: {name: ...}` says."""
    version: ClassVar[int] = 1
    """Raise it with every change of the prompt: it is part of the suite's hash."""
    bounds: ClassVar[Bounds | None] = None
    """The least and the greatest score, which intervals do not leave."""
    Options: ClassVar[type[JudgeOptions]] = JudgeOptions
    """The keys that a suite may set."""
    options: Any
    """A suite's `Options`, once it has them by `with_options`."""

    def with_options(self, options: Mapping[str, object]) -> Self:
        """The judge as one suite sets it: a copy with its `options`, checked.

        Raises pydantic.ValidationError for options that are none; a suite's are checked before.
        """
        own = copy.copy(self)
        own.options = self.Options.model_validate(dict(options))
        return own

    def check(self, samples: Sequence[Sample]) -> None:
        """Raise UserError for samples that cannot be judged by `options`, before anything runs."""

    @property
    def asks_base(self) -> bool:
        """Whether it calls `Tools.base_answers`: the base is then part of the suite's hash."""
        return False

    @property
    def asks_row(self) -> str | None:
        """The row whose answers it gets by `Tools.row_answers`: its label, or its record's file.

        A label is one of the experiment; a file's name ends in `.json`. None: no row's.
        """
        return None

    def comparing(self) -> Self | None:
        """The judge as it compares answers with those of `Tools.base_answers`.

        None for one that rates single answers. What certifies a judge lends it the other answer of
        each labelled pair, and reads `preferred` of `Judgement.rows`: `first` and `second`, how far
        the answer was preferred, 0 to 1, shown first and shown second.
        """
        return self if self.asks_base else None

    def metrics(self) -> Sequence[Metric]:
        """Its metrics by `options`, the one of `Judgement.scores` first."""
        return [Metric("score", True, bounds=self.bounds)]

    def judge(
        self,
        outputs: Sequence[Output],
        samples: Sequence[Sample],
        *,
        rubric: str,
        tools: Tools,
    ) -> Judgement:
        """Scores of the answers under the rubric, one for each, None where there is no verdict.

        `tools.judge_backend().ask(...)` asks whichever model judges, here or behind an endpoint.
        `tools.judge_model()` is a model in this process, for what a Question cannot say;
        `harness.encode_chat` and `harness.encode_continuations` make its prompts.
        """
        raise NotImplementedError
