"""Verifies a folder: its seals and hashes, its figures, its scores, its questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.api.task import Suite
from harness.verification import answers, artifacts, board, figures, folder
from harness.verification.folder import Folder
from harness.verification.report import Report
from harness.verification.suites_at_hand import SuitesAtHand


@dataclass
class Verified:
    """A results folder that was verified, for what asks further."""

    folder: Folder
    suites: dict[tuple[str, str], Suite]
    """Those at hand, by (cell, suite)."""
    report: Report
    place: str = ""
    """Where the results lie in what the report is of."""


def results(
    path: Path, at_hand: SuitesAtHand, report: Report | None = None, *, shipped: bool = True
) -> Verified:
    """Verify a results folder; `shipped` is False where it says that it has no samples.

    Raises UserError where it holds no record.
    """
    report = report or Report(str(path))
    read = folder.read(path, report, shipped=shipped)
    figures.check(read, report)
    suites = answers.check(read, at_hand, report)
    board.check(read, report)
    artifacts.check(read, report)
    report.trusts("seconds, memory, warnings and environments are what the records say")
    return Verified(read, suites, report)
