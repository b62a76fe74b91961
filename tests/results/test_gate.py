"""The gate and the comparison, from records written and read back on disk."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.cli.render import gate_report
from harness.errors import ConfigError, HarnessError, NotComparable, UserError
from harness.record import new_record
from harness.results import gate, lookup, policy
from harness.results import store as records
from harness.results.comparison import compare
from harness.stats import corpus_scores
from harness.stats.metric_summary import summarise
from harness.types import Metric

METRICS = [
    Metric("accuracy", True, "share"),
    Metric("perplexity", False, "exp_ratio", score="nll", per="tokens"),
    Metric("bits", False, "ratio", score="nll", per="tokens"),
    Metric("cosine", True),
    Metric("accuracy.north", True, "share", score="accuracy", where="north"),
]
PARTS = {"num_fewshot": 0, "max_new_tokens": 64, "data": "0123456789ab"}
ENVIRONMENT = {"cpu": "one", "packages": {"torch": "2.13.0", "peft": "0.21.2"}}


def rows(n: int, *, worse: float = 0.0, seed: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Answers of a model; `worse` is the share of right answers lost and of nll gained."""
    hard = np.random.default_rng(0).normal(size=n)
    own = np.random.default_rng(seed)
    right = hard + own.normal(0, 0.05, n) < 0.5
    lost = own.random(n) < worse
    nll = np.exp(hard / 4) * 30 * (1 + worse) + own.normal(0, 0.3, n)
    cosine = 0.6 - hard / 10 - worse / 2 + own.normal(0, 0.02, n)
    return [
        {
            "id": f"q{i:05}",
            "group": "north" if i % 2 else "south",
            "prompt": f"Question {i}?",
            "reference": "yes",
            "output": f"answer {i} of {seed}",
            "scores": {
                "accuracy": float(right[i] and not lost[i]),
                "nll": float(nll[i]),
                "tokens": 12,
                "cosine": float(cosine[i]),
            },
            **changes,
        }
        for i in range(n)
    ]


def write(
    out: Path,
    label: str,
    answers: list[dict[str, Any]] | None,
    *,
    base: str | None = None,
    seed: int = 0,
    suite: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
) -> str:
    """A record of one suite, `quiz`; its id."""
    key = f"{label}-s{seed}"
    evaluation = None
    if answers is not None:
        section = {
            "hash": "5" * 64,
            "version": 1,
            "parts": PARTS,
            "metrics": summarise(METRICS, answers),
            "samples": records.write_samples(out, key, "quiz", answers),
            **(suite or {}),
        }
        phases = {"quiz": {"seconds": 2.0, "peak_host_bytes": 1000}}
        evaluation = {
            "phases": phases,
            "suites": {"quiz": section},
            "base": base,
            "tokenizer_hash": "t",
        }
    plan = {
        "model": {"name": "tiny", "content_hash": "c"},
        "method": label,
        "label": label,
        "options": {},
        "budget": budget or {"precision": "float32"},
        "seed": seed,
        "suites": ["quiz"],
    }
    error = None if answers is not None else {"type": "MemoryError", "message": "too big"}
    status: Any = "ok" if answers is not None else "oom"
    place = environment or ENVIRONMENT
    record = new_record(
        id=key,
        status=status,
        plan=plan,
        training=training,
        evaluation=evaluation,
        environment=place,
        error=error,
    )
    records.write_record(out, record)
    return key


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A base, a method as good, a method that lost a fifth, and one that ran out of memory."""
    folder = tmp_path / "results" / "story"
    base = write(folder, "base", rows(1000))
    write(folder, "good", rows(1000, seed=2), base=base, training=trained(10))
    write(folder, "bad", rows(1000, seed=3, worse=0.2), base=base, training=trained(20))
    write(folder, "dead", None)
    return folder


def trained(seconds: float) -> dict[str, Any]:
    phases = {"train": {"seconds": seconds, "peak_host_bytes": round(1e6 * seconds)}}
    return {"phases": phases, "artifact_bytes": 5 * 2**20}


def policy_file(folder: Path, text: str) -> Path:
    file = folder / "gate.yaml"
    file.write_text(text)
    return file


def decide(out: Path, name: str, rules: str | None = None, baseline: str = "base") -> gate.Decision:
    loaded = None if rules is None else policy.load(policy_file(out.parent, rules))
    candidate = lookup.find(str(out / name), [])
    return gate.decide(candidate, lookup.baseline(baseline, candidate, [out]), loaded)


def harness(*arguments: object) -> Result:
    """The command, in this process; the exit code of an error is the error's."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


# ---- deciding ------------------------------------------------------------------------------------


