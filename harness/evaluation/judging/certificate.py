"""What a judge's verdicts on labelled answers show of it: its certificate, as JSON values.

A judge that rates single answers (`of_rater`) is held against answers labelled right or wrong, and,
by which of two it rates higher, against the labels of pairs. One that is shown two answers
(`of_comparer`) is held against the labels of pairs alone. Cuts between pass and fail, and between
a win and a tie, are cross-fitted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.judging import cutoffs
from harness.evaluation.judging.injections import Injection, injections
from harness.evaluation.judging.labels import LabelledSet, Pair
from harness.record import JudgeErrors, MeanVerdict
from harness.stats.estimates import Difference, Estimate, estimate
from harness.stats.judges import (
    Agreement,
    Calibration,
    JudgeFigures,
    PositionConsistency,
    Shift,
    agreement,
    calibrate,
    human_agreement,
    majority,
    position_consistency,
    rate,
    repeatability,
    shift,
    validity,
)
from harness.types import Output, Sample

__all__ = ["SCHEMA", "Preference", "errors_of", "of_comparer", "of_rater", "padded"]

SCHEMA = 1
"""Of the certificate's layout and of how it is measured."""

PADDED = 60
"""Answers that are rated again with filler around them."""
PLANTED = 2
"""Answers that each planted instruction is tried on."""
REPEATED = 40
"""Questions that are asked again."""
SAME = 1e-4
"""Scores no further apart are the same, as a part of the largest."""

FILLERS = (
    "Thank you very much for writing to us, and we hope that you are having a pleasant day.",
    "Please feel free to get in touch again whenever there is anything else on your mind.",
    "We always try to answer every question as carefully and as quickly as we can.",
    "It was good of you to ask, and it is a pleasure for us to be of help to you.",
)
"""Sentences that add no fact to any answer."""

Figures = dict[str, Any]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Preference:
    """How far a judge prefers an answer to another, 0 to 1, shown first and shown second.

    None without a verdict in that order.
    """

    first: float | None
    second: float | None

    @property
    def verdict(self) -> float:
        """1 where it wins in both orders, 0 where it loses in both, else 0.5; NaN without both."""
        if self.first is None or self.second is None:
            return math.nan
        least, greatest = sorted((self.first, self.second))
        return 1.0 if least > 0.5 else 0.0 if greatest < 0.5 else 0.5


Rate = Callable[[Sequence[Output], Sequence[Sample]], Sequence[float | None]]
"""`rate(outputs, samples)`: a score of each answer, None where the judge gave no verdict."""
Compare = Callable[[Sequence[Output], Sequence[Sample], Sequence[str]], Sequence[Preference]]
"""`compare(outputs, samples, others)`: each answer against another's text."""


@dataclass(frozen=True)
class _Answer:
    """One labelled answer, as a judge gets it."""

    pair: int
    output: Output
    sample: Sample
    right: bool | None
    by: str | None


# ---- a judge of single answers -------------------------------------------------------------------


def of_rater(rate_answers: Rate, labelled: LabelledSet, own: Collection[str] = ()) -> Figures:
    """The certificate of a judge that gives each answer a score, higher for better.

    `own` are the names of the judge's model, by which answers of its own are known.
    """
    answers = _answers(labelled.pairs)
    scores = _rated(rate_answers, answers)
    groups = [answer.pair for answer in answers]
    right = np.array([answer.right for answer in answers], object)
    cuts = cutoffs.cross_fitted(cutoffs.best_threshold, scores, list(right), groups)
    threshold = cutoffs.best_threshold(scores, right)
    outcomes, margin = _outcomes(scores[::2] - scores[1::2], labelled)
    on_pairs = _pairs(outcomes, labelled)
    on_answers = _on_answers(scores, cuts, threshold, answers) if labelled.has_right else None
    verdicts = _verdicts(scores, threshold, margin)
    changes = {
        "verbosity": _padding(rate_answers, answers, scores, verdicts),
        "injection": _planting(rate_answers, answers, scores, verdicts),
    }
    judged = on_answers or on_pairs
    figures = JudgeFigures(
        kappa=judged.agreement.kappa,
        youden=judged.calibration.youden,
        validity=validity(scores),
        injection=_moved(changes["injection"]),
        human_kappa=None if on_answers else human_agreement(_people(labelled)).kappa,
    )
    return {
        **_common(labelled, figures),
        "asks": "one answer",
        "pairs": {**on_pairs.shown, "margin": margin},
        "answers": on_answers.shown if on_answers else None,
        "position": None,
        **{name: change.shown if change else None for name, change in changes.items()},
        "repeatability": _again(rate_answers, answers, scores),
        "self_preference": _self_preference(scores, answers, own),
    }


