"""A panel: several judges rate the same answers, and what they say together is the score.

Of scores it is the mean of the judges that gave one. Judges that compare two answers vote: in each
order the panel prefers what most of its judges prefer, and as with one such judge a win or a loss
is what both orders agree on. Judges of other families than the candidate's lessen the preference
for one's own (P. Verga et al., Replacing Judges with Juries, 2024, arXiv 2404.18796).
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Protocol, cast

from harness.api.judge import Judge, Judgement, JudgeOptions, NoVerdict
from harness.api.tools import Tools
from harness.errors import CellFailed
from harness.stats.judges import krippendorff_alpha
from harness.types import Metric, Output, Sample

__all__ = ["AGREEMENT", "Panel"]

AGREEMENT = "agreement"
"""The metric of how far the judges agree on an answer: 1 where they say the same."""


class PanelOptions(JudgeOptions):
    """What a suite says of its panel beside who the judges are."""

    rubric: str = ""
    """Each judge has its own."""
    least: int
    """Judges that must give a verdict on an answer; with fewer it has no score."""


class _Seats(Tools, Protocol):
    """What a worker lends to a panel."""

    def sit(self, seat: int | None) -> None:
        """Lend what the judge of that number needs from now on; None: what the suite needs."""


class Panel(Judge):
    """Judges in the order of the suite's file, each set up."""

    name = "panel"
    Options = PanelOptions

    def __init__(
        self, judges: Sequence[Judge], names: Sequence[str], least: int | None = None
    ) -> None:
        """`names` are what the judges are called; `least` is more than half of them by default."""
        self.judges, self.names = list(judges), list(names)
        self.options = PanelOptions(least=least or len(judges) // 2 + 1)

    def fault(self) -> tuple[int, str] | None:
        """The first judge that does not go with the others, and why; None where all do."""
        first, *others = self.judges
        for at, other in enumerate(others, 1):
            one, two = first.metrics()[0], other.metrics()[0]
            if (one.name, one.bounds) != (two.name, two.bounds):
                return at, (
                    f"judge '{other.name}' gives {_shown(two)} and '{first.name}' {_shown(one)}: "
                    "the judges of a panel give the same figure"
                )
            if (first.asks_base, first.asks_row) != (other.asks_base, other.asks_row):
                return (
                    at,
                    "the judges of a panel compare with the same answers: make `against` equal",
                )
        return None

    def check(self, samples: Sequence[Sample]) -> None:
        """Every judge can rate the samples."""
        for judge in self.judges:
            judge.check(samples)

    @property
    def asks_base(self) -> bool:
        """Whether one of its judges does."""
        return any(judge.asks_base for judge in self.judges)

    @property
    def asks_row(self) -> str | None:
        """The row that its judges compare with."""
        return next((judge.asks_row for judge in self.judges if judge.asks_row), None)

    def comparing(self) -> Panel | None:
        """The panel of its judges as they compare; None where one rates single answers."""
        comparing = [judge.comparing() for judge in self.judges]
        found = [judge for judge in comparing if judge is not None]
        whole = len(found) == len(self.judges)
        return Panel(found, self.names, self.options.least) if whole else None

    def metrics(self) -> list[Metric]:
        """Those that all of its judges have, and their agreement where scores have a range."""
        first, *others = (judge.metrics() for judge in self.judges)
        known = [{(one.name, one.bounds) for one in other} for other in others]
        shared = [m for m in first if all((m.name, m.bounds) in other for other in known)]
        between = [Metric(AGREEMENT, True, bounds=(0.0, 1.0))] if self._range else []
        return [*shared, *between]

    @property
    def _range(self) -> float | None:
        """Of the first figure, from its least to its greatest value; None without either."""
        least, greatest = self.judges[0].metrics()[0].bounds or (None, None)
        return None if least is None or greatest is None else greatest - least

    def judge(
        self, outputs: Sequence[Output], samples: Sequence[Sample], *, rubric: str, tools: Tools
    ) -> Judgement:
        """What the judges say together; one that fails as a whole is silent on every answer."""
        verdicts = [
            self._of(seat, outputs, samples, cast(_Seats, tools)) for seat in range(len(self.names))
        ]
        cast(_Seats, tools).sit(None)
        preferred = _preferences(verdicts)
        scores, more, rows = self._together(verdicts, preferred, len(outputs))
        missing = [
            None if score is not None else _reason(verdicts, i) for i, score in enumerate(scores)
        ]
        alpha = krippendorff_alpha([verdict.scores for verdict in verdicts])
        notes = {
            "least": self.options.least,
            "agreement": {"krippendorff_alpha": asdict(alpha) if alpha else None},
            "missing_by_judge": dict(zip(self.names, map(_missing, verdicts), strict=True)),
            "notes_by_judge": {
                name: dict(verdict.notes)
                for name, verdict in zip(self.names, verdicts, strict=True)
            },
            **(_orders(preferred) if preferred else {}),
        }
        return Judgement(
            scores,
            notes=notes,
            warnings=[line for verdict in verdicts for line in verdict.warnings],
            not_finite=missing.count("not_finite"),
            more=more,
            missing=missing,
            rows=rows,
        )

    def _of(
        self, seat: int, outputs: Sequence[Output], samples: Sequence[Sample], tools: _Seats
    ) -> Judgement:
        judge = self.judges[seat]
        tools.sit(seat)
        try:
            return judge.judge(outputs, samples, rubric=judge.options.rubric, tools=tools)
        except CellFailed as error:
            silent: list[NoVerdict | None] = ["no_reply"] * len(outputs)
            line = f"of the panel '{self.names[seat]}' gave no verdict: {error}"
            return Judgement([None] * len(outputs), {}, [line], missing=silent)

    def _together(
        self,
        verdicts: Sequence[Judgement],
        preferred: Sequence[Mapping[str, float | None]] | None,
        answers: int,
    ) -> tuple[list[float | None], dict[str, list[float | None]], list[dict[str, object]]]:
        """Scores, those of the other metrics, and rows for the sample file."""
        scores = [self._score(verdicts, preferred, i) for i in range(answers)]
        more: dict[str, list[float | None]] = {}
        for metric in self.metrics()[1:]:
            if metric.name == AGREEMENT:
                more[AGREEMENT] = [self._agreement(verdicts, i) for i in range(answers)]
                continue
            own = [verdict.more.get(metric.name, [None] * answers) for verdict in verdicts]
            more[metric.name] = [self._mean([each[i] for each in own]) for i in range(answers)]
        rows: list[dict[str, object]] = [
            {
                **({"preferred": preferred[i]} if preferred else {}),
                "panel": {
                    name: {"score": verdict.scores[i], **(verdict.rows[i] if verdict.rows else {})}
                    for name, verdict in zip(self.names, verdicts, strict=True)
                },
            }
            for i in range(answers)
        ]
        return scores, more, rows

    def _score(
        self,
        verdicts: Sequence[Judgement],
        preferred: Sequence[Mapping[str, float | None]] | None,
        answer: int,
    ) -> float | None:
        own = [verdict.scores[answer] for verdict in verdicts]
        mean = self._mean(own)
        if preferred is None or mean is None:
            return mean
        first, second = preferred[answer]["first"], preferred[answer]["second"]
        if first is None or second is None:
            return None
        least, greatest = sorted((first, second))
        return 1.0 if least > 0.5 else 0.0 if greatest < 0.5 else 0.5

    def _mean(self, values: Sequence[float | None]) -> float | None:
        """None where fewer judges than must have a value."""
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) >= self.options.least else None

    def _agreement(self, verdicts: Sequence[Judgement], answer: int) -> float | None:
        """1 minus the mean distance of two judges' scores, in parts of the range."""
        known = [v.scores[answer] for v in verdicts if v.scores[answer] is not None]
        apart = [abs(a - b) for a, b in itertools.combinations(known, 2)]  # type: ignore[operator]
        return 1 - statistics.fmean(apart) / self._range if apart and self._range else None