def test_the_default_policy_passes_an_equal_and_stops_a_worse_model(out: Path) -> None:
    good, bad = decide(out, "good"), decide(out, "bad")
    assert (good.verdict, good.exit_code) == ("pass", 0)
    assert (bad.verdict, bad.exit_code) == ("fail", 1)
    assert [finding.name for finding in bad.findings] == ["quiz.accuracy"]


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("metric: quiz.accuracy, max_drop: 0.05", "pass", "fail"),
        ("metric: quiz.accuracy, max_drop: 8%", "pass", "fail"),
        ("metric: quiz.perplexity, max_increase: 5%", "pass", "fail"),
        ("metric: quiz.perplexity, max_increase: 3", "pass", "fail"),
        ("metric: quiz.bits, max_increase: 0.1", "pass", "fail"),
        ("metric: quiz.cosine, max_drop: 0.01", "pass", "fail"),
        ("metric: quiz.cosine, min: 0.55", "pass", "fail"),
        ("metric: quiz.accuracy, min: 0.6", "pass", "fail"),
        ("metric: quiz.perplexity, max: 16", "pass", "fail"),
        ("metric: quiz.accuracy.north, max_drop: 0.08", "pass", "fail"),
        ("metric: quiz.accuracy, where: {group: south}, max_drop: 0.08", "pass", "fail"),
        ("metric: quiz.cosine, better_than: base", "inconclusive", "fail"),
        ("metric: quiz.cosine, better_than: baseline", "inconclusive", "fail"),
        ("metric: cost.train_seconds, max: 15", "pass", "fail"),
    ],
)
def test_each_limit_passes_the_good_and_stops_the_bad(
    out: Path, rule: str, good: str, bad: str
) -> None:
    text = f"rules:\n  - {{{rule}}}\n"
    assert decide(out, "good", text).verdict == good
    decision = decide(out, "bad", text)
    assert decision.verdict == bad
    assert decision.exit_code == 1


@pytest.mark.parametrize(
    "rule",
    [
        "min: -0.05",  # the limit lies beyond the range: what passes is still the interval's
        "min: 0.0",
        "max: 1.05",
        "max: 1.0",
        "max_drop: 1.2",
        "max_drop: 20%",
        "better_than: base",
    ],
)
def test_a_range_changes_how_an_interval_is_shown_and_no_verdict(tmp_path: Path, rule: str) -> None:
    decisions = []
    for name, bounds in (("free", None), ("kept", (0.0, 1.0))):
        metrics = [Metric("cosine", True, bounds=bounds)]
        folder, base = tmp_path / name, None
        for label, seed in (("base", 1), ("good", 2)):
            answers = rows(4, seed=seed)
            for row, value in zip(answers, (0.999, 0.01, 0.98 - seed / 9, 0.97), strict=True):
                row["scores"]["cosine"] = value
            section = {"metrics": summarise(metrics, answers)}
            base = write(folder, label, answers, base=base, suite=section)
        decisions.append(decide(folder, "good", f"rules: [{{metric: quiz.cosine, {rule}}}]"))
    free, kept = (decision.findings[0] for decision in decisions)
    hidden = {"ci_low": None, "ci_high": None}
    assert replace(free, **hidden) == replace(kept, **hidden)
    assert free.ci_low is not None
    assert free.ci_high is not None
    if rule.startswith(("min", "max:")):
        assert free.ci_low < 0
        assert free.ci_high > 1
        assert (kept.ci_low, kept.ci_high) == (0, 1)
    else:
        assert kept.ci_low == max(free.ci_low, -1)
        assert kept.ci_high == free.ci_high


def test_a_corpus_score_is_gated_and_compared_on_its_sums(tmp_path: Path) -> None:
    metric, base = Metric("bleu", True, "corpus_bleu", bounds=(0.0, 100.0)), None
    sums = {}
    for label, lost in (("base", 0), ("good", 0.5), ("bad", 6)):
        answers = rows(300, seed=2)
        for i, row in enumerate(answers):
            length, few = 8 + i % 5, lost if i % 2 else 0
            ngrams = [length - k for k in range(4)]
            matches = [max(0.0, count - 2 - i % 3 - few) for count in ngrams]
            row["statistics"] = {"bleu": [length, length, *matches, *ngrams]}
            row["output"] = f"{label} {i}"
        sums[label] = np.sum([row["statistics"]["bleu"] for row in answers], axis=0)
        section = {"metrics": summarise([metric], answers)}
        key = write(tmp_path, label, answers, base=base, suite=section)
        base = base or key
    scores = {label: float(corpus_scores.bleu(total)) for label, total in sums.items()}
    for label, verdict in (("good", "pass"), ("bad", "fail")):
        text = "rules: [{metric: quiz.bleu, max_drop: 5}]"
        decision = decide(tmp_path, label, text, baseline="base")
        assert decision.verdict == verdict
        (finding,) = decision.findings
        assert finding.change == pytest.approx(scores[label] - scores["base"])
    arms = [lookup.find(str(tmp_path / label), []) for label in ("bad", "base")]
    compared = compare(*arms)
    difference = compared["metrics"]["quiz.bleu"]
    assert difference["verdict"] == "worse"
    assert difference["value"] == pytest.approx(scores["bad"])
    assert difference["delta"] == pytest.approx(scores["bad"] - scores["base"])
    assert compared["samples"]["quiz"]["better"] == []
    assert len(compared["samples"]["quiz"]["worse"]) == 3


