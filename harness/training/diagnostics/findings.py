"""Findings of health checks: what is wrong with a training, by name, with what to do about it.

`token_rows` checks the tokens, `trainable_share` what is trained, `loss_curve` losses and
gradient norms, `options` what the user set. Each check is a function of plain values that
returns findings; `recipe_checks` calls them at the points of the shared recipe where the values are
known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.record import Training
from harness.types import Job

__all__ = ["PREFIX", "Finding", "keep", "tell"]

PREFIX = "health."
"""Begins every warning of a health check: `health.<name>: <message>`."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a training."""

    name: str
    """What it is called, such as `rows_cut`: the same in every record."""
    message: str
    """What was seen, what follows from it and how to mend it, in one line."""
    step: int | None = None
    """Optimizer step at which it was seen; None before and after the training."""

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}: {self.message}"


def keep(training: Training, findings: Iterable[Finding]) -> list[Finding]:
    """Add findings to the record's `training.health`; those of a name that was not there yet."""
    kept = training.setdefault("health", [])
    new = []
    for finding in findings:
        if finding.name not in {known["name"] for known in kept}:
            kept.append({"name": finding.name, "message": finding.message, "step": finding.step})
            new.append(finding)
    return new


def tell(job: Job, findings: Iterable[Finding | None]) -> None:
    """Findings into the record, its warnings and onto the screen: each name once."""
    for finding in keep(job.training, [one for one in findings if one]):
        job.warn(str(finding))
