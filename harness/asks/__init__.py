"""The ways in which a suite asks a model: `generate`, `perplexity`, `choice`, `lm-eval`.

Each module has `ask(suite, model) -> Question`, the prompts and pairs that the model is to run, and
`answer(suite, question, tools) -> SuiteResult`, which scores what came back. `metrics(suite)` names
the metrics that will come out, or is None where only the run can tell. `data_hash(suite)`, where a
module has one, is the hash of data that the suite's own hash does not hold.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from harness.errors import UserError

MODULES = {
    "generate": "harness.asks.generate",
    "perplexity": "harness.asks.perplexity",
    "choice": "harness.asks.choice",
    "lm-eval": "harness.asks.lm_eval",
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


def cluster(name: str | None, columns: Mapping[str, Any], where: str) -> dict[str, str]:
    """The part of a sample row that says what it hangs together with; none where `name` is None.

    Raises UserError, naming `where` the row stands, where it has no such column.
    """
    if name is None:
        return {}
    if columns.get(name) is None:
        raise UserError(f"{where}: no column '{name}', which the suite's `cluster:` names")
    return {"cluster": str(columns[name])}
