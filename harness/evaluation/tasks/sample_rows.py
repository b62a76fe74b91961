"""Parts of sample rows that every task writes, and how many samples may have no answer."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from harness.errors import CellFailed, UserError
from harness.types import SuiteResult

NOT_FINITE = "the model's log-probabilities are not finite"
"""Why a sample row is `missing`: it has no answer, and no scores."""

NO_LETTER = "a served model's answer names none of the choices' letters"
NO_ANSWER = "a served model gave no answer"
_MEND = {
    NOT_FINITE: "look for NaN or infinity in the weights",
    NO_LETTER: "leave the suite out of a model that does not answer with a letter, or take a "
    "server with prompt_logprobs",
    NO_ANSWER: "see `failed` of the server's answers, and run it again",
}
MISSING_BUDGET = 0.05
"""The largest part of a suite's samples that may be missing; beyond it the suite fails."""


def missing(logprobs: Iterable[float], finite: bool = True) -> dict[str, str]:
    """The part of a sample row that says that it has no answer; none where it has one.

    `logprobs` are of what was scored; `finite` is False where an answer's logits were not.
    """
    known = finite and all(map(math.isfinite, logprobs))
    return {} if known else {"missing": NOT_FINITE}


PROBABILITY = "probability"
"""The metric of the probability of the right choice."""


def right_probability(logprobs: Sequence[float], right: Collection[int]) -> float:
    """Probability of the right choices (numbers from 0), 0 to 1: a softmax over all choices.

    Of the log-probabilities as they are, as for `acc` and for lm-eval's `brier_score`; NaN where
    one is not finite. It is 1 / choices for a model that guesses. Unlike being right it changes a
    little where the model changes a little, so the same questions tell more.
    """
    if not all(map(math.isfinite, logprobs)):
        return math.nan
    most = max(logprobs)
    likely = [math.exp(value - most) for value in logprobs]
    return math.fsum(likely[i] for i in set(right)) / math.fsum(likely)


def within_budget(suite: str, result: SuiteResult) -> SuiteResult:
    """The result with warnings of its missing samples and of scores that are no numbers.

    Raises CellFailed where more samples are missing than `MISSING_BUDGET` allows.
    """
    result = _with_lost_scores(suite, result)
    reasons = [row["missing"] for row in result.rows if "missing" in row]
    if not reasons:
        return result
    counted = f"{len(reasons)} of {len(result.rows)} samples have no answer ({reasons[0]})"
    message = f"suite '{suite}': {counted}"
    if len(reasons) > MISSING_BUDGET * len(result.rows):
        raise CellFailed(f"{message}, more than {MISSING_BUDGET:.0%}: {_MEND[reasons[0]]}")
    warnings = [*result.warnings, f"{message}; they have no scores"]
    return dataclasses.replace(result, warnings=warnings)


def _with_lost_scores(suite: str, result: SuiteResult) -> SuiteResult:
    """The result with a warning for each score that is NaN or infinite somewhere."""
    lost = Counter(
        name
        for row in result.rows
        for name, score in row["scores"].items()
        if score is not None and not math.isfinite(score)
    )
    warnings = [
        f"suite '{suite}': {name} is NaN or infinite for {count} of {len(result.rows)} samples; "
        "they have no such score and are left out"
        for name, count in lost.items()
    ]
    return dataclasses.replace(result, warnings=[*result.warnings, *warnings])


def cluster(name: str | None, columns: Mapping[str, object], where: str) -> dict[str, str]:
    """The part of a sample row that says what it hangs together with; none where `name` is None.

    Raises UserError, naming `where` the row stands, where it has no such column.
    """
    if name is None:
        return {}
    value = columns.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UserError(f"{where}: no column '{name}', which the suite's `cluster:` names")
    return {"cluster": str(value)}
