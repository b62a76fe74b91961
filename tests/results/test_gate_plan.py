"""What a policy takes, said before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.stats import power, proportions
from tests.results.test_gate import REFERENCE, harness, policy_file, rows, write


@pytest.mark.parametrize(("discordance", "margin"), [(0.02, 0.02), (0.05, 0.05), (0.1, 0.02)])
def test_four_of_five_equal_models_pass_with_the_samples_that_a_plan_names(
    discordance: float, margin: float
) -> None:
    half = discordance / 2
    n = power.pairs_needed(half, half, -margin)
    assert n is not None
    drawn = np.random.default_rng(0).multinomial(n, [half, half, 1 - discordance], size=2000)
    passed = [proportions.clears(int(a), int(b), n, -margin, 0.95) for a, b, _ in drawn]
    assert np.mean(passed) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_below_the_fewest_samples_a_share_cannot_pass(margin: float) -> None:
    fewest = power.fewest_pairs(margin)
    assert fewest == {0.01: 381, 0.02: 189, 0.05: 73}[margin]
    assert proportions.clears(0, 0, fewest, -margin, 0.95)
    assert not proportions.clears(0, 0, fewest - 1, -margin, 0.95)
    assert power.fewest_pairs(0.0) is None


def test_a_baseline_alone_is_planned_with(tmp_path: Path) -> None:
    base = REFERENCE / "methods/base"
    policy = policy_file(
        tmp_path, 'rules: [{metric: "similarity.must*", max_drop: 0.02}, '
        '{metric: perplexity.perplexity, max_increase: 5%}]'
    )  # fmt: skip
    ran = harness("gate", base, "--baseline", base, "--policy", policy, "--plan", "--json")
    assert ran.exit_code == 0, ran.exception
    plan = json.loads(ran.output)
    assert plan["patterns"] == {"similarity.must*": 1}
    right = plan["rules"][0]
    assert (right["n"], right["fewest"], right["can_pass"]) == (48, 189, False)
    counts = {needed["discordance"]: needed["samples"] for needed in right["needed"]}
    assert 500 < counts[0.02] < counts[0.05] < counts[0.1] < 2500
    first = right["needed"][0]
    assert first["hours"] == pytest.approx(first["samples"] * plan["seconds_per_sample"] / 3600)
    assert plan["rules"][-1]["needed"] == []  # one record shows no spread of pairs


def test_two_records_show_how_much_they_differ(tmp_path: Path) -> None:
    base = write(tmp_path, "base", rows(200))
    write(tmp_path, "good", rows(200, seed=2), base=base)
    policy = policy_file(
        tmp_path, "rules: [{metric: quiz.accuracy, max_drop: 0.02}, "
        "{metric: quiz.cosine, max_drop: 0.001}, {metric: cost.evaluation_seconds, max: 9}]"
    )  # fmt: skip
    good = tmp_path / "good"
    ran = harness("gate", good, "--baseline", "base", "--policy", policy, "--plan", "--json")
    share, mean, cost = json.loads(ran.output)["rules"]
    assert share["needed"][-1]["observed"]
    assert mean["needed"][0]["samples"] > 200
    assert (cost["n"], cost["needed"]) == (None, [])
    lines = harness("gate", good, "--baseline", "base", "--policy", policy, "--plan").output
    assert "189 at least to pass; for 4 of 5 equal models" in lines
    assert "one measurement, no samples" in lines


def test_a_gate_with_too_few_samples_says_so_in_a_line(tmp_path: Path) -> None:
    base = write(tmp_path, "base", rows(40))
    write(tmp_path, "good", rows(40, seed=2), base=base)
    policy = policy_file(tmp_path, "rules: [{metric: quiz.accuracy, max_drop: 0.02}]")
    ran = harness("gate", tmp_path / "good", "--baseline", "base", "--policy", policy)
    assert ran.exit_code == 3
    assert "1 rule cannot pass with so few samples" in ran.output
    assert "quiz.accuracy 40 of 189" in ran.output
