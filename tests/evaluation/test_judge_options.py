"""A judge's own keys in a suite: checked with file and line, in its hash, and in what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from harness.api.task import Suite
from harness.errors import CellFailed, ConfigError
from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.suite import Where, load_suite
from harness.evaluation.tasks.generate import Generate
from harness.manager import Plugins
from harness.stats.metric_summary import summarise
from harness.types import Artifact, ModelRef, SuiteResult
from tests.conftest import run_warm, write_jsonl
from tests.evaluation.judging.planted import broken, loving

PLUGINS = Plugins(discover=False)
ACCURACY = {"name": "accuracy", "levels": {1: "wrong", 2: "right"}}
TONE = {"name": "tone", "levels": {1: "rude", 2: "polite"}}
RUBRIC = {"name": "rubric", "criteria": [ACCURACY, TONE]}
PAIRWISE = {"name": "pairwise", "rubric": "The right price wins."}


def write(folder: Path, judge: Mapping[str, Any], **changes: Any) -> Path:
    content = {
        "name": "judged",
        "version": 1,
        "ask": "generate",
        "data": "asked.jsonl",
        "max_new_tokens": 4,
        "judge": dict(judge),
        **changes,
    }
    (folder / "judged.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "judged.yaml"


def load(folder: Path, judge: Mapping[str, Any], model: Path | None = None, **where: Any) -> Suite:
    base = ModelRef("tiny", str(model or "tiny"), content_hash=None if model else "0" * 64)
    file = write(folder, judge)
    return load_suite(file, {}, plugins=PLUGINS, base_model=base, where=Where(**where))


def outcome(suite: Suite, artifact: Artifact) -> SuiteResult | SuiteFailure:
    (measured,) = evaluate(artifact, [suite], lambda name: nullcontext(), lambda **event: None)
    return measured.result


def result(suite: Suite, artifact: Artifact) -> SuiteResult:
    found = outcome(suite, artifact)
    assert not isinstance(found, SuiteFailure), found
    return found


def base_row(model: Path) -> Artifact:
    return Artifact("base", ModelRef("tiny", str(model)))


# ---- in a suite's file ---------------------------------------------------------------------------


def test_levels_are_numbers_as_one_writes_them(folder: Path) -> None:
    suite = load(folder, RUBRIC)
    assert suite.judge_options["criteria"][0]["levels"] == {"1": "wrong", "2": "right"}  # type: ignore[index]
    assert Generate().metrics(suite) == ["score", "accuracy", "tone"]
    written = TypeAdapter(Suite).dump_json(suite)
    assert TypeAdapter(Suite).validate_json(written) == suite, "as a cell's job file has it"


@pytest.mark.parametrize(
    ("judge", "line", "message"),
    [
        ({"name": "rubric"}, 6, "missing key 'criteria' in judge 'rubric'"),
        ({"name": "rubric", "criteria": []}, 8, "criteria of judge 'rubric': needs at least 1"),
        ({**RUBRIC, "criterai": 1}, 17, "unknown key 'criterai' in judge 'rubric': did you mean"),
        ({"name": "rubric", "criteria": [{"name": "tone"}]}, 9, "missing key 'levels'"),
        (
            {"name": "rubric", "criteria": [{**TONE, "levels": {1: "a", 2: "b", 5: "c"}}]},
            10,
            "levels go from 1 to 5 without 3: describe each between them",
        ),
        ({"name": "rubric", "criteria": [{**TONE, "levels": {1: "a"}}]}, 10, "at least two levels"),
        ({"name": "rubric", "criteria": [{**TONE, "levels": {1: "a", "b": "c"}}]}, 10, "got 'b'"),
        (
            {"name": "rubric", "criteria": [{**TONE, "levels": {1: "", 2: "b"}}]},
            11,
            "at least 1 ch",
        ),
        ({"name": "rubric", "criteria": [TONE, TONE]}, 8, "two criteria are called 'tone'"),
        ({"name": "rubric", "criteria": [{**TONE, "name": "score"}]}, 8, "take another name"),
        (
            {"name": "rubric", "criteria": [TONE, {**ACCURACY, "levels": {0: "a", 1: "b"}}]},
            8,
            "'tone' has levels 1 to 2 and 'accuracy' 0 to 1: give all the same range",
        ),
        ({**RUBRIC, "least_mass": 0}, 17, "least_mass of judge 'rubric': must be greater than 0"),
        ({**RUBRIC, "max_missing": 2}, 17, "judge.max_missing: must be at most 1"),
        ({"name": "pairwise"}, 6, "missing key 'rubric' in judge 'pairwise'"),
        ({**PAIRWISE, "against": ""}, 9, "against of judge 'pairwise': "),
        ({**PAIRWISE, "reference": True}, 6, "the reference is one of the answers"),
        ({"name": "expected_score"}, 6, "missing key 'rubric' in judge 'expected_score'"),
        ({"name": "expected_score", "rubric": ""}, 8, "rubric of judge 'expected_score': needs"),
    ],
)
def test_a_wrong_key_is_one_line_with_its_place(
    folder: Path, judge: dict[str, Any], line: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder, judge)
    assert f"judged.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_refuses_a_rubric_with_a_missing_level_before_anything_runs(
    experiment: Callable[..., Any], harness: Callable[..., Any]
) -> None:
    small = experiment(suites=["judged"])
    write(small.folder, {"name": "rubric", "criteria": [{**TONE, "levels": {1: "a", 3: "b"}}]})
    ran = harness("run", small.file, "--out", small.out)
    assert (ran.code, small.out.exists()) == (2, False)
    assert "judged.yaml:10: " in ran.error
    assert "levels go from 1 to 3 without 2" in ran.error


def test_a_sample_without_the_reference_that_a_judge_needs_is_refused(folder: Path) -> None:
    write_jsonl(folder / "asked.jsonl", [{"id": "a", "prompt": "What?"}])
    for judge in (RUBRIC, PAIRWISE, {**PAIRWISE, "against": "base", "reference": True}):
        with pytest.raises(
            ConfigError, match=r"judged\.yaml:6: judge '\w+': asked\.jsonl: sample a"
        ):
            load(folder, judge)
    load(folder, {**RUBRIC, "reference": False})
    load(folder, {**PAIRWISE, "against": "base"})


def test_a_criterion_is_no_scorer_s_label(folder: Path) -> None:
    file = write(folder, RUBRIC, scorers=[{"name": "rougeL", "label": "tone"}])
    base = ModelRef("tiny", "tiny", content_hash="0" * 64)
    with pytest.raises(ConfigError, match="'tone' is the judge's metric"):
        load_suite(file, {}, plugins=PLUGINS, base_model=base, where=Where())


def test_an_experiment_sets_other_keys_or_the_whole_judge(folder: Path) -> None:
    base = ModelRef("tiny", "tiny", content_hash="0" * 64)
    file = write(folder, RUBRIC)

    def of(overrides: dict[str, Any]) -> Suite:
        return load_suite(file, overrides, plugins=PLUGINS, base_model=base, where=Where())

    assert of({"limit": 3}).judge_options == of({}).judge_options
    assert Generate().metrics(of({"judge": PAIRWISE})) == ["win_rate"]
    place = r"^the experiment's settings of suite 'judged': missing key 'criteria'"
    with pytest.raises(ConfigError, match=place):
        of({"judge": {"name": "rubric"}})


def test_a_hash_changes_with_what_a_score_depends_on_and_with_nothing_else(folder: Path) -> None:
    plain = load(folder, RUBRIC)
    same = [{**RUBRIC, "reference": True}, {**RUBRIC, "max_missing": 0.5}]
    assert {load(folder, judge).hash for judge in same} == {plain.hash}
    kinder = {**TONE, "levels": {1: "rude", 2: "kind"}}
    other = [
        {**RUBRIC, "reference": False},
        {**RUBRIC, "least_mass": 0.2},
        {**RUBRIC, "criteria": [ACCURACY, kinder]},
        {**RUBRIC, "criteria": [ACCURACY]},
    ]
    hashes = {load(folder, judge).hash for judge in other}
    assert len(hashes | {plain.hash}) == len(other) + 1


def test_a_hash_holds_the_base_whose_answers_are_compared_with(folder: Path, right: Path) -> None:
    def of(against: str, base: str = "0", **where: Any) -> Suite:
        judge = {**PAIRWISE, "against": against, "model": str(right)}
        model = ModelRef("tiny", "tiny", content_hash=base * 64)
        file = write(folder, judge)
        return load_suite(file, {}, plugins=PLUGINS, base_model=model, where=Where(**where))

    # the judge is a model of its own: against references the base plays no part
    four_bits = {"load_in_4bit": True}
    others: list[dict[str, Any]] = [{"base": "1"}, {"base_quantization": four_bits}]
    assert {of("reference", **other).hash for other in others} == {of("reference").hash}
    hashes = {of("base", **other).hash for other in [*others, {}]}
    assert len(hashes | {of("reference").hash}) == 4
    assert of("base", base_quantization=four_bits).base_quantization == four_bits


# ---- what comes out ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def right(judging_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge that always says the level 2."""
    return loving(judging_model, tmp_path_factory.mktemp("judges") / "right", " 2")