def test_too_few_samples_are_inconclusive_and_say_how_many_would_do(tmp_path: Path) -> None:
    base = write(tmp_path, "base", rows(40))
    write(tmp_path, "good", rows(40, seed=2), base=base)
    decision = decide(tmp_path, "good", "rules: [{metric: quiz.accuracy, max_drop: 0.02}]")
    assert (decision.verdict, decision.exit_code) == ("inconclusive", 3)
    (finding,) = decision.findings
    assert finding.more_samples is not None
    assert finding.more_samples_low is not None
    assert finding.more_samples_high is not None
    assert finding.more_samples_low <= finding.more_samples <= finding.more_samples_high
    assert finding.more_samples > 100
    assert f"about {finding.more_samples} more samples would decide" in finding.sentence
    # so many do
    bigger = tmp_path / "bigger"
    n = 40 + 2 * finding.more_samples
    base = write(bigger, "base", rows(n))
    write(bigger, "good", rows(n, seed=2), base=base)
    assert decide(bigger, "good", "rules: [{metric: quiz.accuracy, max_drop: 0.02}]").exit_code == 0


def test_a_policy_may_let_what_is_inconclusive_pass(tmp_path: Path) -> None:
    base = write(tmp_path, "base", rows(40))
    write(tmp_path, "good", rows(40, seed=2), base=base)
    text = "inconclusive: pass\nrules: [{metric: quiz.accuracy, max_drop: 0.02}]"
    decision = decide(tmp_path, "good", text)
    assert (decision.verdict, decision.exit_code) == ("inconclusive", 0)
    assert "the policy lets it pass" in gate_report.headline(decision)


def test_holm_keeps_a_chance_finding_among_many_rules_from_stopping(tmp_path: Path) -> None:
    base = write(tmp_path, "base", rows(300))
    write(tmp_path, "a", rows(300, seed=2, worse=0.012), base=base)
    rule = "{metric: quiz.cosine, max_drop: 0.0}"
    alone = decide(tmp_path, "a", f"rules: [{rule}]")
    assert alone.verdict == "fail"
    p = alone.findings[0].p
    rules = [rule, *("{metric: quiz.accuracy, max_drop: 0.3}" for _ in range(int(0.05 / p) + 1))]
    text = f"rules: [{', '.join(rules)}]"
    corrected = decide(tmp_path, "a", text)
    assert corrected.findings[0].p > 0.05
    assert corrected.verdict == "inconclusive"
    assert decide(tmp_path, "a", f"correction: none\n{text}").verdict == "fail"


def test_several_seeds_are_one_arm_and_their_spread_counts(tmp_path: Path) -> None:
    base = write(tmp_path, "base", rows(200))
    for seed, worse in enumerate((0.0, 0.1, 0.0)):
        write(tmp_path, "a", rows(200, seed=seed + 5, worse=worse), base=base, seed=seed)
    text = "rules: [{metric: quiz.cosine, max_drop: 0.04}]"
    together = decide(tmp_path, "a", text)
    (finding,) = together.findings
    single = decide(tmp_path, "a-s0", text).findings[0]
    assert finding.ci_low is not None
    assert single.ci_low is not None
    assert finding.ci_high - finding.ci_low > 2 * (single.ci_high - single.ci_low)  # type: ignore[operator]


# ---- what may not be compared --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hash": "6" * 64, "parts": {**PARTS, "num_fewshot": 5}}, "num_fewshot is 5 and 0"),
        ({"hash": "6" * 64, "parts": {**PARTS, "chat_template": "x"}}, "chat_template is 'x'"),
        ({"hash": "6" * 64, "parts": {}, "version": 2}, "version is 2 and 1"),
        ({"hash": "6" * 64}, "its hash differs, and the records do not show which part does"),
        ({"data_hash": "new"}, "the data of its tasks"),
    ],
)
def test_a_changed_suite_is_refused_with_the_part_that_differs(
    out: Path, changed: dict[str, Any], message: str
) -> None:
    write(out, "other", rows(1000), base="base-s0", suite=changed)
    with pytest.raises(NotComparable, match=message):
        decide(out, "other")
    with pytest.raises(NotComparable, match=message):
        compare(lookup.find(str(out / "other"), []), lookup.find(str(out / "base"), []))


