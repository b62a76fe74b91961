"""A gate that measures a model only as far as it takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from harness.api.task import Suite
from harness.errors import ConfigError, NotComparable
from harness.results import lookup, policy
from harness.runner.sequential_gate import Growing, checks_of, decide
from harness.stats.metric_summary import Rows
from tests.results.test_gate import PARTS, policy_file, rows, write

RULES = "rules: [{metric: quiz.accuracy, max_drop: 0.05}, {metric: quiz.cosine, max_drop: 0.05}]"


@dataclasses.dataclass
class Planned:
    """The part of a planned cell that a gate uses."""

    suites: tuple[Suite, ...]

    def as_record(self) -> dict[str, Any]:
        return {
            "model": {"name": "tiny"},
            "method": "external",
            "label": "candidate",
            "options": {},
            "seed": 0,
            "suites": ["quiz"],
        }


QUIZ = Suite(name="quiz", file="quiz.yaml", settings={"version": 1}, hash="5" * 64, parts=PARTS)


def gate(out: Path, answers: Rows, text: str = RULES) -> tuple[Any, list[int]]:
    """The decision on a model that answers so, and how many samples each interim analysis had."""
    baseline = lookup.find(str(out / "base"), [])
    rules, checks = checks_of(policy.load(policy_file(out.parent, text)), baseline)
    growing = Growing(Planned((QUIZ,)), baseline)  # type: ignore[arg-type]
    growing.tokenizer_hash = "t"
    picked: list[int] = []

    def answer(suite: Suite) -> Rows:
        assert suite.picked is not None
        picked.extend(suite.picked)
        return [answers[i] for i in suite.picked]

    counts: list[int] = []
    decision = decide(
        growing, rules, checks, answer, lambda interim: counts.append(interim["samples"]["quiz"])
    )
    assert len(picked) == len(set(picked)) == counts[-1]
    assert [interim["samples"]["quiz"] for interim in decision.looks] == counts
    return decision, counts


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write(tmp_path / "results", "base", rows(2000))
    return tmp_path / "results"


def test_a_clear_fail_and_a_clear_pass_cost_a_part_of_the_suite(out: Path) -> None:
    decision, counts = gate(out, rows(2000, seed=3, worse=0.4))
    assert (decision.verdict, decision.exit_code) == ("fail", 1)
    assert counts[-1] <= 256
    decision, counts = gate(out, rows(2000, seed=2))
    assert (decision.verdict, decision.exit_code) == ("pass", 0)
    assert counts[-1] < 2000


def test_a_close_call_takes_all_samples_and_stays_open(out: Path) -> None:
    decision, counts = gate(
        out, rows(2000, seed=3, worse=0.05), "rules: [{metric: quiz.cosine, max_drop: 0.025}]"
    )
    assert counts == [32, 64, 128, 256, 512, 1024, 2000]
    assert decision.verdict == "inconclusive"


def test_repeated_analyses_raise_no_false_alarms(tmp_path: Path) -> None:
    """Models that are just as good as the limit are stopped no more often than 5 % of the time."""
    stopped = 0
    for seed in range(60):
        folder = tmp_path / str(seed)
        write(folder, "base", rows(256))
        answers = rows(256, seed=seed + 10)
        decision, _ = gate(folder, answers, "rules: [{metric: quiz.cosine, max_drop: 0.0}]")
        stopped += decision.verdict == "fail"
    assert stopped <= 6


def test_what_a_block_cannot_tell_is_refused(out: Path) -> None:
    with pytest.raises(ConfigError, match="a cost is known only once everything is measured"):
        gate(out, rows(2000), "rules: [{metric: cost.train_seconds, max: 1}]")


def test_other_questions_than_the_baselines_are_refused(out: Path) -> None:
    other = [{**row, "prompt": "Something else?"} for row in rows(2000)]
    with pytest.raises(NotComparable, match="set fixed_shots: true"):
        gate(out, other)


# ---- the whole way -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, harness: Callable[..., Any]
) -> Path:
    """A folder with a suite of 100 texts, and the records of the tiny model on it and on tasks."""
    folder = tmp_path_factory.mktemp("measured")
    texts = [f"The {i}th lamp is {'red' if i % 3 else 'blue'}." for i in range(100)]
    (folder / "lamps.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    suite = {"name": "lamps", "version": 1, "ask": "perplexity", "data": "lamps.jsonl"}
    (folder / "lamps.yaml").write_text(yaml.safe_dump(suite))
    result = harness(
        "eval", tiny_model, "--suites", folder, "--suite", "lamps", "--suite", "forgetting",
        "--limit", 40, "--label", "release", "--out", folder / "release",
    )  # fmt: skip
    assert result.code == 0, result.stderr
    return folder


def test_a_model_is_measured_block_by_block(
    measured: Path, tiny_model: Path, harness: Callable[..., Any]
) -> None:
    texts = "{metric: lamps.perplexity, max_increase: 5%}"
    tasks = "{metric: forgetting.mmlu_dev, max_drop: 0.2}"
    result = gate_of(harness, measured, tiny_model, f"{texts}, {tasks}")
    assert result.code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verdict"] == "pass"
    # the same model: its texts are decided at once, its answers when enough of them are the same
    assert report["looks"][0]["samples"] == {"lamps": 32, "forgetting": 32}
    assert report["looks"][-1]["samples"]["lamps"] == 32
    assert report["looks"][-1]["of"] == {"lamps": 40, "forgetting": 80}
    assert "32 of 40 of lamps, 32 of 80 of forgetting: 1 of 2 rules decided" in result.stderr


def test_a_spoilt_model_is_stopped_early(
    measured: Path, tiny_model: Path, harness: Callable[..., Any], tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    spoil(tiny_model, spoilt)
    result = gate_of(harness, measured, spoilt, "{metric: lamps.perplexity, max_increase: 5%}")
    assert result.code == 1, result.stderr
    report = json.loads(result.stdout)
    assert [interim["samples"] for interim in report["looks"]] == [{"lamps": 32}]


def test_another_limit_than_the_baselines_is_refused(
    measured: Path, tiny_model: Path, harness: Callable[..., Any]
) -> None:
    rule = "{metric: lamps.perplexity, max_increase: 5%}"
    result = gate_of(harness, measured, tiny_model, rule, limit=20)
    assert result.code == 4
    assert "limit is 20 and 40" in result.error


def gate_of(
    harness: Callable[..., Any], folder: Path, model: Path, rules: str, limit: int = 40
) -> Any:
    file = policy_file(folder, f"rules: [{rules}]")
    return harness(
        "gate", model, "--baseline", folder / "release/release", "--policy", file,
        "--until-decided", "--suites", folder, "--limit", limit, "--json",
    )  # fmt: skip


def spoil(source: Path, target: Path) -> None:
    """The same model with its last norm a hundred times as large: far too sure of itself."""
    shutil.copytree(source, target)
    (file,) = target.glob("*.safetensors")
    weights = load_file(file)
    weights["model.norm.weight"] *= 100
    save_file(weights, file, metadata={"format": "pt"})


def test_analyses_that_cannot_pass_leave_the_error_to_those_that_can(tmp_path: Path) -> None:
    """With 100 samples and a margin of 0.05, only the last of three analyses can pass."""
    answers = [{**row, "output": "the same, said otherwise"} for row in rows(100)]
    write(tmp_path / "results", "base", rows(100))
    rule = "rules: [{metric: quiz.accuracy, max_drop: 0.05}]"
    decision, counts = gate(tmp_path / "results", answers, rule)
    assert counts == [32, 64, 100]
    assert decision.verdict == "pass"
    # the last interval is as wide as that of a gate without interim analyses
    (finding,) = decision.findings
    assert finding.ci_low is not None
    assert finding.ci_low == pytest.approx(-0.037, abs=0.001)
