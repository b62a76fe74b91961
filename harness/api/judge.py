"""A judge: rates answers with a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.api.tools import Tools
from harness.types import Bounds, Output, Sample


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
