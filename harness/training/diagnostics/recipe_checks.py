"""The checks at the points of the shared recipe where what they check is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.data.tokenization import IGNORED, Encoded
from harness.errors import CellFailed, is_out_of_memory
from harness.training.diagnostics import loss_curve as curves
from harness.training.diagnostics import token_rows as checks
from harness.training.diagnostics import trainable_share
from harness.training.diagnostics.findings import tell
from harness.types import Job, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from harness.training.trainer import Trainer

__all__ = ["Monitor", "after_encoding", "after_training", "before_training"]

LOOKS = 4
"""How often in a run the trend of the loss is looked at."""


def after_encoding(
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Encoded],
    sources: Sequence[Row],
) -> None:
    """What the tokens of the rows say."""
    by_id = {row.id: row for row in sources}
    tell(
        job,
        [
            checks.cut(rows, job.budget.max_length),
            checks.nothing_to_learn(rows),
            checks.unknown_markers(job.chat_template, tokenizer),
            checks.no_beginning(rows, by_id, tokenizer),
            *checks.doubled(rows, tokenizer),
            checks.end_not_learnt(rows, tokenizer),
        ],
    )


def before_training(
    job: Job, trainer: Trainer, rows: Sequence[Encoded], parameters: tuple[int, int]
) -> None:
    """What the trainer made of the rows and of the model.

    `rows` are in the order of training, `parameters` those that are trained, and all.
    """
    first = range(min(len(rows), trainer.args.per_device_train_batch_size))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in first])
    labels = batch["labels"].tolist()
    tell(
        job,
        [
            checks.masked_ends([rows[i] for i in first], labels, trainer.processing_class),
            trainable_share.few_trainable(*parameters),
        ],
    )


class Monitor:
    """Looks at each point of the loss curve as it comes."""

    def __init__(self, job: Job, curve: Sequence[Mapping[str, float]]) -> None:
        self._job, self._curve = job, curve

    def stop_where_not_finite(self, point: Mapping[str, float], step: int) -> None:
        """Raise CellFailed with status `diverged` where a value of `point` is not finite."""
        if finding := curves.not_finite(point, step):
            tell(self._job, [finding])
            raise CellFailed(finding.message, status="diverged")

    def check(self) -> None:
        """At the curve's newest point."""
        step, steps = self._curve[-1]["step"], self._job.budget.steps
        trend = "loss" in self._curve[-1] and step % max(1, steps // LOOKS) == 0
        tell(
            self._job,
            [
                curves.gradient_spike(self._curve),
                curves.rising(self._curve) if trend else None,
                curves.overfitting(self._curve),
            ],
        )


def after_training(job: Job, trainer: Trainer) -> None:
    """Whether the rows of the first step have a lower loss now than they had before."""
    losses = [point["loss"] for point in job.training["loss_curve"] or [] if "loss" in point]
    if len(losses) < curves.FEWEST_STEPS:
        return
    with job.phase("check"):
        after = _loss_of_first_step(job, trainer)
    if after is not None:
        tell(job, [curves.not_falling(losses[0], after, job.budget.steps)])


def _loss_of_first_step(job: Job, trainer: Trainer) -> float | None:
    """Mean over the tokens, row by row; None where that does not fit into the memory."""
    import torch

    total, tokens = 0.0, 0
    trainer.model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            for i in range(job.budget.batch):
                row = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i]]))
                counted = int((row["labels"][:, 1:] != IGNORED).sum())
                total += float(trainer.compute_loss(trainer.model, row)) * counted
                tokens += counted
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    return total / tokens if tokens else None