def test_a_score_that_was_not_a_number_is_refused(out: Path) -> None:
    broken = rows(1000)
    broken[7]["scores"]["nll"] = float("nan")
    write(out, "broken", broken, base="base-s0")
    with pytest.raises(NotComparable, match=r"1 only in the baseline \(such as 'q00007'\)"):
        decide(out, "broken", "rules: [{metric: quiz.perplexity, max_increase: 5%}]")


def test_a_model_without_results_is_no_candidate(out: Path) -> None:
    with pytest.raises(NotComparable, match="ended with 'oom'"):
        decide(out, "dead")


def test_a_suite_that_the_candidate_lacks_is_not_passed_over(out: Path) -> None:
    for key, name in (("good-s0", "quiz"), ("base-s0", "more")):
        file = out / f"cells/{key}.json"
        record = json.loads(file.read_text())
        suites = record["evaluation"]["suites"]
        suites[name] = suites["quiz"]
        records.write_json(file, records.seal(record))
    with pytest.raises(NotComparable, match=r"good has no more.accuracy and base has"):
        decide(out, "good")
    comparison = compare(lookup.find(str(out / "good"), []), lookup.find(str(out / "base"), []))
    assert comparison["not_compared"] == ["suite 'more': only base has a result"]


def test_what_may_move_a_score_a_little_is_a_warning(out: Path) -> None:
    place = {"cpu": "two", "packages": {"torch": "2.14.0", "peft": "0.21.2"}}
    budget = {"precision": "bf16"}
    write(out, "new", rows(1000), base="base-s0", environment=place, budget=budget)
    decision = decide(out, "new")
    assert [warning.split(" differs")[0] for warning in decision.warnings] == [
        "precision",
        "device",
        "torch",
    ]


def test_an_edited_sample_file_is_refused(out: Path) -> None:
    file = out / "samples/bad-s0/quiz.jsonl.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"0.0", b"1.0")))
    with pytest.raises(UserError, match="changed since it was recorded"):
        decide(out, "bad")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="changed since it was recorded"):
        decide(out, "bad")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_no_record_holds_what_is_not_a_number(out: Path, word: str) -> None:
    file = out / "cells/bad-s0.json"
    record = json.loads(file.read_text())
    record["evaluation"]["suites"]["quiz"]["metrics"]["cosine"]["value"] = "HERE"
    file.write_text(json.dumps(record).replace('"HERE"', word))
    with pytest.raises(UserError, match=f"holds {word}"):
        decide(out, "bad")


def test_another_schema_version_is_refused(out: Path) -> None:
    file = out / "cells/bad-s0.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    with pytest.raises(UserError, match="schema 99"):
        decide(out, "bad")


