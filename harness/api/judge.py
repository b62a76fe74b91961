"""A judge: rates answers with a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.api.tools import Tools
from harness.types import Output, Sample


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
