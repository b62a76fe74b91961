"""A judge: rates answers with a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from harness.api.model import Progress
from harness.api.tools import Tools
from harness.types import Bounds, Message, Output, Sample

NoVerdict = Literal["empty", "refused", "truncated", "unparseable", "not_finite", "no_reply"]
"""Why a question to a judge has no verdict."""


@dataclass(frozen=True)
class Question:
    """What a judge is asked once: a conversation that ends in one of a few words."""

    messages: Sequence[Message]
    choices: Sequence[str]
    """The verdicts that count, such as `1` to `5` or `A` and `B`, without spaces around them."""
    start: str = ""
    """What the judge's answer begins with where the backend can say so, such as `Score:`."""


@dataclass(frozen=True)
class Reply:
    """What a judge answered to one question."""

    weights: Mapping[str, float] | None
    """Probability of each choice, not normalised (their sum is the mass on valid verdicts); the
    share of samples where the backend gives no log-probabilities. None without a verdict."""
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
    notes: Mapping[str, Any] = field(default_factory=dict)
    """For the record, beside who judged; JSON values."""
    warnings: Sequence[str] = ()
    not_finite: int = 0
    """Answers without a score because the judge's log-probabilities are not finite. More than 5 %
    of them fail the suite: the judge's weights are broken."""


class Judge:
    """Rates answers with a language model. Subclass it, set `name` and write `judge`."""

    name: ClassVar[str]
    """What a suite's `judge: {name: ...}` says."""
    version: ClassVar[int] = 1
    """Raise it with every change of the prompt: it is part of the suite's hash."""
    bounds: ClassVar[Bounds | None] = None
    """The least and the greatest score, which intervals do not leave."""

    def judge(
        self,
        outputs: Sequence[Output],
        samples: Sequence[Sample],
        *,
        rubric: str,
        tools: Tools,
    ) -> Judgement:
        """Scores of the answers under the rubric, one for each, None where there is no verdict.

        `tools.judge_model()` is the model that judges; `harness.encode_chat` and
        `harness.encode_continuations` make its prompts.
        """
        raise NotImplementedError