# ---- policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{metric: quiz.acuracy, max_drop: 0.1}]", "did you mean .quiz.accuracy"),
        ("rules:\n - {metric: quiz.cosine, max_drop: -0.1}", ":2: .*expected zero or more"),
        ("rules:\n - {metric: quiz.cosine, max_drop: -5%}", ":2: .*expected zero or more"),
        ("rules:\n - {metric: quiz.cosine, max_drop: much}", "expected a number or a percentage"),
        ("rules:\n - {metric: quiz.cosine}", "got no limit"),
        ("rules:\n - {metric: quiz.cosine, min: 1, max: 2}", "got min and max"),
        ("rules:\n - {metric: quiz.cosine, max_dorp: 1}", "unknown key 'max_dorp'.*max_drop"),
        ("rules: []", "rules"),
        ("confidence: 1.5\nrules: [{metric: quiz.cosine, min: 1}]", "confidence"),
        ("confidence: .nan\nrules: [{metric: quiz.cosine, min: 1}]", "confidence"),
        ("rules: [{metric: quiz.cosine, min: .nan}]", "min"),
    ],
)
def test_a_wrong_policy_is_reported_with_its_line(out: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decide(out, "good", text)


def test_a_rule_may_stand_for_many_metrics(out: Path) -> None:
    decision = decide(out, "bad", "rules: [{metric: 'quiz.accuracy*', max_drop: 0.5}]")
    assert [finding.name for finding in decision.findings] == [
        "quiz.accuracy",
        "quiz.accuracy.north",
    ]


# ---- names ---------------------------------------------------------------------------------------


def test_an_arm_is_a_file_a_row_an_id_a_prefix_or_the_only_row(out: Path) -> None:
    for name in (out / "cells/good-s0.json", out / "good", out / "good-s0", out / "goo"):
        assert lookup.find(str(name), []).group.label == "good"
    assert lookup.find("good", [out]).group.label == "good"
    with pytest.raises(UserError, match="has 3 rows"):
        lookup.find(str(out), [])
    (out / "cells/bad-s0.json").unlink()
    (out / "cells/dead-s0.json").unlink()
    assert lookup.find(str(out), []).group.label == "good"


def test_a_label_that_two_models_have_names_neither(out: Path) -> None:
    file = out / "cells/bad-s0.json"
    record = json.loads(file.read_text())
    record["plan"] |= {"label": "good", "method": "good"}
    records.write_json(file, records.seal(record))
    with pytest.raises(UserError, match=r"'good' names 2 rows: .*bad-s0 \(good \(tiny\)\)"):
        lookup.find("good", [out])
    assert lookup.find("bad", [out]).group.label == "good"


@pytest.mark.parametrize(
    ("name", "message"),
    [("godo", "did you mean .good"), ("nowhere/good", "no such record"), ("x.json", "no such")],
)
def test_an_unknown_name_is_refused(out: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lookup.find(name, [out])


def test_a_baseline_may_lie_in_another_folder(out: Path, tmp_path: Path) -> None:
    write(tmp_path / "old", "release", rows(1000, seed=9))
    decision = decide(out, "bad", baseline=str(tmp_path / "old/release"))
    assert (decision.baseline, decision.verdict) == ("release", "fail")


# ---- comparing -----------------------------------------------------------------------------------


def test_a_comparison_has_verdicts_and_what_the_test_could_see(out: Path) -> None:
    comparison = compare(lookup.find(str(out / "bad"), []), lookup.find(str(out / "base"), []))
    verdicts = {name: metric["verdict"] for name, metric in comparison["metrics"].items()}
    assert verdicts == dict.fromkeys(verdicts, "worse")
    cosine = comparison["metrics"]["quiz.cosine"]
    assert cosine["delta"] == pytest.approx(cosine["value"] - cosine["baseline"])
    assert cosine["delta_ci_low"] < cosine["delta"] < cosine["delta_ci_high"] < 0
    assert cosine["p"] <= cosine["p_adjusted"]
    # what 4 of 5 such tests see is 2.8 standard errors
    width = cosine["delta_ci_high"] - cosine["delta_ci_low"]
    assert cosine["detectable"] == pytest.approx(2.80 * width / (2 * 1.96), rel=0.01)
    equal = compare(lookup.find(str(out / "good"), []), lookup.find(str(out / "base"), []))
    assert equal["metrics"]["quiz.perplexity"]["verdict"] == "tied"


def test_a_comparison_shows_what_changed_most_with_both_outputs(out: Path) -> None:
    comparison = compare(
        lookup.find(str(out / "bad"), []), lookup.find(str(out / "base"), []), shown=2
    )
    worse = comparison["samples"]["quiz"]["worse"]
    assert len(worse) == 2
    assert all(sample["score"] < sample["baseline_score"] for sample in worse)
    assert worse[0]["prompt"].startswith("Question")
    assert worse[0]["output"].endswith("of 3")
    assert worse[0]["baseline_output"].endswith("of 1")
    assert comparison["candidate"]["cost"]["train_seconds"] == 20


def test_figures_per_token_of_two_tokenizers_are_left_out(out: Path) -> None:
    key = write(out, "other", rows(1000), base="base-s0")
    file = out / "cells" / f"{key}.json"
    record = json.loads(file.read_text())
    record["evaluation"]["tokenizer_hash"] = "another"
    records.write_json(file, records.seal(record))
    comparison = compare(lookup.find(str(out / "other"), []), lookup.find(str(out / "base"), []))
    assert "quiz.perplexity" not in comparison["metrics"]
    assert comparison["not_compared"] == [
        "quiz.perplexity: per token, and the arms have different tokenizers; see bits_per_byte"
    ]
    with pytest.raises(NotComparable, match="one tokenizer"):
        decide(out, "other", "rules: [{metric: quiz.perplexity, max_increase: 5%}]")


# ---- the commands --------------------------------------------------------------------------------


def test_compare_prints_two_arms_and_a_whole_folder(out: Path) -> None:
    result = harness("compare", out / "bad", out / "base")
    assert result.exit_code == 0
    assert "worse" in result.output
    assert "Question" in result.output
    comparison = json.loads(harness("compare", out / "bad", out / "base", "--json").output)
    assert comparison["metrics"]["quiz.accuracy"]["verdict"] == "worse"
    (out / "cells/dead-s0.json").unlink()
    table = json.loads(harness("compare", out, "--json").output)
    assert [row["candidate"]["label"] for row in table["rows"]] == ["bad", "good"]
    assert [(group["rank"], set(group["rows"])) for group in table["groups"]] == [
        (1, {"good", "base"}),
        (3, {"bad"}),
    ]
    assert "not told apart from its first" in harness("compare", out).output


def test_gate_writes_what_ci_systems_read(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    rules = policy_file(
        tmp_path,
        "rules:\n"
        "  - {metric: quiz.accuracy, max_drop: 0.05, name: still right}\n"
        "  - {metric: quiz.cosine, better_than: base}\n"
        "  - {metric: quiz.cosine, min: 0.1}\n",
    )
    junit, summary = tmp_path / "deep/junit.xml", tmp_path / "summary.md"
    result = harness(
        "gate", out / "bad", "--baseline", "base", "--policy", rules,
        "--junit", junit, "--summary", summary, "--json",
    )  # fmt: skip
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert (report["verdict"], report["exit_code"]) == ("fail", 1)
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "2", "0")
    case = suite.findall("testcase")[0]
    assert case.get("name") == "still right (quiz.accuracy) may drop by 0.05"
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("type") == "regression"
    assert "1000 samples" in str(failure.get("message"))
    assert "❌ fail" in summary.read_text()
    assert (tmp_path / "step.md").read_text().strip() == summary.read_text().strip()


def test_gate_exit_codes_are_the_contracts(out: Path, tmp_path: Path) -> None:
    base = write(tmp_path / "few", "base", rows(12))
    write(tmp_path / "few", "good", rows(12, seed=2), base=base)
    write(out, "v2", rows(1000), base="base-s0", suite={"hash": "6" * 64, "version": 2})
    easy = policy_file(tmp_path, "rules: [{metric: quiz.cosine, max_drop: 0.05}]")
    results = {
        0: harness("gate", out / "good", "--baseline", "base", "--policy", easy),
        1: harness("gate", out / "bad", "--baseline", "base", "--policy", easy),
        3: harness("gate", tmp_path / "few/good", "--baseline", "base"),
    }
    assert {
        result.exit_code for code, result in results.items() if result.exit_code == code
    } == set(results)
    result = harness("gate", out / "v2", "--baseline", "base")
    assert isinstance(result.exception, HarnessError)
    assert result.exception.exit_code == 4
    result = harness("gate", out / "good", "--baseline", "base", "--policy", tmp_path / "no.yaml")
    assert isinstance(result.exception, HarnessError)
    assert result.exception.exit_code == 2
    result = harness("gate", out / "good", "--baseline", "base", "--adapter", "x")
    assert "--until-decided" in str(result.exception)


def test_a_suites_name_may_hold_a_dot(out: Path) -> None:
    for file in (out / "cells").glob("*.json"):
        record = json.loads(file.read_text())
        if record["evaluation"]:
            suites = record["evaluation"]["suites"]
            suites["quiz.v2"] = suites.pop("quiz")
            records.write_json(file, records.seal(record))
    decision = decide(out, "bad", "rules: [{metric: quiz.v2.accuracy, max_drop: 0.05}]")
    assert [finding.name for finding in decision.findings] == ["quiz.v2.accuracy"]
    assert decision.verdict == "fail"
    comparison = compare(lookup.find(str(out / "bad"), []), lookup.find(str(out / "base"), []))
    assert "quiz.v2.accuracy.north" in comparison["metrics"]
    assert comparison["samples"]["quiz.v2"]["worse"]


# ---- costs, and what reports may hold ------------------------------------------------------------


def test_a_cost_that_only_one_arm_has_is_refused(out: Path) -> None:
    file = out / "cells/bad-s0.json"
    record = json.loads(file.read_text())
    record["plan"]["price_per_hour"] = 2.0
    records.write_json(file, records.seal(record))
    for limit in ("max_increase: 10%", "max_increase: 1"):
        with pytest.raises(NotComparable, match=r"cost.dollars: base has none; name another"):
            decide(out, "bad", f"rules: [{{metric: cost.dollars, {limit}}}]")
    with pytest.raises(NotComparable, match=r"cost.dollars: good has none; leave the rule out"):
        decide(out, "good", "rules: [{metric: cost.dollars, max: 1}]", baseline="bad")
    assert decide(out, "bad", "rules: [{metric: cost.dollars, max: 1}]").verdict == "pass"


def test_a_peak_of_passes_on_a_gpu_is_no_cost_of_the_model(out: Path) -> None:
    """What was not trained has the peak of its passes, which follow the card's free memory."""

    def measured(name: str, tokens: int) -> None:
        file = out / f"cells/{name}-s0.json"
        record = json.loads(file.read_text())
        record["training"] = None
        record["environment"] = {"gpu": {"name": "Some GPU", "memory_bytes": 24 << 30}}
        record["evaluation"]["phases"] = {"quiz": {"seconds": 1, "peak_allocated_bytes": tokens}}
        record["evaluation"]["passes"] = {"tokens_per_pass": tokens}
        records.write_json(file, records.seal(record))

    rule = "rules: [{metric: cost.peak_memory_bytes, %s}]"
    measured("bad", 4096)
    measured("base", 2048)
    with pytest.raises(NotComparable, match="bad was not trained, so its peak is that of its pass"):
        decide(out, "bad", rule % "max_increase: 10%")
    with pytest.raises(NotComparable, match="bad was not trained"):
        decide(out, "bad", rule % "max: 24000000000")
    measured("base", 4096)  # of one size they are two models' peaks
    assert decide(out, "bad", rule % "max_increase: 10%").verdict == "pass"


def test_a_cost_of_a_record_without_a_seal_is_a_warning(out: Path) -> None:
    rules = "rules: [{metric: cost.train_seconds, max: 1000}]"
    assert decide(out, "good", rules).warnings == []
    file = out / "cells/good-s0.json"
    record = json.loads(file.read_text())
    del record["sha256"]
    file.write_text(json.dumps(record))
    warning = "costs of good are unchecked: their records have no seal"
    assert decide(out, "good", rules).warnings == [warning]
    assert decide(out, "good").warnings == [], "scores are computed from the samples"


def test_one_cell_that_two_folders_measured_is_compared_with_the_other(
    out: Path, tmp_path: Path
) -> None:
    write(tmp_path / "again", "base", rows(1000, worse=0.3))
    again, first = (lookup.find(str(place), []) for place in (tmp_path / "again", out / "base"))
    assert compare(again, first)["metrics"]["quiz.accuracy"]["delta"] < -0.1


def test_a_percentage_of_a_cost_of_zero_is_refused(out: Path) -> None:
    write(out, "free", rows(1000), base="base-s0", training=trained(0))
    rule = "rules: [{metric: cost.train_seconds, max_increase: %s}]"
    with pytest.raises(NotComparable, match="a percentage of 0 is no limit; give an absolute one"):
        decide(out, "good", rule % "5%", baseline="free")
    assert decide(out, "good", rule % "20", baseline="free").verdict == "pass"


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "nan%", "inf%"])
@pytest.mark.parametrize("limit", ["min", "max", "max_drop", "max_increase"])
def test_a_limit_that_is_no_number_is_refused_with_its_line(
    out: Path, limit: str, value: str
) -> None:
    text = f"rules:\n  - {{metric: quiz.cosine, {limit}: {value}}}\n"
    with pytest.raises(ConfigError, match=rf"gate.yaml:2: .*{limit}"):
        decide(out, "good", text)


