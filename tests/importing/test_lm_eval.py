"""lm-eval's results folder becomes a row: what lm-eval itself wrote, read back and paired."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.errors import NotComparable, UserError
from harness.importing.lm_eval_files import read_runs
from harness.importing.lm_eval_record import import_run
from harness.results import lookup, store
from harness.results.comparison import compare
from harness.stats import proportions
from tests.conftest import Experiment, run_warm, write_experiment

GENERATES = """\
task: digits
custom_dataset: !function tiny_choice.questions
test_split: test
output_type: generate_until
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "(\\\\d)"}, {function: take_first}]}
  - {name: loose, filter: [{function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 3.0}
"""
ROLLS = """\
task: texts
custom_dataset: !function tiny_choice.questions
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
metadata: {version: 1.0}
"""
GROUP = """\
group: shop
task: [tiny_choice, other_choice]
aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: false}]
metadata: {version: 2.0}
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, warm: Any) -> Experiment:
    """The tiny model on our own suite of the task `tiny_choice`."""
    small = write_experiment(tmp_path_factory.mktemp("ours"), tiny_model, suites=["tasks"])
    run_warm(small, warm)
    return small


@pytest.fixture(scope="module")
def logged(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, measured: Experiment
) -> Callable[[int], Path]:
    """`logged(shots)`: what lm-eval writes of the same model, that task and others."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = measured.folder / "tasks"
    choice = (tasks / "tiny_choice.yaml").read_text()
    (tasks / "digits.yaml").write_text(GENERATES)
    (tasks / "texts.yaml").write_text(ROLLS)
    (tasks / "shop.yaml").write_text(GROUP)
    (tasks / "other_choice.yaml").write_text(
        choice.replace("task: tiny_choice", "task: other_choice").replace("Answer:", "So:")
    )
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    lm = HFLM(pretrained=str(tiny_model), dtype="float32", device="cpu", batch_size=4)
    made: dict[int, Path] = {}

    def run(shots: int) -> Path:
        if shots not in made:
            made[shots] = tmp_path_factory.mktemp(f"shots{shots}")
            results = simple_evaluate(
                model=lm,
                tasks=["shop", "digits", "texts"],
                task_manager=manager,
                num_fewshot=shots,
                bootstrap_iters=0,
                log_samples=True,
            )
            assert results is not None
            samples = results.pop("samples")
            tracker = EvaluationTracker(output_path=str(made[shots]))
            tracker.general_config_tracker.log_experiment_args(
                "hf", f"pretrained={tiny_model},token=hf_SECRET", None, None, False
            )
            results["config"]["model_args"] = f"pretrained={tiny_model},token=hf_SECRET"
            tracker.save_results_aggregated(results=results, samples=samples)
            for task, of_task in samples.items():
                tracker.save_results_samples(task_name=task, samples=of_task)
        return made[shots]

    return run


@pytest.fixture
def out(tmp_path: Path, measured: Experiment) -> Path:
    """Our own results, to import into."""
    return Path(shutil.copytree(measured.out, tmp_path / "out"))


@pytest.fixture
def folder(tmp_path: Path, logged: Callable[[int], Path]) -> Path:
    """What lm-eval wrote, to be changed."""
    return Path(shutil.copytree(logged(0), tmp_path / "logged"))


def ran(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["import", "lm-eval", *map(str, arguments)])


def imported(folder: Path, out: Path, label: str = "theirs") -> dict[str, Any]:
    result = ran(folder, "--out", out, "--label", label, "--json")
    assert result.exit_code == 0, result.exception
    (one,) = json.loads(result.stdout)
    return dict(store.read_record(out / "cells" / f"{one['id']}.json"))


def one(folder: Path, pattern: str) -> Path:
    (file,) = folder.rglob(pattern)
    return file


def aggregates(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(one(folder, "results_*.json").read_text())
    return found


def test_figures_are_lm_evals_with_our_intervals(logged: Any, tmp_path: Path) -> None:
    own = aggregates(logged(0))["results"]
    record = imported(logged(0), tmp_path / "out")
    metrics = record["evaluation"]["suites"]["lm_eval"]["metrics"]
    theirs = {
        "tiny_choice": own["tiny_choice"]["acc,none"],
        "other_choice": own["other_choice"]["acc,none"],
        "shop": own["shop"]["acc,none"],
        "digits": own["digits"]["exact_match,strict"],
        "digits.exact_match.loose": own["digits"]["exact_match,loose"],
        "texts": own["texts"]["word_perplexity,none"],
        "texts.byte_perplexity": own["texts"]["byte_perplexity,none"],
        "texts.bits_per_byte": own["texts"]["bits_per_byte,none"],
    }
    assert {name: metrics[name]["value"] for name in theirs} == pytest.approx(theirs)
    assert not [line for line in record["warnings"] if "lm-eval's own figure" in line]
    accuracy = metrics["tiny_choice"]
    wilson = proportions.wilson(round(8 * accuracy["value"]), 8, 0.95)
    assert (accuracy["ci_low"], accuracy["ci_high"]) == pytest.approx(tuple(wilson)[-2:])
    bits = metrics["texts.bits_per_byte"]
    assert bits["ci_low"] < bits["value"] < bits["ci_high"]
    assert bits["higher_is_better"] is False
    assert metrics["tiny_choice.probability"]["n"] == 8


def test_it_is_recorded_how_lm_eval_measured_and_no_secret(logged: Any, tmp_path: Path) -> None:
    record = imported(logged(2), tmp_path / "out")
    notes = record["evaluation"]["suites"]["lm_eval"]["notes"]
    version = aggregates(logged(2))["lm_eval_version"]
    assert notes["imported"]["lm_eval"] == record["environment"]["packages"]["lm_eval"] == version
    assert set(notes["num_fewshot"].values()) == {2}
    assert notes["imported"]["versions"]["digits"] == 3.0
    assert notes["imported"]["model_args"].startswith("pretrained=")
    assert record["plan"]["budget"] == {"precision": "float32"}
    assert "hf_SECRET" not in json.dumps(record)
    assert (record["plan"]["method"], record["plan"]["label"]) == ("imported", "theirs")


def test_the_same_questions_are_paired_with_ours_and_the_same_model_differs_in_nothing(
    logged: Any, out: Path
) -> None:
    result = ran(logged(0), "--out", out, "--label", "theirs")
    assert "paired with suite 'tasks' of base-s0-" in result.stdout
    ours, theirs = (lookup.find(name, [out]) for name in ("base", "theirs"))
    found = compare(theirs, ours)["metrics"]
    assert set(found) == {"tasks.tiny_choice", "tasks.tiny_choice.probability"}
    assert found["tasks.tiny_choice"]["delta"] == 0
    assert found["tasks.tiny_choice.probability"]["delta"] == pytest.approx(0, abs=1e-5)
    assert found["tasks.tiny_choice"]["n"] == 8
    board = json.loads(
        CliRunner().invoke(cli, ["leaderboard", str(out), "--format", "json"]).stdout
    )
    assert {row["label"] for row in board["rows"]} == {"base", "theirs"}
    assert board["incomparable"] == []


def test_other_shots_are_not_comparable_and_it_is_said_why(logged: Any, out: Path) -> None:
    result = ran(logged(2), "--out", out, "--label", "two-shots")
    line = next(line for line in result.stdout.splitlines() if "not comparable with" in line)
    assert "8 of 8 prompts are others (num_fewshot 0 there, 2 here)" in line
    with pytest.raises(NotComparable, match="no suite in common"):
        compare(lookup.find("two-shots", [out]), lookup.find("base", [out]))
    ran(logged(0), "--out", out, "--label", "no-shots")
    with pytest.raises(NotComparable, match="num_fewshot is 0 and 2"):
        compare(lookup.find("no-shots", [out]), lookup.find("two-shots", [out]))


def test_two_imports_are_paired_and_a_larger_one_on_the_questions_of_the_smaller(
    logged: Any, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    few = tmp_path / "few"
    shutil.copytree(folder, few)
    limit(few, 5)
    imported(few, out, "few")
    record = imported(folder, out, "all")
    suites = record["evaluation"]["suites"]
    assert {name: section["samples"]["rows"] for name, section in suites.items()} == {
        "lm_eval": 20,
        "lm_eval-2": 32,
    }
    found = compare(lookup.find("all", [out]), lookup.find("few", [out]))["metrics"]
    assert found["lm_eval.shop"]["n"] == 10
    assert {metric["delta"] for metric in found.values()} == {0}
    # the other way round there is nothing to pair with, and that is said
    other = tmp_path / "other"
    imported(folder, other, "all")
    notes = ran(few, "--out", other, "--label", "few").stdout
    assert "12 of its 32 questions are not in" in notes


def limit(folder: Path, count: int) -> None:
    """As `--limit` leaves it: so many questions of each task."""
    file = one(folder, "results_*.json")
    content = aggregates(folder)
    for task, sizes in content["n-samples"].items():
        sizes["effective"] = count
        samples = one(folder, f"samples_{task}_*")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        kept = [row for row in rows if row["doc_id"] < count]
        samples.write_text("".join(json.dumps(row) + "\n" for row in kept))
    content["results"] = {task: {"sample_len": count} for task in content["results"]}
    content["groups"] = {}
    file.write_text(json.dumps(content))


def test_an_aggregate_that_is_not_its_samples_is_warned_of_and_the_samples_stand(
    folder: Path, tmp_path: Path
) -> None:
    file, content = one(folder, "results_*.json"), aggregates(folder)
    honest = content["results"]["tiny_choice"]["acc,none"]
    content["results"]["tiny_choice"]["acc,none"] = 0.987
    file.write_text(json.dumps(content))
    record = imported(folder, tmp_path / "out")
    metric = record["evaluation"]["suites"]["lm_eval"]["metrics"]["tiny_choice"]
    assert metric["value"] == pytest.approx(honest)
    assert [line for line in record["warnings"] if "lm-eval's own figure is 0.987" in line]


def test_what_is_half_written_or_lacks_samples_is_named_and_the_rest_imported(
    folder: Path, tmp_path: Path
) -> None:
    half = one(folder, "samples_digits_*")
    half.write_text(half.read_text()[:-200])
    one(folder, "samples_texts_*").unlink()
    short = one(folder, "samples_other_choice_*")
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:-1]))
    (half.parent / "results_2020-01-01T00-00-00.000000.json").write_text('{"results": {')
    (half.parent / "results_2020-01-02T00-00-00.000000.json").write_text('{"rows": []}')
    result = ran(folder, "--out", tmp_path / "out", "--label", "rest")
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    for start, end in (
        ("results_2020-01-01", "broken JSON"),
        ("results_2020-01-02", "not lm-eval's aggregates"),
        ("samples_digits_", "half written?"),
        ("task 'texts' has no samples", "--log_samples"),
        ("samples_other_choice_", "7 samples of filter 'none' where lm-eval counted 8"),
    ):
        assert [line for line in lines if line.startswith("Left out: ") and start in line
                and end in line], start  # fmt: skip
    record = lookup.find("rest", [tmp_path / "out"]).group.cells[0]
    metrics = store.suites(record)["lm_eval"]["metrics"]
    assert set(metrics) == {"retained", "tiny_choice", "tiny_choice.probability"}
    # half a group is no group
    assert "shop" not in metrics


@pytest.mark.parametrize(
    "change",
    [
        lambda row: {**row, "arguments": []},
        lambda row: {**row, "arguments": {"gen_args_7": {}}},
        lambda row: {**row, "filtered_resps": [["x", "y"]]},
        lambda row: {**row, "doc_hash": None},
        lambda row: {key: value for key, value in row.items() if key != "target"},
        lambda row: [row],
    ],
)
def test_a_sample_of_another_layout_leaves_its_task_out(
    folder: Path, change: Callable[[Any], Any]
) -> None:
    file = one(folder, "samples_tiny_choice_*")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3] = change(rows[3])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,), problems = read_runs(folder)
    assert "tiny_choice" not in run.samples
    assert "other_choice" in run.samples
    (problem,) = problems
    assert f"{file}:4: not a sample of lm-eval 0.4" in problem


def test_a_base_gives_differences_and_one_without_the_suite_is_refused(
    logged: Any, out: Path
) -> None:
    result = ran(logged(0), "--out", out, "--label", "tuned", "--base", "base")
    assert result.exit_code == 0, result.exception
    record = lookup.find("tuned", [out]).group.cells[0]
    metric = store.suites(record)["tasks"]["metrics"]["tiny_choice"]
    assert (metric["delta"], metric["gained"], metric["lost"]) == (0, 0, 0)
    assert store.suites(record)["tasks"]["metrics"]["retained"]["value"] in (1.0, None)
    refused = ran(logged(2), "--out", out, "--label", "two", "--base", "base")
    assert isinstance(refused.exception, NotComparable)
    assert "num_fewshot 0 there, 2 here" in str(refused.exception)


def test_the_same_import_twice_is_one_row(logged: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        imported(logged(0), out)
    assert len(list((out / "cells").glob("*.json"))) == 1


def test_another_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refused = ran(tmp_path, "--out", tmp_path / "out")
    assert isinstance(refused.exception, UserError)
    assert "no results of lm-eval (results_<date>.json)" in str(refused.exception)


def test_an_aggregation_that_nobody_states_is_not_guessed(folder: Path, tmp_path: Path) -> None:
    """A metric whose figure is not the mean of its samples, nor said to be another, is left out."""
    file, content = one(folder, "results_*.json"), aggregates(folder)
    samples = one(folder, "samples_tiny_choice_*")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for i, row in enumerate(rows):
        row.update(metrics=[*row["metrics"], "odd", "even"], odd=float(i), even=float(i))
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content["results"]["tiny_choice"] |= {"odd,none": math.pi, "even,none": 3.5}
    file.write_text(json.dumps(content))
    (run,), _ = read_runs(folder)
    result = import_run(run, tmp_path / "out", [])
    record = store.read_record(tmp_path / "out/cells" / f"{result.id}.json")
    metrics = store.suites(record)["lm_eval"]["metrics"]
    assert metrics["tiny_choice.even"]["value"] == 3.5
    assert "tiny_choice.odd" not in metrics
    assert [note for note in result.notes if "tiny_choice.odd is left out" in note]
