"""Gates on a judge's figures: refused of one that failed, corrected of one that did not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import ConfigError, UserError
from harness.record import JudgeErrors
from harness.results import gate
from harness.stats import metric_summary
from tests.results import test_gate
from tests.results.test_judged_differences import FAILED, GOOD, how, rows

KAPPA = "kappa is 0.01"


def judged(
    out: Path,
    label: str,
    rate: float,
    judge: JudgeErrors | None,
    *,
    base: str | None = None,
    seed: int = 1,
) -> str:
    """A record whose suite `quiz` has verdicts with and without their judge; its id."""
    answers = rows(np.random.default_rng(seed), rate, n=1000)
    judges = {"verdict": judge, "plain": None}
    section = {
        name: metric_summary.measure(how(who), True, [answers], []) for name, who in judges.items()
    }
    return test_gate.write(out, label, answers, base=base, suite={"metrics": section})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def both(out: Path, judge: JudgeErrors | None, rate: float = 0.4) -> None:
    base = judged(out, "base", 0.4, judge, seed=1)
    judged(out, "tuned", rate, judge, base=base, seed=2)


RULE = "rules:\n  - {metric: quiz.verdict, max_drop: 0.15}\n"


def test_a_rule_on_a_failed_judge_is_refused_with_the_reason_and_its_line(results: Path) -> None:
    both(results, FAILED)
    file = test_gate.policy_file(results.parent, RULE)
    found = test_gate.harness("gate", results / "tuned", "--baseline", "base", "--policy", file)
    assert isinstance(found.exception, ConfigError)
    assert found.exception.exit_code == 2
    message = str(found.exception)
    assert "gate.yaml:2: quiz.verdict: its judge failed its certificate" in message
    assert KAPPA in message
    assert "accept_failed_judge: true" in message
    assert "\n" not in message


def test_one_record_of_a_failed_judge_is_enough(results: Path) -> None:
    base = judged(results, "base", 0.4, FAILED)
    judged(results, "tuned", 0.4, GOOD, base=base, seed=2)
    with pytest.raises(ConfigError, match=KAPPA):
        test_gate.decide(results, "tuned", RULE)


def test_a_policy_may_name_a_failed_judge_and_still_passes_nothing_by_it(results: Path) -> None:
    both(results, FAILED, 0.95)
    accepted = RULE.replace("0.15", "0.15, accept_failed_judge: true")
    decided = test_gate.decide(results, "tuned", accepted)
    assert (decided.verdict, decided.exit_code) == ("inconclusive", gate.EXIT["inconclusive"])
    assert any("accepts that by name" in line for line in decided.warnings)
    # negative control: so much better a model passes by a judge that is trusted
    both(results / "trusted", GOOD, 0.95)
    assert test_gate.decide(results / "trusted", "tuned", RULE).verdict == "pass"


def test_the_default_policy_leaves_a_failed_judge_out(results: Path) -> None:
    both(results, FAILED)
    with pytest.raises(UserError, match="suite 'quiz' has no rule by default: its judge failed"):
        test_gate.decide(results, "tuned")
    both(results / "trusted", GOOD, 0.9)
    [finding] = test_gate.decide(results / "trusted", "tuned").findings
    assert (finding.name, finding.bound, finding.relative) == ("quiz.verdict", -0.02, False)


@pytest.mark.parametrize(("rate", "verdict"), [(0.4, "pass"), (0.15, "fail")])
def test_a_rule_on_a_trusted_judge_is_held_against_the_corrected_figure(
    results: Path, rate: float, verdict: str
) -> None:
    both(results, GOOD, rate)
    at_least = "rules: [{metric: quiz.verdict, min: 0.25}]"
    decided = test_gate.decide(results, "tuned", at_least)
    assert decided.verdict == verdict
    assert decided.findings[0].value == pytest.approx(rate, abs=0.06)
    # negative control: the verdicts alone wave both through
    both(results / "plain", None, rate)
    assert test_gate.decide(results / "plain", "tuned", at_least).verdict == "pass"