def test_a_rubric_s_record_has_a_metric_for_each_criterion(
    folder: Path, judging_model: Path, right: Path
) -> None:
    found = result(load(folder, {**RUBRIC, "model": str(right)}), base_row(judging_model))
    metrics = summarise(found.metrics, found.rows)
    assert set(metrics) == {"score", "accuracy", "tone"}
    for metric in metrics.values():
        assert metric["n"] == 8
        assert metric["value"] == pytest.approx(2, abs=0.02)
        assert metric["ci_high"] <= 2
    assert set(found.rows[0]["judge"]["mass"]) == {"accuracy", "tone"}
    note = found.notes["judge"]
    assert note["judge"] == "rubric"  # type: ignore[index]
    assert note["missing"] == {}  # type: ignore[index]
    assert note["backend"]["asked"] == 16  # type: ignore[index]
    again = result(load(folder, {**RUBRIC, "model": str(right)}), base_row(judging_model))
    assert again.rows == found.rows


def test_verdicts_that_are_missing_fail_the_suite_or_are_counted(
    folder: Path, judging_model: Path
) -> None:
    sure = {**RUBRIC, "model": str(judging_model), "least_mass": 1.0}
    failed = outcome(load(folder, sure), base_row(judging_model))
    assert isinstance(failed, SuiteFailure)
    assert isinstance(failed.error, CellFailed)
    assert "no verdict on 8 of 8 answers (8 low_mass), more than 10%" in str(failed.error)
    found = result(load(folder, {**sure, "max_missing": 1.0}), base_row(judging_model))
    assert all(set(row["scores"].values()) == {None} for row in found.rows)
    assert {row["judge"]["missing"] for row in found.rows} == {"low_mass"}
    assert found.notes["judge"]["missing"] == {"low_mass": 8}  # type: ignore[index]
    (warning,) = [text for text in found.warnings if "verdict" in text]
    assert "no verdict on 8 of 8 answers (8 low_mass); they have no scores" in warning
    assert summarise(found.metrics, found.rows)["score"]["n"] == 0