HOSTILE = "\x1b[31m \x00 \ufffe <b>&\"' | `x` [a](b)\n::error::forged\r\n##vso[task.complete]"


def hostile(out: Path) -> gate.Decision:
    """A decision whose candidate and rule are called what forges and breaks reports."""
    decision = decide(out, "bad", "rules: [{metric: quiz.cosine, max_drop: 0.01}]")
    findings = [replace(finding, title=HOSTILE, limit=HOSTILE) for finding in decision.findings]
    name = "::warning::bad\n::error::forged"
    return replace(decision, candidate=name, findings=findings, warnings=[HOSTILE])


def test_junit_is_xml_whatever_a_name_holds(out: Path) -> None:
    root = ElementTree.fromstring(gate_report.junit(hostile(out)).encode())
    (case,) = root.iter("testcase")
    assert "\\u001b[31m \\u0000 \\ufffe <b>&" in str(case.get("name"))


def test_no_line_of_a_gate_is_a_command_to_the_ci(out: Path) -> None:
    decision = hostile(out)
    printed = gate_report.lines(decision)
    assert len(printed) == 2
    for text in (*printed, gate_report.junit(decision), gate_report.markdown(decision)):
        lines = [line.strip() for line in text.splitlines()]
        assert not [line for line in lines if line.startswith(("::", "##v"))]
    assert printed[-1].startswith("\\::warning::bad ::error::forged against base")


