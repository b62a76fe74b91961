"""Which suites a served model can be asked, and how: another way of asking is another suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.api.task import Suite
from harness.config.served_settings import ServedSettings
from harness.evaluation import fingerprint
from harness.evaluation.judging.panels.seats import each
from harness.evaluation.suite import task_of
from harness.manager import Plugins, calling
from harness.models.served import stand_in
from harness.types import ModelRef

__all__ = ["Asked", "as_asked", "renamed"]


@dataclass(frozen=True)
class Asked:
    """The suites of a cell, as its model can be asked."""

    suites: tuple[Suite, ...]
    left_out: tuple[str, ...] = ()
    """A sentence for each suite that the model cannot be asked."""


def as_asked(suites: Sequence[Suite], model: ModelRef, base: ModelRef, plugins: Plugins) -> Asked:
    """Suites for a model; those of a model in this process as they are.

    Answers of a server that renders prompts itself, and choices that are asked by their letters,
    are no suite of the same hash: their figures are never compared with those of this process.
    """
    if not stand_in.is_served(model):
        return Asked(tuple(suites))
    settings = stand_in.settings_of(model)
    kept, left_out = [], []
    for suite in suites:
        reason = _cannot(suite, settings, base, plugins)
        if reason is not None:
            left_out.append(f"suite '{suite.name}' is left out of '{model.name}': {reason}")
        else:
            kept.append(renamed(suite, _way(suite, settings, plugins)))
    return Asked(tuple(kept), tuple(left_out))


def _cannot(suite: Suite, settings: ServedSettings, base: ModelRef, plugins: Plugins) -> str | None:
    """Why the suite cannot be asked; None where it can."""
    with calling(f"task '{suite.ask}'"):
        needs = task_of(suite, plugins).needs(suite)
    if "texts" in needs and not settings.prompt_logprobs:
        return (
            "it needs log-probabilities of texts, which chat completions do not give; vLLM does, "
            "with form: completions, tokenizer: MODEL and prompt_logprobs: true"
        )
    alone = any(seat.judge_model is None and seat.judge_endpoint is None for seat in each(suite))
    if suite.judge is not None and alone and stand_in.is_served(base):
        return (
            "its judge would be the served model itself, which is no model of this process: set "
            "judge.model or judge.endpoint"
        )
    return None


def _way(suite: Suite, settings: ServedSettings, plugins: Plugins) -> str:
    """How its model is asked, where that is not how a model in this process is."""
    needs, ways = task_of(suite, plugins).needs(suite), []
    if settings.form == "chat":
        ways.append("chat")
    elif settings.tokenizer is None:
        ways.append("text")
    if "choices" in needs and not settings.prompt_logprobs:
        ways.append("letters")  # as Suite.by_letters reads it
    return ", ".join(ways)


def renamed(suite: Suite, way: str) -> Suite:
    """The suite under another hash, which says how it is asked (its part `asked`)."""
    if not way:
        return suite
    uncorrected = suite.uncorrected_hash
    return replace(
        suite,
        hash=fingerprint.digest([suite.hash, way]),
        uncorrected_hash=uncorrected and fingerprint.digest([uncorrected, way]),
        parts={**suite.parts, "asked": way},
    )
