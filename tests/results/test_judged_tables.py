"""Tables of a judge's figures: dimmed and marked where it is weak or failed, with the reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from harness.cli.render import comparison_table
from harness.cli.render.leaderboard_table import render
from harness.record import JudgeErrors
from harness.results import lookup
from harness.results import store as records
from harness.results.comparison import SeveralComparisons, compare
from harness.results.leaderboard import build
from tests.results.test_judged_differences import FAILED, GOOD, USELESS, mean_verdict
from tests.results.test_judged_gate import judged

WEAK: JudgeErrors = {**GOOD, "level": "weak", "reason": "kappa is 0.25"}
DIM = "\x1b[2m"


def shown(table: RenderableType, *, colours: bool = False) -> str:
    out = io.StringIO()
    kind: dict[str, Any] = {"force_terminal": True, "color_system": "standard"} if colours else {}
    Console(file=out, width=200, **kind).print(table)
    return out.getvalue()


def board(out: Path, judge: JudgeErrors | None, rate: float = 0.8) -> dict[str, Any]:
    base = judged(out, "base", 0.4, judge)
    judged(out, "tuned", rate, judge, base=base, seed=2)
    stored = records.read_records([out])
    found = build([one.data for one in stored], read_rows=records.rows_reader(stored))
    return dict(found)


def dimmed(text: str, word: str) -> bool:
    """Whether the line of a coloured table that holds the word is dim."""
    return any(DIM in line for line in text.splitlines() if word in line)


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (WEAK, "† quiz.verdict: its judge is weak: kappa is 0.25"),
        (FAILED, "† quiz.verdict: its judge failed its certificate: kappa is 0.01"),
    ],
)
def test_a_weak_or_failed_judge_is_dimmed_and_its_reason_stands_below(
    tmp_path: Path, judge: JudgeErrors, reason: str
) -> None:
    found = board(tmp_path, judge)
    text, markdown = shown(render(found)), str(render(found, "markdown"))
    assert text.count(reason) == markdown.count(reason) == 1
    assert "quiz.verdict ↑ †" in markdown.splitlines()[0]
    coloured = shown(render(found), colours=True)
    assert dimmed(coloured, "quiz.verdict")
    assert not dimmed(coloured, "quiz.plain")  # the same figures without a judge


def test_a_failed_judge_says_that_it_cannot_tell(tmp_path: Path) -> None:
    assert "cannot tell [0.000, 1.000]" not in shown(render(board(tmp_path / "weak", WEAK)))
    lines = str(render(board(tmp_path, FAILED), "markdown")).splitlines()
    assert "| cannot tell |" in lines[2]


def test_a_trusted_judge_and_no_judge_have_no_mark(tmp_path: Path) -> None:
    for place, judge in (("trusted", GOOD), ("none", None)):
        found = board(tmp_path / place, judge)
        assert "†" not in shown(render(found)) + str(render(found, "markdown"))
        arms = [lookup.find(str(tmp_path / place / name), []) for name in ("tuned", "base")]
        assert "†" not in shown(comparison_table.pair(compare(*arms)))


def test_a_judge_whose_verdicts_tell_nothing_says_why(tmp_path: Path) -> None:
    untold: JudgeErrors = {**USELESS, "level": "trusted", "bad": mean_verdict(180, 200)}
    text = str(render(board(tmp_path, untold), "markdown"))
    assert "† quiz.verdict: it cannot be told: " in text
    assert "cannot tell" in text


def test_a_comparison_marks_a_failed_judge_and_decides_nothing_by_it(tmp_path: Path) -> None:
    board(tmp_path, FAILED, rate=0.95)
    tuned, base = (lookup.find(str(tmp_path / name), []) for name in ("tuned", "base"))
    found = compare(tuned, base)
    assert found["metrics"]["quiz.verdict"]["verdict"] == "cannot tell"
    assert found["metrics"]["quiz.verdict"]["judge"]["level"] == "failed"
    several: SeveralComparisons = {
        "schema": 1,
        "against": "base",
        "rows": [found],
        "ranked_by": None,
        "groups": [],
    }
    reason = "† quiz.verdict: its judge failed its certificate: kappa is 0.01"
    for table in (
        comparison_table.pair(found),
        comparison_table.several(several),
    ):
        text = shown(table)
        assert text.count(reason) == 1
        assert "quiz.verdict" in text
        assert dimmed(shown(table, colours=True), "quiz.verdict")