def _rated(rate_answers: Rate, answers: Sequence[_Answer]) -> Floats:
    given = rate_answers([one.output for one in answers], [one.sample for one in answers])
    return _floats(given)


def _outcomes(differences: Floats, labelled: LabelledSet) -> tuple[list[str | None], float]:
    """Which answer of each pair is rated higher, and the margin that all pairs together choose."""
    best = majority(_people(labelled))
    margins = cutoffs.cross_fitted(cutoffs.best_margin, differences, best, range(len(best)))
    overall = cutoffs.best_margin(differences, np.array(best, object))
    return cutoffs.outcome(differences, margins), overall


@dataclass(frozen=True)
class _Judged:
    """How a judge stands to one sort of labels."""

    agreement: Agreement
    calibration: Calibration
    shown: Figures


def _on_answers(
    scores: Floats, cuts: Floats, threshold: float, answers: Sequence[_Answer]
) -> _Judged:
    """Pass and fail against right and wrong."""
    known = ~np.isnan(scores)
    passed = np.where(known, (scores >= cuts).astype(float), math.nan)
    right = _floats([None if a.right is None else float(a.right) for a in answers])
    groups = [answer.pair for answer in answers]
    verdicts = [None if math.isnan(x) else bool(x) for x in passed]
    agreed = agreement(verdicts, [answer.right for answer in answers], clusters=groups)
    errors = calibrate(passed, right, clusters=groups)
    of_scores = calibrate(scores, right, clusters=groups)
    shown = {
        "labelled": int((~np.isnan(right)).sum()),
        "threshold": None if math.isnan(threshold) else threshold,
        **_agreement(agreed),
        "sensitivity": _figure(errors.sensitivity),
        "specificity": _figure(errors.specificity),
        "youden": _figure(errors.youden),
        "scores": {"good": _figure(of_scores.good), "bad": _figure(of_scores.bad)},
    }
    return _Judged(agreed, errors, shown)


# ---- a judge of pairs ----------------------------------------------------------------------------


def of_comparer(compare: Compare, labelled: LabelledSet, own: Collection[str] = ()) -> Figures:
    """The certificate of a judge that is shown two answers, in both orders."""
    pairs = labelled.pairs
    shown = [_shown(pair, "a") for pair in pairs]
    others = [pair.b for pair in pairs]
    preferences = _compared(compare, shown, others)
    verdicts = np.array([one.verdict for one in preferences])
    words = [None if math.isnan(x) else {1.0: "a", 0.0: "b", 0.5: "tie"}[x] for x in verdicts]
    on_pairs = _pairs(words, labelled)
    position = position_consistency(
        _hard(one.first for one in preferences), _hard(one.second for one in preferences)
    )
    changes = {
        "verbosity": _padded_against_plain(compare, pairs),
        "injection": _planted_loser(compare, labelled, verdicts),
    }
    figures = JudgeFigures(
        kappa=on_pairs.agreement.kappa,
        youden=on_pairs.calibration.youden,
        validity=validity(verdicts),
        injection=_moved(changes["injection"]),
        human_kappa=human_agreement(_people(labelled)).kappa,
        position_consistency=position.consistent if position else None,
        shows_pairs=True,
    )
    again = _spread(len(pairs), REPEATED)[::-1]
    repeats = _compared(compare, [shown[i] for i in again], [others[i] for i in again])
    second = np.array([one.verdict for one in repeats])
    return {
        **_common(labelled, figures),
        "asks": "two answers",
        "pairs": on_pairs.shown,
        "answers": None,
        "position": _position(position),
        **{name: change.shown if change else None for name, change in changes.items()},
        "repeatability": _repeats(verdicts[again], second),
        "self_preference": _own_wins(verdicts, pairs, own),
    }


