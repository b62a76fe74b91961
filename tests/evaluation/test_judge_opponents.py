"""A judge that compares with another row's stored answers, and never claims it saw others."""

from __future__ import annotations

import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli.commands import eval as eval_command
from harness.cli.commands.eval import ModelOptions
from harness.cli.options import MeasuringOptions
from harness.config.experiment import load_experiment
from harness.errors import ConfigError, UserError
from harness.evaluation import check as suite_check
from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.judging.rows import opponents
from harness.evaluation.judging.rows.opponents import Opponent
from harness.evaluation.trial import Trial
from harness.evaluation.trial import run as run_trial
from harness.manager import Plugins
from harness.planning.opponents import without_figure
from harness.planning.plan import Settings, make_plan
from harness.results import store
from harness.results.groups import identity
from harness.types import Artifact, ModelRef, Sample
from tests.conftest import Experiment, run_harness, run_warm, write_experiment, write_suites
from tests.evaluation.judging.planted import loving

LORA = {"name": "lora", "r": 4}
METHODS = ["base", LORA, {"name": "full", "lr": 0.01}]


@pytest.fixture(scope="module")
def fair(judging_model, tmp_path_factory) -> Path:
    """A judge that says A whatever stands first, so that every pair is a tie."""
    return loving(judging_model, tmp_path_factory.mktemp("fair") / "a", " A")


