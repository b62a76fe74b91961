"""The paired evidence on one metric of two arms: what `compare` and `gate` decide by."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from harness import stats
from harness.record import Estimator, Record
from harness.results import comparability
from harness.results.groups import Group, ReadRows, degenerate
from harness.results.lookup import Arm
from harness.stats import bootstrapping, metric_summary, perplexity, proportions
from harness.stats.answers.degenerate_answers import Degenerate
from harness.stats.judges import (
    Judged,
    KnownErrors,
    judged_difference,
    judged_rate,
    known_errors,
)
from harness.types import Bounds

DRAWS, FEWER = 10_000, 2_500
"""Of each bootstrap, and of one over many samples. The smallest p is 0.0002 (0.0008), which leaves
room for Holm over 250 (60) rules."""


SMALL_SHARE, SMALL_PART = 0.02, 0.05
"""Differences that do not matter by default: of a share, and of any other figure as a
part of the baseline's."""


@dataclass(frozen=True)
class FigureTest:
    """A figure, its interval, and its test against a limit."""

    value: float
    ci_low: float
    ci_high: float
    p: float
    """Two-sided, of the value being at the limit."""
    reason: str | None = None
    """Why a judge's figure cannot be told; None where it can."""


@dataclass(frozen=True)
class Evidence:
    """One metric on the samples that both arms answered."""

    kind: stats.Kind
    higher_is_better: bool
    a: metric_summary.Pooled
    """The candidate's."""
    b: metric_summary.Pooled
    """The baseline's."""
    confidence: float
    identical: bool = False
    """Whether both arms gave the same answers, with the same scores."""
    bounds: Bounds = (None, None)
    """The range of the figure."""
    how: Estimator | None = None
    """How the figure is computed; needed of a judge's."""

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.a.ids)

    @property
    def discordant(self) -> tuple[int, int] | None:
        """Of shares of single runs: samples that only the candidate, and only the baseline has.

        None of a judge's verdicts, which are no shares of good answers yet.
        """
        if not self._closed or self.judge:
            return None
        return proportions.discordant(self.a.scores[0], self.b.scores[0])[:2]

    @property
    def units(self) -> int:
        """What is independent: samples, or clusters of them."""
        return self.n if self.a.clusters is None else len(set(self.a.clusters))

    @property
    def _closed(self) -> bool:
        """Whether shares of single runs are compared in closed form."""
        single = len(self.a.scores) == len(self.b.scores) == 1
        return self.kind == "share" and single and self.a.clusters is None

    @property
    def _log(self) -> bool:
        """Whether the bootstraps are of the figure's logarithm."""
        return self.kind == "exp_ratio"

    @cached_property
    def _boots(self) -> tuple[stats.Bootstrap, stats.Bootstrap]:
        arms = [self.a.arm, self.b.arm]
        draws = FEWER if self.n > bootstrapping.MANY else DRAWS
        seeds = (self.a.seeds, self.b.seeds)
        a, b = stats.bootstraps(self.kind, arms, clusters=self.a.clusters, draws=draws, seeds=seeds)
        return a, b

    @cached_property
    def judge(self) -> KnownErrors | None:
        """What is known of the judge behind the figure; None where there is none."""
        return known_errors(self.how.get("judge")) if self.how else None

    @cached_property
    def value(self) -> float:
        """The candidate's figure."""
        return self._figure(self.a, 0)

    @cached_property
    def baseline(self) -> float:
        """The baseline's figure."""
        return self._figure(self.b, 1)

    def _figure(self, arm: metric_summary.Pooled, place: int) -> float:
        if self.judge:
            own = self._judged[place]
            return _told(judged_rate(self.judge, own, clusters=arm.clusters).value, 0.5)
        return stats.point_estimate(self.kind, *arm.arm)

    @cached_property
    def _judged(self) -> tuple[Judged, Judged]:
        """Both arms' verdicts, with intervals of this confidence."""
        assert self.how is not None
        arms = (self.a, self.b)
        return metric_summary.judged_arms(self.how, arms, confidence=self.confidence)

    def change(self, limit: float = 0.0) -> FigureTest:
        """candidate - baseline, against `limit`."""
        if self.judge:
            return self._change_of_judged(self.judge, limit)
        return self._raw_change(limit)

    def _raw_change(self, limit: float) -> FigureTest:
        if self._closed:
            return self._change_of_shares(limit)
        if not self._log:
            return _bootstrap_test(bootstrapping.difference(*self._boots), limit, self.confidence)
        value, low, high = perplexity.subtract(*self._boots, self.confidence)
        return FigureTest(value, low, high, self._log_p(1 + limit / self.baseline))

    def relative_change(self, limit: float = 0.0) -> FigureTest:
        """candidate / baseline - 1, against `limit`; NaN where the baseline is not above zero."""
        if self.judge:
            return self._relative_change_of_judged(limit)
        a, b = self._boots
        if self._log:
            logs = bootstrapping.difference(a, b)
            bounds = (logs.value, *bootstrapping.interval(logs, self.confidence))
            value, low, high = map(perplexity.expm1, bounds)
            return FigureTest(value, low, high, self._log_p(1 + limit))
        if b.value <= 0 or not (b.replicates > 0).all():
            return FigureTest(math.nan, math.nan, math.nan, math.nan)
        return _bootstrap_test(bootstrapping.relative(a, b), limit, self.confidence)

    def shown(
        self, test: FigureTest, of: Literal["figure", "difference", "ratio"]
    ) -> tuple[float, float]:
        """The interval of a test in the range that a figure of its sort has: for showing alone.

        What shrinks by a share of itself, a `ratio`, cannot go below -1 where it has no sign.
        """
        within = self.bounds
        if of == "difference":
            within = metric_summary.spread(within)
        elif of == "ratio":
            within = (-1.0, None) if within[0] is not None and within[0] >= 0 else (None, None)
        return metric_summary.clipped(within, test.value, test.ci_low, test.ci_high)

    def _log_p(self, ratio: float) -> float:
        """Two-sided p of candidate / baseline being `ratio`."""
        if ratio <= 0:
            return 0.0
        logs = bootstrapping.difference(*self._boots)
        return bootstrapping.p_value(bootstrapping.shifted(logs, -math.log(ratio)))

    def alone(self, limit: float) -> FigureTest:
        """The candidate's own figure, against `limit`."""
        if self.judge:
            found = judged_rate(
                self.judge,
                self._judged[0],
                clusters=self.a.clusters,
                limit=limit,
                confidence=self.confidence,
            )
            return FigureTest(_told(found.value, 0.5), found.ci_low, found.ci_high, found.p)
        if self.kind == "share" and len(self.a.scores) == 1 and self.a.clusters is None:
            hits = sum(self.a.scores[0])
            low, high = stats.wilson(hits, self.n, self.confidence)
            return FigureTest(hits / self.n, low, high, proportions.score_p(hits, self.n, limit))
        if not self._log:
            test = _bootstrap_test(self._boots[0], limit, self.confidence)
            low, high = bootstrapping.clipped(self.kind, (test.ci_low, test.ci_high))
            return replace(test, ci_low=low, ci_high=high)
        low, high = bootstrapping.interval(self._boots[0], self.confidence)
        shifted = bootstrapping.shifted(self._boots[0], -math.log(limit)) if limit > 0 else None
        p = bootstrapping.p_value(shifted) if shifted else 0.0
        return FigureTest(self.value, perplexity.exp(low), perplexity.exp(high), p)

    def _change_of_judged(self, known: KnownErrors, limit: float) -> FigureTest:
        raw = self._raw_change(0.0)
        change = judged_difference(
            known,
            *self._judged,
            stats.Difference(raw.value, raw.ci_low, raw.ci_high, raw.p, self.n),
            clusters=self.a.clusters,
            limit=limit,
            confidence=self.confidence,
        )
        value = _told(change.value, 0.0)
        return FigureTest(value, change.ci_low, change.ci_high, change.p, change.reason)

    def _relative_change_of_judged(self, limit: float) -> FigureTest:
        """The difference in parts of the baseline's figure, as if that were sure."""
        if not self.baseline > 0:
            return FigureTest(math.nan, math.nan, math.nan, math.nan)
        change = self.change(limit * self.baseline)
        of = self.baseline
        return FigureTest(change.value / of, change.ci_low / of, change.ci_high / of, change.p)

    def _change_of_shares(self, limit: float) -> FigureTest:
        a, b = self.a.scores[0], self.b.scores[0]
        shares = stats.paired_shares(a, b, self.confidence)
        p = shares.p if limit == 0 else proportions.tango_p(a, b, limit)
        return FigureTest(shares.delta, shares.ci_low, shares.ci_high, p)


