"""What training tries after it ran out of memory: smaller micro-batches, then checkpointing.

Each attempt is a separate process, so nothing of a failed one is left in memory, and a worker
that the system killed is retried like one that could still report its error. The effective
batch stays, and with it the result up to rounding: the loss is a mean over the tokens of the whole
batch, however many passes it takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.record import Attempt, Phase, Training
from harness.types import Budget

RETRIES = "oom_retries"
"""The phase that holds the seconds of failed attempts."""

_INDEPENDENT_OF_BATCH = frozenset({"load", "prepare", "checkpoint", "save"})
"""Phases whose memory no micro-batch makes smaller."""


@dataclass(frozen=True)
class Rung:
    """How one attempt splits the effective batch."""

    micro_batch: int | None = None
    """Rows per forward pass; None: as the budget says."""
    gradient_checkpointing: bool = False
    """Switched on here; False leaves it as the method's options have it."""

    def budget(self, budget: Budget) -> Budget:
        """The budget with this rung's micro-batch."""
        if self.micro_batch is None:
            return budget
        return dataclasses.replace(budget, micro_batch=self.micro_batch)

    def options(self, options: Mapping[str, object]) -> dict[str, object]:
        """A method's options with this rung's gradient checkpointing."""
        more = {"gradient_checkpointing": True} if self.gradient_checkpointing else {}
        return {**options, **more}


@dataclass(frozen=True)
class Split:
    """How a training split the effective batch, as it ran."""

    micro_batch: int
    """Rows per forward pass."""
    gradient_checkpointing: bool

    def __str__(self) -> str:
        checkpointed = " and gradient checkpointing" if self.gradient_checkpointing else ""
        return f"micro_batch {self.micro_batch}{checkpointed}"


def failed_attempt(
    split: Split, *, phase: str | None, error: str, phases: Mapping[str, Phase]
) -> Attempt:
    """An item of a record's `training.ladder`: what ran, where it failed, what it cost."""
    return {
        "micro_batch": split.micro_batch,
        "gradient_checkpointing": split.gradient_checkpointing,
        "phase": phase,
        "error": error,
        "seconds": sum(p["seconds"] or 0 for p in phases.values()),
        "peak_allocated_bytes": _largest(p.get("peak_allocated_bytes") for p in phases.values()),
        "peak_reserved_bytes": _largest(p.get("peak_reserved_bytes") for p in phases.values()),
        "peak_host_bytes": _largest(p.get("peak_host_bytes") for p in phases.values()),
    }


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def lower(attempt: Attempt, budget: Budget, options: Mapping[str, object]) -> Rung | None:
    """The rung below a failed attempt; None where there is none, or `budget.on_oom` forbids it.

    The next micro-batch is the largest divisor of `budget.batch` that is at most half of the last.
    """
    if budget.on_oom == "stop" or (attempt["phase"] or "load") in _INDEPENDENT_OF_BATCH:
        return None
    micro = int(attempt["micro_batch"])
    smaller = [n for n in range(1, micro // 2 + 1) if budget.batch % n == 0]
    if smaller:
        return Rung(smaller[-1], bool(attempt["gradient_checkpointing"]))
    allowed = budget.on_oom == "checkpoint" and "gradient_checkpointing" in options
    return Rung(micro, True) if allowed and not attempt["gradient_checkpointing"] else None


def kept(training: Training, before: Sequence[Attempt], last: Attempt | None = None) -> Training:
    """A record's `training` with the attempts that failed before it, their seconds apart.

    `last` is this training, if it failed like them.
    """
    section = training.copy()
    if before:
        seconds = sum(attempt["seconds"] or 0 for attempt in before)
        section["phases"] = {RETRIES: {"seconds": seconds}, **training["phases"]}
    if before or last:
        section["ladder"] = [*before, *([last] if last else [])]
    return section


def warning(attempts: Sequence[Attempt], last: Split) -> str:
    """One line about what failed and what ran in the end."""
    tried = ", ".join(
        str(Split(attempt["micro_batch"], attempt["gradient_checkpointing"]))
        for attempt in attempts
    )
    return (
        f"training ran out of memory with {tried}; it ran with {last} and the same effective batch"
    )
