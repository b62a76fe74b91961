"""Two rows held against each other: in what they differ, and whether that may be released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.results import comparison, lookup, policy
from harness.results import gate as gating
from harness.sdk import html
from harness.sdk.measuring import existing_results
from harness.system.hardware import no_collection

if TYPE_CHECKING:
    import pandas

__all__ = ["Compared", "Gated", "compare", "gate"]


@dataclass(frozen=True)
class Compared:
    """One row minus another on the same samples."""

    report: comparison.Comparison
    """As `harness compare --json` prints it."""

    def to_pandas(self) -> pandas.DataFrame:
        """A line per metric: both figures, the difference with its interval, and the verdict."""
        import pandas

        return pandas.DataFrame(
            [{"metric": name, **figures} for name, figures in self.report["metrics"].items()]
        )

    def _repr_html_(self) -> str:
        labels = [self.report["candidate"]["label"], self.report["baseline"]["label"]]
        heads = ["metric", *labels, "difference", "p", "n", "verdict"]
        lines = [
            [
                name,
                html.figure(metric["value"]),
                html.figure(metric["baseline"]),
                html.figure(metric["delta"], metric["delta_ci_low"], metric["delta_ci_high"]),
                f"{metric['p_adjusted']:.2g}",
                str(metric["n"]),
                metric["verdict"],
            ]
            for name, metric in self.report["metrics"].items()
        ]
        return html.table(heads, lines, [*self.report["not_compared"], *self.report["warnings"]])


@dataclass(frozen=True)
class Gated:
    """A gate's decision."""

    decision: gating.Decision

    @property
    def passes(self) -> bool:
        """Whether the candidate may be released."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """Of the command: 0 passes, 1 worse than the policy allows, 3 cannot tell."""
        return self.decision.exit_code

    def to_pandas(self) -> pandas.DataFrame:
        """A line per rule: its limit, the evidence and the verdict."""
        import pandas

        return pandas.DataFrame([{**vars(one), "sentence": one.sentence} for one in self._rules])

    def _repr_html_(self) -> str:
        decision = self.decision
        lines = [
            [one.title or one.name, one.limit, one.verdict, one.sentence] for one in self._rules
        ]
        told = f"{decision.candidate} against {decision.baseline}: {decision.verdict}"
        heads = ["rule", "limit", "verdict", "evidence"]
        return html.table(heads, lines, [told, *decision.warnings])

    @property
    def _rules(self) -> Sequence[gating.Finding]:
        return self.decision.findings


def compare(
    candidate: str,
    baseline: str,
    *,
    results: Sequence[str | Path] = (),
    suites: Sequence[str] = (),
    confidence: float = 0.95,
    samples: int = 3,
) -> Compared:
    """The row `candidate` minus the row `baseline`, on the same samples, metric by metric.

    A name is a record file, FOLDER/LABEL, or a label, method, cell id or prefix of one in the
    folders `results` (default: all under results/). `suites` narrows it; `samples` of each suite
    that changed most are in the report. Raises UserError for an unknown name, and NotComparable
    where the rows did not answer the same.
    """
    folders = existing_results(results)
    ours = lookup.find(candidate, folders)
    theirs = lookup.find(baseline, folders, ours)
    return Compared(
        comparison.compare(ours, theirs, only=suites, confidence=confidence, shown=samples)
    )


def gate(
    candidate: str,
    baseline: str = lookup.BASE,
    *,
    policy_file: str | Path | None = None,
    results: Sequence[str | Path] = (),
) -> Gated:
    """Whether the row `candidate` may be released, against `baseline` or its own base.

    Names are as for `compare`. `policy_file` holds the rules; without one the default policy does.
    Raises UserError for an unknown name or a wrong policy, and NotComparable where what is held
    against each other is not the same.
    """
    rules = policy.load(Path(policy_file)) if policy_file else None
    folders = existing_results(results)
    with no_collection():
        ours = lookup.find(candidate, folders)
        theirs = lookup.baseline(baseline, ours, folders)
        return Gated(gating.decide(ours, theirs, rules))
