"""What the worker lends to scorers and judges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from harness.api.model import Model

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.api.judge import JudgeBackend


class Tools(Protocol):
    """What the worker lends to scorers and judges; each is opened when it is first used."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(texts, dimensions) float32 unit vectors of the suite's embedder."""

    def judge_model(self) -> Model:
        """The model that judges. The model under test may be closed to make room for it."""

    def judge_backend(self) -> JudgeBackend:
        """What answers a judge's questions: the model that judges, wherever it runs."""

    def base_answers(self) -> Sequence[str]:
        """What the untouched base answers to the suite's samples, in their order.

        The model under test may be closed to make room for it.
        """

    def row_answers(self) -> Sequence[str]:
        """What the row of `Judge.asks_row` answered to the suite's samples, in their order.

        Raises UserError or CellFailed where there are no such answers.
        """

    def progress(self, done: int, total: int) -> None:
        """Feeds the live progress."""
