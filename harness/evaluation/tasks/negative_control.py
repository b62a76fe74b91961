"""The negative control of scores against a reference: the same answer against other references.

An answer that says nothing of its question is as near to the references of other questions as to
its own: own minus other is 0 whatever the score itself is. Permuted references are such a control
(Lipsitch, Tchetgen Tchetgen and Cohen, Epidemiology 21, 2010).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.api.scorer import Scorer
from harness.api.tools import Tools
from harness.evaluation.scorer_config import checked
from harness.types import Output, Sample

OTHERS = 4
"""At most so many other samples for each."""


def others(samples: Sequence[Sample]) -> list[list[Sample]]:
    """For each sample up to OTHERS others with a different reference, evenly over their order.

    The same samples always give the same others. None for a sample without a reference, and for
    all where the references are alike.
    """
    having = [sample for sample in samples if _text(sample)]
    texts = [_text(sample) for sample in having]
    following = _following(texts)
    step = max(1, len(having) // (OTHERS + 1))
    places = {id(sample): place for place, sample in enumerate(having)}
    chosen: list[list[Sample]] = []
    for sample in samples:
        place, found = places.get(id(sample)), dict[int, None]()
        if place is not None and following:
            for shift in range(1, OTHERS + 1):
                other = (place + shift * step) % len(having)
                found[following[other] if texts[other] == texts[place] else other] = None
        chosen.append([having[other] for other in found])
    return chosen


def _text(sample: Sample) -> str:
    return (sample.reference or "").strip()


def _following(texts: Sequence[str]) -> list[int]:
    """Of each text the place of the next other one, the first after the last; [] if all agree."""
    if len(set(texts)) < 2:
        return []
    count, places = len(texts), [0] * len(texts)
    for turn in reversed(range(2 * count)):  # twice around: the first turn knows no first text
        place, after = turn % count, (turn + 1) % count
        places[place] = places[after] if texts[after] == texts[place] else after
    return places


def means(
    scorer: Scorer,
    outputs: Sequence[Output],
    others_of: Sequence[Sequence[Sample]],
    tools: Tools,
    options: Mapping[str, object],
) -> list[float | None]:
    """The mean score of each answer as if it were to its others; None where it has none."""
    pairs = [
        (place, other)
        for place, of_sample in enumerate(others_of[: len(outputs)])
        for other in of_sample
    ]
    answers = [replace(outputs[place], id=other.id) for place, other in pairs]
    given = scorer.rate(answers, [other for _, other in pairs], tools, **options)
    given = checked(given, len(pairs), f"scorer '{scorer.name}'")
    scores: dict[int, list[float]] = {}
    for (place, _), score in zip(pairs, given, strict=True):
        if score is not None:
            scores.setdefault(place, []).append(float(score))
    return [_mean(scores.get(place)) for place in range(len(outputs))]


def minus(own: Sequence[float | None], other: Sequence[float | None]) -> list[float | None]:
    """own - other of each sample; None where one of them is."""
    return [
        None if a is None or b is None else float(a) - b for a, b in zip(own, other, strict=True)
    ]


def _mean(scores: Sequence[float] | None) -> float | None:
    return sum(scores) / len(scores) if scores else None