def _told(value: float, nothing: float) -> float:
    """A figure, or the middle of its range where it cannot be told."""
    return nothing if math.isnan(value) else value


def _bootstrap_test(boot: stats.Bootstrap, limit: float, confidence: float) -> FigureTest:
    low, high = bootstrapping.interval(boot, confidence)
    p = bootstrapping.p_value(bootstrapping.shifted(boot, -limit))
    return FigureTest(boot.value, low, high, p)


class Pairs:
    """The evidence on metrics of two arms, each sample file read once."""

    def __init__(
        self,
        candidate: Group,
        baseline: Group,
        by_id: Mapping[str, Record],
        read_rows: ReadRows,
        confidence: float,
        partial: Collection[str] = (),
    ) -> None:
        """`partial` names suites of which more samples follow: equal so far is not equal."""
        self.candidate, self.baseline = candidate, baseline
        self._by_id, self._read_rows = by_id, read_rows
        self._confidence, self._partial = confidence, partial

    def against(self, other: Group) -> Pairs:
        """The same candidate against another baseline."""
        return Pairs(
            self.candidate, other, self._by_id, self._read_rows, self._confidence, self._partial
        )

    def shared(self) -> list[tuple[str, str]]:
        """(suite, metric) that both arms have."""
        theirs = set(self.baseline.metric_names())
        return [name for name in self.candidate.metric_names() if name in theirs]

    def on(
        self, suite: str, metric: str, where: Mapping[str, str] | None = None
    ) -> Evidence | None:
        """The evidence on one metric, of the samples `where` alone; None where it is of none.

        Raises NotComparable where the arms did not answer the same samples of the same suite.
        """
        comparability.check_suite(suite, self.candidate, self.baseline)
        section = self.candidate.metric(suite, metric)
        how = _narrowed(section["estimator"], where or {})
        own = self._tables(self.candidate, suite, metric, how)
        other = self._tables(self.baseline, suite, metric, how)
        a = metric_summary.pool(own, seeds=self.candidate.seeds(suite, metric))
        b = metric_summary.pool(other, seeds=self.baseline.seeds(suite, metric))
        comparability.check_samples(suite, a.ids, b.ids)
        if not a.ids or (metric_summary.per_token(how) and not self._same_tokens()):
            return None
        return Evidence(
            metric_summary.figure(how),
            section["higher_is_better"],
            a,
            b,
            self._confidence,
            self._identical(suite, metric, a, b),
            metric_summary.bounds(how),
            how,
        )

    def _identical(
        self, suite: str, metric: str, a: metric_summary.Pooled, b: metric_summary.Pooled
    ) -> bool:
        """Whether the answers and their scores are the same.

        Scores of 0 and 1 agree by chance too (of models 5 points apart, on 20 samples, one time in
        three), so that the answers behind them must be the same as well.
        """
        if suite in self._partial or a.arm != b.arm:
            return False
        ids = set(a.ids)
        ours, theirs = (
            [{row["id"]: row for row in rows if row["id"] in ids} for rows in arm]
            for arm in (
                self.rows(self.candidate, suite, metric),
                self.rows(self.baseline, suite, metric),
            )
        )
        return ours == theirs

    def gained_and_lost(
        self, suite: str, metric: str, where: Mapping[str, str]
    ) -> tuple[float | None, float | None]:
        """Of `retained`: samples that turned right, and that turned wrong, since the base.

        The mean over the candidate's seeds; None for another metric.
        """
        how = _narrowed(self.candidate.metric(suite, metric)["estimator"], where)
        if how["kind"] != "retained":
            return None, None
        cells = self.candidate.bases(suite, metric, self._by_id)
        bases = [metric_summary.scored(how, self._read_rows(cell, suite)) for cell in cells]
        own = [
            metric_summary.scored(how, rows) for rows in self.rows(self.candidate, suite, metric)
        ]
        a, b = metric_summary.common(own, bases)
        right = [all(scores) for scores in zip(*b.scores, strict=True)]
        changes = [s - was for scores in a.scores for s, was in zip(scores, right, strict=True)]
        return changes.count(1) / len(own), changes.count(-1) / len(own)

    def warnings(self) -> list[str]:
        """What to be careful about: settings that differ, and degenerate answers of an arm."""
        return [
            *comparability.warnings(self.candidate, self.baseline),
            *comparability.answers(self.candidate, self.baseline, self._read_rows),
        ]

    def degenerate(self) -> list[Degenerate]:
        """What is degenerate in the candidate's answers; not that they are cut or hold reasoning,
        which a suite's `max_new_tokens` and `reasoning` decide."""
        every = degenerate(self.candidate, self._read_rows)
        return [one for one in every if one.name not in ("capped", "reasoning")]

    def rows(self, group: Group, suite: str, metric: str) -> list[metric_summary.Rows]:
        """The sample rows of each seed."""
        return [self._read_rows(cell, suite) for cell in group.having(suite, metric)]

    def _tables(
        self, group: Group, suite: str, metric: str, how: Estimator
    ) -> Sequence[metric_summary.Scored]:
        # `retained` is counted on what the candidate's base has right, in both arms
        bases = (
            [
                self._read_rows(base, suite)
                for base in self.candidate.bases(suite, metric, self._by_id)
            ]
            if how["kind"] == "retained"
            else []
        )
        return metric_summary.tables(how, self.rows(group, suite, metric), bases)

    def _same_tokens(self) -> bool:
        return self.candidate.tokenizer == self.baseline.tokenizer


def between(candidate: Arm, baseline: Arm, confidence: float) -> Pairs:
    """The evidence on two arms."""
    by_id = {**baseline.records.by_id, **candidate.records.by_id}
    # one cell may have been measured twice, in the folder of either arm: its id names no arm
    own = {id(cell) for cell in candidate.records.by_id.values()}

    def read(cell: Record, suite: str) -> metric_summary.Rows:
        arm = candidate if id(cell) in own else baseline
        return arm.records.read_rows(cell, suite)

    return Pairs(candidate.group, baseline.group, by_id, read, confidence)


def _narrowed(how: Estimator, where: Mapping[str, str]) -> Estimator:
    own = how["where"]
    mine = {"group": own} if isinstance(own, str) else own or {}
    return {**how, "where": {**mine, **where}} if where else how