def test_a_judge_with_broken_weights_fails_its_suite(
    folder: Path, judging_model: Path, tmp_path: Path
) -> None:
    nan = broken(judging_model, tmp_path / "nan")
    for judge in (RUBRIC, PAIRWISE):
        judge = {**judge, "model": str(nan), "max_missing": 1.0}
        failed = outcome(load(folder, judge), base_row(judging_model))
        assert isinstance(failed, SuiteFailure)
        assert "the judge cannot rate" in str(failed.error)


def test_the_base_ties_with_itself_and_another_model_is_compared_with_what_the_base_says(
    folder: Path, judging_model: Path, right: Path
) -> None:
    judge = {**PAIRWISE, "against": "base", "model": str(right), "least_mass": 1e-12}
    suite = load(folder, judge, judging_model)
    itself = result(suite, base_row(judging_model))
    said = [row["output"] for row in itself.rows]
    assert len(set(said)) > 1
    assert {row["scores"]["win_rate"] for row in itself.rows} == {0.5}
    assert itself.notes["judge"]["equal"] == 8  # type: ignore[index]
    base = ModelRef("tiny", str(judging_model))
    other = Artifact("base", base, weights=ModelRef("right", str(right)))
    found = result(suite, other)
    assert [row["judge"]["against"] for row in found.rows] == said
    assert [row["output"] for row in found.rows] != said
    # the judge prefers neither letter, so that the order decides, if anything
    assert {row["scores"]["win_rate"] for row in found.rows} <= {0.0, 0.5, 1.0}


def test_two_judges_one_after_the_other_and_the_base_again(
    folder: Path, judging_model: Path, right: Path
) -> None:
    """A model that made room for a judge is opened again for the next suite that asks it."""
    apart = load(folder, {**RUBRIC, "model": str(right)}, judging_model)
    own = load(folder, {**RUBRIC, "least_mass": 1e-9}, judging_model)
    own = dataclasses.replace(own, name="own")
    ran = evaluate(
        base_row(judging_model), [apart, own], lambda name: nullcontext(), lambda **event: None
    )
    assert not [one.result for one in ran if isinstance(one.result, SuiteFailure)]


def test_it_runs_through_a_worker(
    experiment: Callable[..., Any], judging_model: Path, right: Path, warm: Any
) -> None:
    small = experiment(suites=["judged"]).write(model=str(judging_model))
    write(small.folder, {**RUBRIC, "model": str(right)})
    run_warm(small, warm)
    record = small.records()["base-0"]
    assert record["status"] == "ok", record["error"]
    section = record["evaluation"]["suites"]["judged"]
    assert set(section["metrics"]) == {"score", "accuracy", "tone"}
    assert section["notes"]["judge"]["missing"] == {}