def suite_of(folder: Path, judge: Path, against: str, name: str = "judged", **changes: Any) -> None:
    content = {
        "name": name,
        "version": 1,
        "ask": "generate",
        "data": "asked.jsonl",
        "max_new_tokens": 4,
        "judge": {
            "name": "pairwise",
            "rubric": "The right answer wins.",
            "against": against,
            "model": str(judge),
        },
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def judged_experiment(folder: Path, model: Path, judge: Path, against: str, **changes: Any) -> Any:
    small = write_experiment(folder, model, **{"methods": METHODS, "suites": ["judged"], **changes})
    suite_of(small.folder, judge, against)
    return small


def plan_of(small: Experiment):
    return make_plan(load_experiment(small.file), Plugins(), Settings())


def rows(small: Experiment, label: str, suite: str = "judged") -> list[dict[str, Any]]:
    record = small.records()[label]
    return store.read_samples(small.out, record, suite)


def section(small: Experiment, label: str, suite: str = "judged") -> dict[str, Any]:
    return small.records()[label]["evaluation"]["suites"][suite]


# ---- a row of the experiment ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def against_lora(tmp_path_factory, judging_model, fair, warm):
    folder = tmp_path_factory.mktemp("against-lora")
    suites = ["answers", "judged", "based"]
    small = judged_experiment(folder, judging_model, fair, "lora", suites=suites)
    suite_of(small.folder, fair, "base", name="based")
    outcome = run_warm(small, warm)
    assert not outcome.failed
    return small


def test_every_row_that_runs_later_is_compared_with_the_row_that_is_named(against_lora):
    lora, full = rows(against_lora, "lora-0"), rows(against_lora, "full-0")
    said = [row["output"] for row in lora]
    assert [row["judge"]["against"] for row in full] == said
    assert [row["output"] for row in full] != said
    assert {row["scores"]["win_rate"] for row in lora} == {0.5}
    figures = [section(against_lora, f"{row}-0") for row in ("lora", "full")]
    assert figures[0]["metrics"]["win_rate"]["value"] == 0.5
    assert identity(figures[0]) == identity(figures[1])
    lora_id = against_lora.records()["lora-0"]["id"]
    assert [one["notes"]["judge"]["compared"]["cell"] for one in figures] == [lora_id, lora_id]
    assert figures[0]["data_hash"] == figures[0]["notes"]["judge"]["compared"]["sha256"]


def test_the_base_runs_before_and_has_no_figure_which_a_note_says(against_lora):
    assert set(against_lora.records()["base-0"]["evaluation"]["suites"]) == {"answers", "based"}
    warnings = against_lora.records()["full-0"]["warnings"]
    assert not [line for line in warnings if "no result to compare with" in line]
    plan = plan_of(against_lora)
    assert [cell.label for cell in plan.cells] == ["base", "lora", "full"]
    (note,) = without_figure(plan.suites, plan.cells)
    assert "suite 'judged' compares with the answers of 'lora': base is measured before" in note


def test_the_table_shows_it(against_lora):
    done = run_harness("leaderboard", against_lora.out)
    assert done.code == 0, done.stderr
    assert re.search(r"judged\.win_rate \S +- +0\.500 \[0\.500, 0\.500\]", done.stdout)


def test_other_options_of_the_named_row_are_another_suite(
    against_lora, tmp_path, judging_model, fair
):
    """A figure against a LoRA of rank 4 is not taken for one against a LoRA of rank 8."""
    methods = ["base", {**LORA, "r": 8}, METHODS[2]]
    other = judged_experiment(
        tmp_path,
        judging_model,
        fair,
        "lora",
        methods=methods,
        suites=["answers", "judged", "based"],
    )
    suite_of(other.folder, fair, "base", name="based")
    one, two = plan_of(against_lora), plan_of(other)
    ids = [[cell.id for cell in plan.cells] for plan in (one, two)]
    assert ids[0][0] == ids[1][0], "of the base nothing changed"
    assert ids[0][2] != ids[1][2], "full is compared with another row"
    assert one.cells[2].training_id == two.cells[2].training_id
    assert one.suites[1].parts["opponent"] != two.suites[1].parts["opponent"]


def test_the_named_row_runs_first_wherever_it_stands(tmp_path, judging_model, fair):
    methods = [METHODS[2], "base", LORA]
    small = judged_experiment(tmp_path, judging_model, fair, "lora", methods=methods, seeds=[3, 4])
    plan = plan_of(small)
    assert [(cell.label, cell.seed) for cell in plan.cells][:2] == [("base", 0), ("lora", 3)]
    assert plan.waited_for == (plan.cells[1].id,)
    assert {cell.label for cell in plan.cells if not cell.suites} == {"base"}


def test_kept_figures_of_other_answers_are_not_reused(against_lora, tmp_path, warm):
    """The named row answers otherwise than it did: what was judged against it is judged anew."""
    copy = Experiment(shutil.copytree(against_lora.folder, tmp_path / "copy"), against_lora.content)
    full = copy.records()["full-0"]["id"]
    lora = copy.records()["lora-0"]
    (copy.out / "cells" / f"{full}.json").unlink()
    changed = rows(copy, "lora-0")
    for row in changed:
        row["output"] += " indeed"
    judged = lora["evaluation"]["suites"]["judged"]
    judged["samples"] = store.write_samples(copy.out, lora["id"], "judged", changed)
    store.write_record(copy.out, {k: v for k, v in lora.items() if k != "sha256"})
    outcome = run_warm(copy, warm)
    assert outcome.ran == (full,)
    assert all(row["judge"]["against"].endswith(" indeed") for row in rows(copy, "full-0"))


def test_a_named_row_without_answers_fails_the_suite_alone(against_lora, judging_model):
    artifact = Artifact("base", ModelRef("tiny", str(judging_model)))
    plan = plan_of(against_lora)
    ran = evaluate(artifact, plan.suites, lambda name: nullcontext(), lambda **event: None)
    answers, judged, _ = (measured.result for measured in ran)
    assert len(answers.rows) == 8
    assert isinstance(judged, SuiteFailure)
    assert str(judged.error) == (
        "the row 'lora', which the judge compares with, has no answers to suite 'judged' here: "
        "run it again, or leave the suite out"
    )


@pytest.mark.parametrize(
    ("against", "says"),
    [
        ("lorra", r"no row is called 'lorra'.*did you mean 'lora'\?"),
        ("cells/none.json", r"there is no record .*cells/none\.json: name a file under cells/"),
        ("experiment.json", r"there is no record .*experiment\.json"),
    ],
)
def test_a_row_that_is_not_there_is_an_error_of_the_plan(
    tmp_path, judging_model, fair, against, says
):
    small = judged_experiment(tmp_path, judging_model, fair, against)
    with pytest.raises(ConfigError, match=says) as caught:
        plan_of(small)
    assert str(caught.value).startswith(f"{small.folder / 'judged.yaml'}:")
    assert "\n" not in str(caught.value)


# ---- the base ------------------------------------------------------------------------------------


def test_the_base_s_stored_answers_are_compared_with_and_it_is_not_opened_again(against_lora):
    base, lora = (rows(against_lora, f"{row}-0", "based") for row in ("base", "lora"))
    assert [row["judge"]["against"] for row in lora] == [row["output"] for row in base]
    compared = section(against_lora, "lora-0", "based")["notes"]["judge"]["compared"]
    assert compared["cell"] == against_lora.records()["base-0"]["id"]
    own = section(against_lora, "base-0", "based")["notes"]["judge"]["compared"]
    assert compared["sha256"] == own["sha256"]
    assert {row["scores"]["win_rate"] for row in base} == {0.5}, "the same row against itself"


def test_a_suite_against_a_row_is_tried_out_with_the_base(tmp_path, judging_model, fair):
    """There is no row yet when `harness suites check` tries three samples."""
    write_suites(tmp_path)
    suite_of(tmp_path, fair, "lora")
    suite, base = suite_check.load(
        tmp_path / "judged.yaml", plugins=Plugins(), model=str(judging_model)
    )
    report = run_trial(Trial(suite, 3, base))
    assert [row["scores"]["win_rate"] for row in report["rows"]] == [0.5] * 3


# ---- a row of an earlier run ---------------------------------------------------------------------


def record_of(small: Experiment, label: str) -> Path:
    return small.out / "cells" / f"{small.records()[label]['id']}.json"


def test_eval_compares_with_a_recorded_row(
    against_lora, tmp_path, judging_model, fair, monkeypatch
):
    """With the answers of another suite, as long as it asked the same in the same way."""
    write_suites(tmp_path)
    suite_of(tmp_path, fair, str(record_of(against_lora, "full-0")), name="later")
    done = run_harness(
        "eval", judging_model, "--suite", "later", "--out", tmp_path / "out", cwd=tmp_path
    )
    assert done.code == 0, done.stderr
    (file,) = (tmp_path / "out/cells").glob("*.json")
    record = store.read_record(file)
    found = store.read_samples(tmp_path / "out", record, "later")
    assert [row["judge"]["against"] for row in found] == [
        row["output"] for row in rows(against_lora, "full-0")
    ]
    assert record["evaluation"]["suites"]["later"]["parts"]["opponent"]


def planned_suite(folder: Path, model: Path, name: str = "later"):
    given = ModelOptions(str(model), suites=[name], label="row")
    measuring = MeasuringOptions(suite_folders=(folder,), as_json=True)
    return eval_command.planned(given, measuring).suites[0]


def test_the_hash_is_of_the_recorded_answers_and_not_of_their_place(
    against_lora, tmp_path, judging_model, fair
):
    write_suites(tmp_path)
    moved = Experiment(shutil.copytree(against_lora.folder, tmp_path / "moved"), {})
    hashes = {}
    for name, small, label in (
        ("full", against_lora, "full-0"),
        ("moved", moved, "full-0"),
        ("lora", against_lora, "lora-0"),
    ):
        suite_of(tmp_path, fair, str(record_of(small, label)), name="later")
        hashes[name] = planned_suite(tmp_path, judging_model).hash
    assert hashes["full"] == hashes["moved"] != hashes["lora"]


def test_recorded_answers_to_other_questions_are_refused(
    against_lora, tmp_path, judging_model, fair
):
    write_suites(tmp_path)
    suite_of(tmp_path, fair, str(record_of(against_lora, "full-0")), name="later", max_new_tokens=5)
    with pytest.raises(UserError, match=r"asked these questions with max_new_tokens: 5") as caught:
        planned_suite(tmp_path, judging_model)
    assert "\n" not in str(caught.value)


def test_answers_are_matched_by_sample_and_prompt(against_lora):
    opponent = Opponent(str(against_lora.out), against_lora.records()["full-0"]["id"])
    said = {row["id"]: row["output"] for row in rows(against_lora, "full-0")}
    samples = [Sample(name, prompt=f"Is the {name} here?") for name in said]
    assert opponents.read(opponent, "judged", samples[::-1], 4) == list(said.values())[::-1]
    others = [
        ([*samples, Sample("new", prompt="?")], "no answer to sample 'new'"),
        ([Sample(samples[0].id, prompt="Is it there?")], "has another prompt there"),
    ]
    for asked, says in others:
        with pytest.raises(UserError, match=says):
            opponents.read(opponent, "judged", asked, 4)
    assert opponents.digest(samples, ["a"] * 8) != opponents.digest(samples, ["a"] * 7 + ["b"])
