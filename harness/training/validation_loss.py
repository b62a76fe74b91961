"""The loss of an artifact on the validation rows, by which tuning compares trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.api.model import Model, Progress
from harness.data.tokenization import IGNORED, encode_row
from harness.errors import CellFailed, UserError
from harness.manager import plugins
from harness.types import Artifact, Row


def validation_loss(
    artifact: Artifact,
    rows: Sequence[Row],
    *,
    max_length: int,
    loss: str,
    batch: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """`loss` (mean nats over all counted tokens of all rows), `tokens` and `rows`.

    The artifact is opened as it is for suites, so that the figure is the same kind for every
    method, whatever it trains with. Rows are encoded and cut as in training; `batch` is the most
    of them at once. Raises UserError where no token counts, CellFailed (status `diverged`) where
    the loss is not finite.
    """
    model = plugins().open_model(artifact, batch)
    try:
        # The last token is only predicted, so a row of one more than the model's length fits.
        length = min(max_length, model.max_length + 1)
        parts = [
            part
            for row in rows
            if (part := _counted(model, row, max_length=length, loss=loss)) is not None
        ]
        scores = model.loglikelihood([pair for pair, _ in parts], progress) if parts else []
    finally:
        model.close()
    nats = [
        -logprob
        for score, (_, counts) in zip(scores, parts, strict=True)
        for logprob, counted in zip(score.token_logprobs, counts, strict=True)
        if counted
    ]
    if not nats:
        raise UserError("no validation row has a token under the loss: raise budget.max_length")
    mean = math.fsum(nats) / len(nats)
    if not math.isfinite(mean):
        raise CellFailed("the validation loss is not finite", status="diverged")
    return {"loss": mean, "tokens": len(nats), "rows": len(parts)}


def _counted(
    model: Model, row: Row, *, max_length: int, loss: str
) -> tuple[tuple[list[int], list[int]], list[bool]] | None:
    """(context, continuation) from the first counted token on, and which of the latter count.

    Nothing predicts a row's first token. None where no token counts.
    """
    encoded = encode_row(
        model.tokenizer,
        row,
        max_length=max_length,
        loss=loss,
        chat_template=model.chat_template,
    )
    counts = [label != IGNORED for label in encoded.labels]
    start = next((i for i, counted in enumerate(counts) if counted and i > 0), None)
    if start is None:
        return None
    return (encoded.input_ids[:start], encoded.input_ids[start:]), counts[start:]
