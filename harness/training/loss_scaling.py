"""fp16's loss scaling as it ran: steps that were skipped, and the last scale.

fp16 has no number below 6e-8, so small gradients would be zero. The loss is multiplied by a scale
before the backward pass, the gradients are divided by it before they are used; where they
overflow, the step is skipped and the scale halved (Micikevicius et al. 2018, arXiv 1710.03740,
section 3.2). The scaler is torch's, set up by accelerate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.types import Job

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer

FEW = 0.05
"""Share of the steps up to which skipped ones are no warning: finding the scale takes a few."""


class LossScaling:
    """Counts the skipped steps of a job into its notes."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.skipped_last = False
        """Whether the last step was skipped."""

    def after_step(self, optimizer: AcceleratedOptimizer) -> None:
        """Called after each optimizer step of an fp16 training."""
        self.skipped_last = bool(optimizer.step_was_skipped)
        notes = self._job.training
        notes["skipped_steps"] = (notes.get("skipped_steps") or 0) + self.skipped_last
        if optimizer.scaler is not None:
            notes["loss_scale"] = float(optimizer.scaler.get_scale())


def warn_of_skipped(job: Job) -> None:
    """Warn where so many steps were skipped that the training is shorter than the budget says."""
    skipped = job.training.get("skipped_steps") or 0
    if skipped > FEW * job.budget.steps:
        job.warn(
            f"precision fp16: {skipped} of {job.budget.steps} steps changed nothing, as their "
            "gradients overflowed: lower the learning rate, or take precision float32"
        )
