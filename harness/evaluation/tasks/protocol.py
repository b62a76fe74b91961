"""The ways in which a suite asks a model: `generate`, `perplexity`, `choice`, `lm-eval`.

Each module has `ask(suite, model) -> Question`, the prompts and pairs that the model is to run, and
`answer(suite, question, tools) -> SuiteResult`, which scores what came back. `metrics(suite)` names
the metrics that will come out, or is None where only the run can tell. `data_hash(suite)`, where a
module has one, is the hash of data that the suite's own hash does not hold.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from harness.errors import CellFailed, UserError
from harness.models import families
from harness.types import ModelRef, SuiteResult

NOT_FINITE = "the model's log-probabilities are not finite"
"""Why a sample row is `missing`: it has no answer, and no scores."""

MISSING_BUDGET = 0.05
"""The largest part of a suite's samples that may be missing; beyond it the suite fails."""

MODULES = {
    "generate": "harness.evaluation.tasks.generate",
    "perplexity": "harness.evaluation.tasks.perplexity",
    "choice": "harness.evaluation.tasks.multiple_choice",
    "lm-eval": "harness.evaluation.tasks.lm_eval",
}


@dataclass
class Question:
    """What one suite needs of the two passes; the passes fill in what came back."""

    prompts: Sequence[Sequence[int]] = ()
    """Token ids to be continued."""
    max_new_tokens: int = 0
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]] = ()
    """(context, continuation) token ids to be scored."""
    keep: Any = None
    """The module's own notes between `ask` and `answer`."""
    generated: Sequence[Any] = field(default_factory=list)
    scores: Sequence[Any] = field(default_factory=list)


def module(ask: str) -> ModuleType:
    """The module of one way of asking."""
    return importlib.import_module(MODULES[ask])


def data_hash(suite: Any) -> str | None:
    """Hash of data that the suite's own hash does not hold; None where that holds all."""
    find = getattr(module(suite["ask"]), "data_hash", None)
    return None if find is None else str(find(suite))


def check_room(suite: Any, model: ModelRef) -> None:
    """Raise UserError where a suite's answers leave no room for a question in the model's context.

    As far as files tell: tasks that come with lm-eval are known only once they are loaded.
    """
    if suite["ask"] == "generate":
        mend = "set it to less"
        families.check_answers(model, suite["max_new_tokens"], "max_new_tokens", mend)
    elif suite["ask"] == "lm-eval":
        from harness.evaluation.tasks.lm_eval import task_files

        for file, cap in task_files.caps(suite):
            mend = "give its `generation_kwargs` a smaller one"
            families.check_answers(model, cap, f"{file}: max_gen_toks", mend)


def missing(logprobs: Iterable[float], finite: bool = True) -> dict[str, str]:
    """The part of a sample row that says that it has no answer; none where it has one.

    `logprobs` are of what was scored; `finite` is False where an answer's logits were not.
    """
    known = finite and all(map(math.isfinite, logprobs))
    return {} if known else {"missing": NOT_FINITE}


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
        raise CellFailed(
            f"{message}, more than {MISSING_BUDGET:.0%}: look for NaN or infinity in the weights"
        )
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
    told = [
        f"suite '{suite}': {name} is NaN or infinite for {count} of {len(result.rows)} samples; "
        "they have no such score and are left out"
        for name, count in lost.items()
    ]
    return dataclasses.replace(result, warnings=[*result.warnings, *told]) if told else result


def cluster(name: str | None, columns: Mapping[str, Any], where: str) -> dict[str, str]:
    """The part of a sample row that says what it hangs together with; none where `name` is None.

    Raises UserError, naming `where` the row stands, where it has no such column.
    """
    if name is None:
        return {}
    value = columns.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UserError(f"{where}: no column '{name}', which the suite's `cluster:` names")
    return {"cluster": str(value)}