def test_a_summary_shows_names_as_they_are(out: Path) -> None:
    summary = gate_report.markdown(hostile(out))
    title, _, _, _, row, _, note = summary.splitlines()
    assert title.startswith("### ")
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert "&lt;b&gt;" in note
    assert "[a]\\(b)" in note


# ---- the same answers ----------------------------------------------------------------------------


def test_the_same_answers_pass_however_few_and_whatever_the_margin(tmp_path: Path) -> None:
    answers = rows(12)
    base = write(tmp_path, "base", answers)
    write(tmp_path, "again", answers, base=base)
    # as often right, with other answers: no proof that it is as good
    reworded = [{**row, "output": "another answer"} for row in answers]
    write(tmp_path, "reworded", reworded, base=base)
    shares = "{metric: quiz.accuracy, max_drop: 0}, {metric: quiz.accuracy.north, max_drop: 2%}"
    figures = "{metric: quiz.cosine, max_drop: 0}, {metric: quiz.perplexity, max_increase: 0%}"
    text = f"rules: [{shares}, {figures}]"
    decision = decide(tmp_path, "again", text)
    assert (decision.verdict, decision.exit_code) == ("pass", 0)
    assert "all 12 scores are identical" in decision.findings[0].sentence
    assert "all 6 scores are identical" in decision.findings[1].sentence
    assert decide(tmp_path, "reworded", f"rules: [{shares}]").exit_code == 3
    better = decide(tmp_path, "again", "rules: [{metric: quiz.cosine, better_than: baseline}]")
    assert better.exit_code == 3