def _compared(
    compare: Compare, answers: Sequence[_Answer], others: Sequence[str]
) -> Sequence[Preference]:
    return compare([one.output for one in answers], [one.sample for one in answers], others)


def _hard(preferences: Any) -> list[float]:
    """1 for an answer that is preferred, 0 for one that is not."""
    return [
        math.nan if one is None else 0.5 if one == 0.5 else float(one > 0.5) for one in preferences
    ]


def _position(found: PositionConsistency | None) -> Figures | None:
    if found is None:
        return None
    return {"consistent": _figure(found.consistent), "first": _figure(found.first)}


# ---- labels of pairs -----------------------------------------------------------------------------


def _people(labelled: LabelledSet) -> list[list[str]]:
    """One list of labels for each person."""
    return [[pair.labels[i] for pair in labelled.pairs] for i in range(labelled.people)]


def _pairs(outcomes: Sequence[str | None], labelled: LabelledSet) -> _Judged:
    """Verdicts on pairs against people; a's score is 1 for a win and 0.5 for a tie."""
    people, best = _people(labelled), majority(_people(labelled))
    agreed, among = agreement(outcomes, *people), human_agreement(people)
    worth = {"a": 1.0, "tie": 0.5, "b": 0.0}
    verdicts = _floats([None if one is None else worth[one] for one in outcomes])
    better = _floats([{"a": 1.0, "b": 0.0}.get(str(label)) for label in best])
    errors = calibrate(verdicts, better)
    shown = {
        "labelled": len(outcomes),
        **_agreement(agreed),
        "human_agreement": _figure(among.share),
        "human_kappa": _figure(among.kappa),
        "kinds": _by_kind(outcomes, best, labelled.pairs),
        "youden": _figure(errors.youden),
        "scores": {"good": _figure(errors.good), "bad": _figure(errors.bad)},
    }
    return _Judged(agreed, errors, shown)


def _by_kind(
    outcomes: Sequence[str | None], labels: Sequence[object], pairs: Sequence[Pair]
) -> Figures:
    """The share of equal verdicts and labels in each kind of pair."""
    shares = {}
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        equal = [
            outcome == label
            for outcome, label, pair in zip(outcomes, labels, pairs, strict=True)
            if pair.kind == kind and outcome is not None and label is not None
        ]
        shares[kind] = _figure(estimate("share", equal)) if equal else None
    return shares


# ---- what changes no answer's worth --------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """What became of verdicts, or scores where there is no cut."""

    verdicts: Shift
    shown: Figures


def padded(text: str, turn: int) -> str:
    """The text between two of the `FILLERS`, other ones by `turn`."""
    count = len(FILLERS)
    return f"{FILLERS[turn % count]} {text} {FILLERS[(turn + 1) % count]}"


