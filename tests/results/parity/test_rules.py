"""A gate's rules on parity checks: the last report of the candidate, held against a bound."""

from __future__ import annotations

import json
import shutil

import pytest

from harness.errors import ConfigError, NotComparable, UserError
from harness.results import gate, lookup, policy, store
from harness.results.parity import reports

FIGURES = {
    "identical": {"value": 0.95, "ci_low": 0.83, "ci_high": 0.99, "n": 40},
    "top1": {"value": 0.99, "ci_low": 0.985, "ci_high": 0.995, "n": 900},
    "kl": {"value": 0.002, "ci_low": 0.001, "ci_high": 0.003, "n": 900},
    "max_difference": {"value": 0.3, "ci_low": None, "ci_high": None, "n": 900},
}


@pytest.fixture
def out(finished, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(finished.out, folder, ignore=shutil.ignore_patterns("artifacts", "logs"))
    return folder


@pytest.fixture
def cell(finished):
    return finished.records()["full-0"]["id"]


def write(out, cell, *, form="a", at="2026-01-01T00:00:00+00:00", verdict="same", figures=FIGURES):
    report = {
        "schema": 1,
        "at": at,
        "cell": cell,
        "form": {"name": form, "identity": form * 12},
        "verdict": verdict,
        "causes": [{"name": verdict}],
        "prompts": 40,
        "figures": figures,
    }
    return store.write_json(reports.file_of(out, cell, form * 12), store.seal(report))


def decided(out, cell, tmp_path, *rules):
    file = tmp_path / "gate.yaml"
    file.write_text(json.dumps({"rules": list(rules)}))
    candidate = lookup.find(cell, [out])
    return gate.decide(candidate, lookup.base_of(candidate), policy.load(file))


def verdicts(decision):
    return [finding.verdict for finding in decision.findings]


def test_a_rule_holds_the_last_report(out, cell, tmp_path):
    write(out, cell)
    rules = [
        {"metric": "parity.same", "min": 1},
        {"metric": "parity.identical", "min": 0.8},
        {"metric": "parity.kl", "max": 0.01},
        {"metric": "parity.max_difference", "max": 0.5},
    ]
    decision = decided(out, cell, tmp_path, *rules)
    assert verdicts(decision) == ["pass"] * 4
    assert decision.exit_code == 0
    assert any("parity of" in warning for warning in decision.warnings)
    assert "40 samples" in decision.findings[1].sentence

    write(out, cell, form="b", at="2026-02-01T00:00:00+00:00", verdict="not the same")
    decision = decided(out, cell, tmp_path, rules[0])
    assert verdicts(decision) == ["fail"]
    assert decision.exit_code == 1


def test_the_interval_decides(out, cell, tmp_path):
    write(out, cell)
    undecided = [{"metric": "parity.identical", "min": 0.9}]
    assert verdicts(decided(out, cell, tmp_path, *undecided)) == ["inconclusive"]
    beyond = [{"metric": "parity.top1", "min": 0.999}, {"metric": "parity.kl", "max": 0.0001}]
    assert verdicts(decided(out, cell, tmp_path, *beyond)) == ["fail", "fail"]


def test_without_a_report_the_command_is_said(out, cell, tmp_path):
    with pytest.raises(ConfigError, match=rf"harness parity {cell} --served URL") as error:
        decided(out, cell, tmp_path, {"metric": "parity.same", "min": 1})
    assert len(str(error.value).splitlines()) == 1
    assert "gate.yaml:1" in str(error.value)
    # a policy that does not ask for one needs none
    decided(out, cell, tmp_path, {"metric": "answers.rougeL", "max_drop": 1})


def test_a_report_that_was_changed_or_lacks_the_figure_is_refused(out, cell, tmp_path):
    file = write(out, cell, figures={"identical": FIGURES["identical"]})
    with pytest.raises(NotComparable, match="gave no log-probabilities"):
        decided(out, cell, tmp_path, {"metric": "parity.kl", "max": 1})
    file.write_text(file.read_text().replace("0.95", "0.99"))
    with pytest.raises(UserError, match="broken or changed"):
        decided(out, cell, tmp_path, {"metric": "parity.identical", "min": 0})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"metric": "parity.identical", "max_drop": 0.1}, "give `min` or `max`"),
        ({"metric": "parity.speed", "min": 1}, "no metric 'parity.speed'"),
        ({"metric": "parity.kl", "max": 1, "where": {"group": "a"}}, "leave `where` out"),
    ],
)
def test_rules_that_make_no_sense(out, cell, tmp_path, rule, said):
    write(out, cell)
    with pytest.raises(ConfigError, match=said):
        decided(out, cell, tmp_path, rule)


def test_of_several_cells_the_worst_counts(out, finished, tmp_path):
    cells = [finished.records()[f"lora-{seed}"]["id"] for seed in (0, 1)]
    write(out, cells[0])
    worse = {**FIGURES, "max_difference": {**FIGURES["max_difference"], "value": 2.0}}
    write(out, cells[1], figures=worse)
    decision = decided(out, "lora", tmp_path, {"metric": "parity.max_difference", "max": 1})
    assert [finding.value for finding in decision.findings] == [2.0]
    assert verdicts(decision) == ["fail"]