REFERENCE = Path(__file__).parents[2] / "results/reference"


@pytest.mark.parametrize("board", ["boilerplate", "methods"])
def test_a_base_passes_against_itself(board: str) -> None:
    base = REFERENCE / board / "base"
    result = harness("gate", base, "--baseline", base, "--json")
    assert result.exit_code == 0, result.exception
    report = json.loads(result.output)
    assert all(finding["identical"] for finding in report["findings"])
    assert not any("retained" in finding["name"] for finding in report["findings"])


# ---- what the default policy holds ---------------------------------------------------------------


def test_the_default_policy_holds_accuracies_and_no_self_judged_score() -> None:
    result = harness("gate", REFERENCE / "boilerplate/full", "--baseline", "base", "--json")
    report = json.loads(result.output)
    names = [finding["name"] for finding in report["findings"]]
    assert names == [
        "perplexity.perplexity",
        "similarity.cosine",
        "forgetting.mmlu_dev",
        "forgetting.grade_school_science",
    ]
    assert "suite 'judge' has no rule by default: it is self-judged" in report["warnings"]


def test_retained_is_no_rule_against_the_base_and_shows_gains_elsewhere(tmp_path: Path) -> None:
    rules = "rules:\n  - {metric: forgetting.retained, max_drop: 0.05}\n"
    file = policy_file(tmp_path, rules)
    board = REFERENCE / "boilerplate"
    refused = harness("gate", board / "qlora", "--baseline", "base", "--policy", file)
    assert isinstance(refused.exception, ConfigError)
    assert "gate.yaml:2: forgetting.retained against the base" in str(refused.exception)
    other = harness("gate", board / "qlora", "--baseline", board / "lora", "--policy", file)
    assert "4 gained and 1 lost of the base's" in other.output
    # a pattern goes on without it
    pattern = policy_file(tmp_path, 'rules: [{metric: "forgetting.*", max_drop: 0.05}]')
    result = harness("gate", board / "qlora", "--baseline", "base", "--policy", pattern)
    assert "'forgetting.*' goes without it" in result.stderr
    assert "forgetting.mmlu_dev" in result.stdout


def test_a_cost_says_that_it_is_one_measurement(out: Path) -> None:
    (finding,) = decide(out, "good", "rules: [{metric: cost.train_seconds, max: 60}]").findings
    assert (finding.verdict, finding.measurements) == ("pass", 1)
    assert "one measurement" in finding.sentence
    assert finding.seeds_range is finding.baseline_seeds_range is None


def test_a_cost_of_several_seeds_has_their_mean_and_their_range(tmp_path: Path) -> None:
    base = write(tmp_path, "base", rows(40), training=trained(10))
    for seed, seconds in enumerate((30, 33, 42)):
        write(tmp_path, "lora", rows(40), base=base, seed=seed, training=trained(seconds))
    text = "rules: [{metric: cost.train_seconds, max_increase: 300%}]"
    candidate = lookup.find(str(tmp_path / "lora"), [])
    loaded = policy.load(policy_file(tmp_path, text))
    baseline = lookup.baseline("base", candidate, [tmp_path])
    (finding,) = gate.decide(candidate, baseline, loaded).findings
    assert (finding.value, finding.seeds_range) == (35, (30, 42))
    assert (finding.measurements, finding.baseline_seeds_range) == (1, None)
    assert finding.sentence.endswith("one measurement and the candidate's seeds from 30 to 42")
    # the range decides nothing: the mean does, as it did
    assert finding.verdict == "pass"