def _padding(
    rate_answers: Rate, answers: Sequence[_Answer], scores: Floats, verdicts: _Verdicts
) -> _Change | None:
    """Of answers with filler around them; a and b in turn."""
    chosen = [2 * i + i % 2 for i in _spread(len(answers) // 2, PADDED)]
    longer = [_changed(answers[i], padded(answers[i].output.text, i // 2)) for i in chosen]
    found = _change(scores, _rated(rate_answers, longer), chosen, verdicts)
    return found and _Change(found.verdicts, {**found.shown, **_growth(answers, chosen, longer)})


def _growth(
    answers: Sequence[_Answer], chosen: Sequence[int], longer: Sequence[_Answer]
) -> Figures:
    """How many times as long answers became, as a geometric mean of characters."""
    logs = [
        math.log(len(new.output.text) / len(answers[i].output.text))
        for i, new in zip(chosen, longer, strict=True)
    ]
    return {"padding": math.exp(sum(logs) / len(logs))}


def _planting(
    rate_answers: Rate, answers: Sequence[_Answer], scores: Floats, verdicts: _Verdicts
) -> _Change | None:
    """Of wrong answers, or of those that lost, with an instruction to the judge around them."""
    poor = [i for i, answer in enumerate(answers) if answer.right is False]
    poor = poor or list(range(len(answers)))
    texts = [text for text in injections() for _ in range(PLANTED)]
    chosen = [poor[i] for i in _spread(len(poor), len(texts), again=True)]
    planted = [
        _planted(answers[i], text, at)
        for at, (i, text) in enumerate(zip(chosen, texts, strict=True))
    ]
    after = _rated(rate_answers, planted)
    found = _change(scores, after, chosen, verdicts)
    return found and _Change(found.verdicts, {**found.shown, "texts": len(injections())})


def _planted(answer: _Answer, text: Injection, at: int) -> _Answer:
    return _changed(answer, text.planted(answer.output).text, f"-planted-{at}")


_Verdicts = Callable[[Floats, Sequence[int]], Floats]
"""`verdicts(scores, places)`: of answers at these places, if they had these scores."""


def _verdicts(scores: Floats, threshold: float, margin: float) -> _Verdicts:
    """Pass or fail; without a threshold, whether an answer wins against the other of its pair."""

    def passed(own: Floats, places: Sequence[int]) -> Floats:
        return np.where(np.isnan(own), math.nan, (own >= threshold).astype(float))

    def won(own: Floats, places: Sequence[int]) -> Floats:
        apart = own - scores[[place ^ 1 for place in places]]
        outcome = np.where(apart > margin, 1.0, np.where(apart < -margin, 0.0, 0.5))
        return np.where(np.isnan(apart), math.nan, outcome)

    return won if math.isnan(threshold) else passed


def _change(
    scores: Floats, after: Floats, chosen: Sequence[int], verdicts: _Verdicts
) -> _Change | None:
    """Of the scores of the answers at `chosen`, and of their verdicts; None without any."""
    before = scores[list(chosen)]
    of_scores = shift(before, after)
    of_verdicts = shift(verdicts(before, chosen), verdicts(after, chosen))
    if of_scores is None or of_verdicts is None:
        return None
    return _Change(of_verdicts, {"verdicts": _shift(of_verdicts), "scores": _shift(of_scores)})


def _padded_against_plain(compare: Compare, pairs: Sequence[Pair]) -> _Change | None:
    """An answer with filler against itself: what is not a tie is the judge's love of a length."""
    turns = _spread(len(pairs), PADDED)
    plain = [_shown(pairs[i], "ab"[i % 2]) for i in turns]
    longer = [
        _changed(one, padded(one.output.text, i)) for i, one in zip(turns, plain, strict=True)
    ]
    after = [one.verdict for one in _compared(compare, longer, [one.output.text for one in plain])]
    found = shift([0.5] * len(after), after)
    if found is None:
        return None
    growth = _growth(plain, range(len(plain)), longer)
    return _Change(found, {"verdicts": _shift(found), **growth})


def _planted_loser(compare: Compare, labelled: LabelledSet, verdicts: Floats) -> _Change | None:
    """The answer that people find worse, with an instruction, against the better one."""
    pairs, best = labelled.pairs, majority(_people(labelled))
    decided = [i for i, label in enumerate(best) if label in ("a", "b")]
    if not decided:
        return None
    texts = [text for text in injections() for _ in range(PLANTED)]
    chosen = [decided[i] for i in _spread(len(decided), len(texts), again=True)]
    losers, winners, before = [], [], []
    for at, (i, text) in enumerate(zip(chosen, texts, strict=True)):
        b_lost = best[i] == "a"
        losers.append(_planted(_shown(pairs[i], "b" if b_lost else "a"), text, at))
        winners.append(pairs[i].a if b_lost else pairs[i].b)
        before.append(1 - verdicts[i] if b_lost else verdicts[i])
    after = [one.verdict for one in _compared(compare, losers, winners)]
    found = shift(before, after)
    if found is None:
        return None
    return _Change(found, {"verdicts": _shift(found), "texts": len(injections())})


def _moved(change: _Change | None) -> Estimate | None:
    return change.verdicts.moved if change else None


# ---- the same again ------------------------------------------------------------------------------


def _again(rate_answers: Rate, answers: Sequence[_Answer], scores: Floats) -> Figures:
    """Answers that are rated twice, the second time in another order and company."""
    chosen = _spread(len(answers), REPEATED)[::-1]
    return _repeats(scores[chosen], _rated(rate_answers, [answers[i] for i in chosen]))


def _repeats(first: Floats, second: Floats) -> Figures:
    apart = np.abs(first - second)
    known = apart[~np.isnan(apart)]
    # what float32 leaves open is no other verdict
    same = apart <= SAME * np.nanmax(np.abs(first)) if len(known) else apart > 0
    repeats = [
        [None if math.isnan(x) else x for x in every.tolist()]
        for every in (first, np.where(same, first, second))
    ]
    return {
        "equal": _figure(repeatability(repeats)),
        "largest_difference": float(known.max()) if len(known) else None,
    }


# ---- the judge's own answers ---------------------------------------------------------------------


def _self_preference(
    scores: Floats, answers: Sequence[_Answer], own: Collection[str]
) -> Figures | None:
    """How far the judge rates its own model's answers above others that are as right.

    Each own answer's score minus the mean of the others that are right, or wrong, as it is. None
    where no labelled answer is its model's.
    """
    excess = []
    for right in (True, False, None):
        known = [
            (one.by in own, score)
            for one, score in zip(answers, scores.tolist(), strict=True)
            if one.right is right and not math.isnan(score)
        ]
        others = [score for mine, score in known if not mine]
        if others:
            usual = sum(others) / len(others)
            excess += [score - usual for mine, score in known if mine]
    return {"scores": _figure(estimate("mean", excess))} if excess else None


def _own_wins(verdicts: Floats, pairs: Sequence[Pair], own: Collection[str]) -> Figures | None:
    """The judge's verdict on its own model's answers minus people's, against others'."""
    worth = {"a": 1.0, "tie": 0.5, "b": 0.0}
    excess = []
    for verdict, pair in zip(verdicts.tolist(), pairs, strict=True):
        mine = (pair.a_by in own, pair.b_by in own)
        if math.isnan(verdict) or mine[0] == mine[1]:
            continue
        people = sum(worth[label] for label in pair.labels) / len(pair.labels)
        excess.append(verdict - people if mine[0] else people - verdict)
    return {"verdicts": _figure(estimate("mean", excess))} if excess else None


# ---- answers -------------------------------------------------------------------------------------


def _answers(pairs: Sequence[Pair]) -> list[_Answer]:
    """a and b of each pair, in turn."""
    return [_shown(pair, side, at) for at, pair in enumerate(pairs) for side in ("a", "b")]


def _shown(pair: Pair, side: str, at: int = 0) -> _Answer:
    text, right, by = (
        (pair.a, pair.a_right, pair.a_by) if side == "a" else (pair.b, pair.b_right, pair.b_by)
    )
    name = f"{pair.id}-{side}"
    sample = Sample(name, prompt=pair.question, reference=pair.reference)
    return _Answer(at, Output(name, text, 0, False), sample, right, by)


def _changed(answer: _Answer, text: str, mark: str = "-padded") -> _Answer:
    name = answer.output.id + mark
    return _Answer(
        answer.pair, Output(name, text, 0, False), answer.sample, answer.right, answer.by
    )


def _spread(count: int, most: int, *, again: bool = False) -> list[int]:
    """At most `most` places among `count`, evenly; with `again` exactly so many, some twice."""
    wanted = most if again else min(most, count)
    return [i * count // wanted for i in range(wanted)]


# ---- as JSON -------------------------------------------------------------------------------------


def _common(labelled: LabelledSet, figures: JudgeFigures) -> Figures:
    rating = rate(figures)
    return {
        "schema": SCHEMA,
        "level": rating.level,
        "reasons": list(rating.reasons),
        "labels": {
            "file": labelled.file.rpartition("/")[2],
            "sha256": labelled.sha256,
            "pairs": len(labelled.pairs),
            "people": labelled.people,
            "kinds": dict(Counter(pair.kind for pair in labelled.pairs)),
        },
        "validity": _figure(figures.validity),
    }


def _agreement(found: Agreement) -> Figures:
    problem = {"problem": found.problem} if found.problem else {}
    return {"agreement": _figure(found.share), "kappa": _figure(found.kappa), **problem}


def _shift(found: Shift) -> Figures:
    return {"moved": _figure(found.moved), "difference": _figure(found.difference)}


def _figure(found: Estimate | Difference | None) -> Figures | None:
    """A figure with its interval; what is not finite is None."""
    if found is None:
        return None
    return {
        name: value if math.isfinite(value) else None
        for name, value in vars(found).items()
        if value is not None
    }


def errors_of(certificate: Mapping[str, Any]) -> JudgeErrors:
    """What the certificate says of the judge's verdicts, as what corrects a figure of them.

    Of answers that are labelled right or wrong, passes and fails. Of a judge of pairs, and where no
    answer is labelled so, wins.
    """
    answers, change = certificate["answers"], certificate["verbosity"]
    threshold = answers.get("threshold") if answers else None
    of = "verdicts" if threshold is not None or "scores" not in (change or {}) else "scores"
    moved = change[of]["difference"] if change else None
    if answers and threshold is not None:
        good, bad = answers["sensitivity"], _missed(answers["specificity"])
    else:
        scores = (answers or certificate["pairs"])["scores"]
        good, bad = scores["good"], scores["bad"]
    errors: JudgeErrors = {
        "level": certificate["level"],
        "reason": "; ".join(certificate["reasons"]),
        "binary": threshold is not None,
        "good": _mean_verdict(good),
        "bad": _mean_verdict(bad),
        "length": None
        if moved is None
        else {
            "delta": moved["delta"],
            "ci_low": moved["ci_low"],
            "ci_high": moved["ci_high"],
            "padding": change["padding"],
        },
    }
    if threshold is not None:
        errors["threshold"] = threshold
    return errors


def _missed(specificity: Mapping[str, Any] | None) -> Figures | None:
    """1 - specificity: the share of bad answers that pass."""
    if specificity is None:
        return None
    low, high = specificity["ci_low"], specificity["ci_high"]
    return {
        **specificity,
        "value": 1 - specificity["value"],
        "ci_low": None if high is None else 1 - high,
        "ci_high": None if low is None else 1 - low,
    }


def _mean_verdict(figure: Mapping[str, Any] | None) -> MeanVerdict | None:
    if figure is None:
        return None
    return {
        "value": figure["value"],
        "stderr": figure["stderr"],
        "ci_low": figure["ci_low"],
        "ci_high": figure["ci_high"],
        "n": figure["n"],
    }


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], float)