def _preferences(verdicts: Sequence[Judgement]) -> list[Mapping[str, float | None]] | None:
    """In each order the share of the judges that prefer the answer, of those with both verdicts.

    None where not every judge that spoke compares two answers.
    """
    spoke = [verdict for verdict in verdicts if any(s is not None for s in verdict.scores)]
    comparing = [v for v in spoke if v.rows and all("preferred" in row for row in v.rows)]
    if not spoke or len(comparing) < len(spoke):
        return None
    found: list[Mapping[str, float | None]] = []
    for i in range(len(spoke[0].scores)):
        own = [v.rows[i]["preferred"] for v in spoke if v.scores[i] is not None]
        found.append({order: _share([_hard(one[order]) for one in own]) for order in _ORDERS})
    return found


_ORDERS = ("first", "second")


def _hard(preference: float) -> float:
    """A vote: which of two answers, or neither."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def _share(votes: Sequence[float]) -> float | None:
    return statistics.fmean(votes) if votes else None


def _orders(preferred: Sequence[Mapping[str, float | None]]) -> dict[str, object]:
    """How often both orders agree, where the panel has a preference."""
    both = [(p["first"], p["second"]) for p in preferred if p["first"] is not None]
    told = [(a, b) for a, b in both if b is not None and (a, b) != (0.5, 0.5)]
    agreeing = [(a > 0.5 and b > 0.5) or (a < 0.5 and b < 0.5) for a, b in told if a is not None]
    return {"position_consistency": sum(agreeing) / len(agreeing) if agreeing else None}


def _reason(verdicts: Sequence[Judgement], answer: int) -> NoVerdict:
    """Why most of the silent judges are."""
    reasons = Counter(
        verdict.missing[answer] or "no_reply" if verdict.missing else "no_reply"
        for verdict in verdicts
        if verdict.scores[answer] is None
    )
    return reasons.most_common(1)[0][0] if reasons else "no_reply"


def _missing(verdict: Judgement) -> dict[str, int]:
    """Why one judge gave no verdict -> how often."""
    silent = sum(score is None for score in verdict.scores)
    told: Counter[str] = Counter(reason for reason in verdict.missing if reason)
    return dict(told) if told or not silent else {"no_reply": silent}


def _shown(metric: Metric) -> str:
    bounds = metric.bounds or (None, None)
    known = [f"{bound:g}" for bound in bounds if bound is not None]
    return f"{metric.name} from {' to '.join(known)}" if known else metric.name
