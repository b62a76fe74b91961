"""What a recorded question with choices says of itself, without lm-eval and without the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.evaluation.tasks.sample_rows import PROBABILITY, right_probability

ACCURACY, RIGHT, MACRO, WEIGHT = "acc", "right", ".macro", "weight"


def rescored(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The output and the scores that follow from the log-probabilities; None where none do.

    Only of questions that have the probability of the right choice: tasks that read figures of
    their own out of the log-probabilities have none. The averages of groups repeat a question's
    score, `.macro` divided by the questions of its task.
    """
    recorded, logprobs, right = row["scores"], row.get("logprobs"), row.get("reference")
    choices = row.get("choices") or []
    if (
        "missing" in row
        or PROBABILITY not in recorded
        or not logprobs
        or isinstance(right, bool)
        or not isinstance(right, int)
        or not 0 <= right < len(logprobs)
        or len(set(choices)) != len(logprobs)
        or not all(map(math.isfinite, logprobs))
    ):
        return None
    best = max(range(len(logprobs)), key=logprobs.__getitem__)
    known = {
        PROBABILITY: right_probability(logprobs, [right]),
        ACCURACY: float(best == right),
        RIGHT: float(best == right),
    }
    scores = {name: value for name, value in known.items() if name in recorded}
    for name in recorded:
        if f"{name}{MACRO}" in recorded:
            of_group = known[PROBABILITY if name.endswith(f".{PROBABILITY}") else ACCURACY]
            scores |= {name: of_group, f"{name}{MACRO}": of_group * recorded[WEIGHT]}
    return {"id": row["id"], "output": choices[best], "scores": scores}
