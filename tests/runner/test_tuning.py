"""Tuning: as many trials for every method, judged on the validation rows, and never run twice."""

import dataclasses
import json
import math
import os
import shutil
from collections import Counter
from itertools import pairwise

import pytest
import torch

from harness.api.executor import Executor
from harness.cli.render.leaderboard_table import render
from harness.config.experiment import load_experiment
from harness.data.tokenization import IGNORED, encode_row
from harness.data.training_set import training_rows
from harness.errors import ConfigError, EnvironmentLack, UserError
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.planning.search_space import Search
from harness.record import new_record
from harness.results import store
from harness.runner.tuning import bracketing, study
from harness.runner.tuning.trials import Tuner, chosen, folder_of, front, recorded_trials
from harness.system.locks import Taken
from harness.types import Artifact, Budget, ModelRef
from tests.conftest import ROOT, run_warm, write_distribution, write_experiment

LOW, HIGH = 1e-6, 0.03
BUDGET = {"steps": 5, "batch": 4, "max_length": 96, "precision": "float32"}


class Watched(Executor):
    """An executor that keeps the cell of each worker; `stop_at` ends it as Ctrl-C would."""

    name = "watched"

    def __init__(self, executor, stop_at=None):
        self.executor, self.stop_at = executor, stop_at
        self.trials, self.cells = [], []

    def run(self, job_file, log_file):
        job = json.loads(job_file.read_text())
        (self.trials if job["trial"] else self.cells).append(job["cell"])
        events = self.executor.run(job_file, log_file)
        if len(self.trials) == self.stop_at:
            list(events)  # it was judged and recorded, and no event was passed on
            raise KeyboardInterrupt
        yield from events


def planned(small, **settings):
    return make_plan(load_experiment(small.file), Plugins(), Settings(**settings))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_model, warm):
    """Two methods of three trials each, the first with two learning rates; two seeds of it."""
    small = write_experiment(
        tmp_path_factory.mktemp("tuned"),
        tiny_model,
        methods=[
            {"name": "lora", "r": 4, "lr": LOW, "tune": {"lr": [LOW, HIGH]}, "label": "two"},
            {"name": "lora", "r": 4, "label": "range"},
            {"name": "lora", "r": 4, "lr": LOW, "label": "fixed"},
        ],
        seeds=[0, 1],
        budget=BUDGET,
        tune={"trials": 3, "steps": 4, "extend": 0},
        suites=["picks"],
    )
    watched = Watched(warm)
    outcome = run_warm(small, watched)
    assert not outcome.failed, small.records()
    return small, watched, outcome


# ---- what is chosen ------------------------------------------------------------------------------


def test_the_better_of_two_learning_rates_is_chosen_and_trained_on_every_seed(tuned):
    small, _, _ = tuned
    records = small.records()
    for seed in (0, 1):
        plan = records[f"two-{seed}"]["plan"]
        losses = {t["options"]["lr"]: t["validation_loss"] for t in plan["tuning"]["trials"]}
        assert losses[HIGH] < losses[LOW] - 0.1
        assert plan["options"]["lr"] == HIGH
        assert plan["tuning"]["validation_loss"] == losses[HIGH]
        assert plan["tuning"]["at_edge"] == {"lr": "highest"}
        assert plan["budget"]["steps"] == 5
    # the winner was trained with that rate, and the one that stands in the entry was not
    curves = [records[f"{label}-0"]["training"]["loss_curve"] for label in ("two", "fixed")]
    assert curves[0][-1]["loss"] < curves[1][-1]["loss"] - 0.1


def test_every_method_gets_as_many_trials_of_as_many_steps_and_begins_with_its_own_values(tuned):
    small, watched, _ = tuned
    records = small.records()
    for label, own in (("two", LOW), ("range", 2e-4)):
        tuning = records[f"{label}-0"]["plan"]["tuning"]
        assert [t["number"] for t in tuning["trials"]] == [0, 1, 2]
        assert tuning["trials"][0]["options"] == {"lr": own}
        assert tuning["steps"] == 4
        assert tuning["validation_loss"] <= tuning["trials"][0]["validation_loss"]
        assert tuning == records[f"{label}-1"]["plan"]["tuning"]
    assert {cell["budget"]["steps"] for cell in watched.trials} == {4}
    assert records["fixed-0"]["plan"]["tuning"] is None


def test_values_lie_in_the_usual_range_and_none_is_measured_twice(tuned):
    small, watched, _ = tuned
    trials = small.records()["range-0"]["plan"]["tuning"]["trials"]
    assert all(2e-5 <= t["options"]["lr"] <= 1e-2 for t in trials)
    assert len({t["options"]["lr"] for t in trials}) == 3
    # two choices in three trials: one of them is recorded again, at no cost
    again = [t for t in small.records()["two-0"]["plan"]["tuning"]["trials"] if "same_as" in t]
    assert [t["seconds"] for t in again] == [0] * len(again)
    assert len(again) == 1
    assert Counter(cell["label"] for cell in watched.trials) == {"two": 2, "range": 3}


def test_trials_see_no_suite_and_leave_no_weights(tuned):
    small, watched, _ = tuned
    assert all(cell["suites"] == [] for cell in watched.trials)
    folders = sorted((small.out / "tuning").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert not (folder / "artifacts").exists()
        assert not (folder / "samples").exists()
        for file in (folder / "cells").glob("*.json"):
            trial = store.read_record(file)
            assert trial["evaluation"] is None
            assert trial["training"]["validation"]["rows"] == 4


def test_the_cost_of_tuning_is_apart_from_the_training(tuned):
    small, _, outcome = tuned
    rows = {row["label"]: row for row in outcome.board["rows"]}
    assert rows["two"]["seeds"] == [0, 1]
    assert rows["two"]["options"]["lr"] == HIGH
    tuning = small.records()["two-0"]["plan"]["tuning"]
    assert rows["two"]["cost"]["tuning_seconds"] == tuning["seconds"] > 0
    assert tuning["seconds"] == pytest.approx(sum(t["seconds"] for t in tuning["trials"]))
    assert "tuning_seconds" not in rows["fixed"]["cost"]
    store.validate(outcome.board, "leaderboard")


def test_the_validation_loss_is_the_mean_over_all_counted_tokens(tuned, tiny_model, tokenizer):
    """As transformers has it, on the untouched model."""
    from transformers import AutoModelForCausalLM

    from harness.training.validation_loss import validation_loss

    small, _, _ = tuned
    _, rows = training_rows(planned(small).cells[-1].data)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    nats, tokens = 0.0, 0
    for row in rows:
        encoded = encode_row(tokenizer, row, max_length=50)
        labels = torch.tensor([encoded.labels])
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([encoded.input_ids]), labels=labels).loss
        count = int((labels[:, 1:] != IGNORED).sum())
        nats, tokens = nats + float(mean) * count, tokens + count
    artifact = Artifact("base", ModelRef("tiny", str(tiny_model)))
    validation = validation_loss(artifact, rows, max_length=50, loss="assistant")
    assert validation["tokens"] == tokens
    assert validation["loss"] == pytest.approx(nats / tokens, rel=1e-5)


# ---- the first trials ----------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "log"), [(2e-4, True), (5e-5, True), (3e-3, False)])
def test_the_first_trials_lie_evenly_on_both_sides_of_the_methods_own(tmp_path, own, log):
    space = {"lr": {"low": 2e-5, "high": 1e-2, "log": log}}
    first = []
    for seed in (0, 1):
        search = Search(5, Budget(1, 1, 8, "float32"), seed, ("validation_loss",), space)
        asked = study.Study(tmp_path / str(seed) / "study.db", search, {"lr": own})
        first.append([asked.values(number)["lr"] for number in range(study.STARTUP)])
    assert first[0] == first[1]  # spread, not drawn
    rates = first[0]
    assert rates[0] == own
    assert rates[1] > own > rates[2]
    for count in (3, 4, 5):
        above, below = (sum(r > own for r in rates[:count]), sum(r < own for r in rates[:count]))
        assert abs(above - below) <= 1
    assert len(set(rates)) == 5
    assert all(2e-5 < rate < 1e-2 for rate in rates)


def test_the_first_trials_differ_in_every_option_that_is_searched(tmp_path):
    space = {
        "lr": {"low": 2e-5, "high": 1e-2, "log": True},
        "r": {"low": 4, "high": 256, "log": True},
        "alpha": {"choices": [8, 16, 32]},
    }
    search = Search(5, Budget(1, 1, 8, "float32"), 0, ("validation_loss",), space)
    asked = study.Study(tmp_path / "study.db", search, {"lr": 0.5, "r": 16, "alpha": 32})
    rows = [asked.values(number) for number in range(study.STARTUP)]
    assert (rows[0]["r"], rows[0]["alpha"]) == (16, 32)  # its own rate is not in the range
    assert len({row["lr"] for row in rows}) == len({row["r"] for row in rows}) == 5
    assert {row["alpha"] for row in rows} == {8, 16, 32}


# ---- a search that ends at its edge --------------------------------------------------------------


class Valley:
    """Trials whose loss is the distance to `best` in decades; above `wall` they diverge."""

    def __init__(self, best, wall=1.0):
        self.best, self.wall = best, wall
        self.ran = []

    def __call__(self, cell, folder, title):
        lr = cell.options["lr"]
        self.ran.append(lr)
        ok = lr <= self.wall
        training = {"validation": {"loss": 1 + abs(math.log10(lr / self.best))}} if ok else None
        error = None if ok else {"type": "CellFailed", "message": "loss is not finite"}
        status, plan = "ok" if ok else "diverged", cell.as_record()
        record = new_record(id=cell.id, status=status, plan=plan, training=training, error=error)
        store.write_record(folder, record)


def searched(experiment, out, valley, entry, **tune):
    """A tuned cell and the result of its search, with the losses of `valley`."""
    small = experiment(methods=[entry], tune=tune, suites=["picks"])
    cell = planned(small).cells[-1]
    return cell, Tuner(out, valley, lambda *told: None).tune(cell)


RANGE = {"low": 1e-5, "high": 1e-3}


def test_trials_that_another_run_is_at_are_run_by_that_one_alone(experiment, tmp_path):
    entry = {"name": "lora", "tune": {"lr": RANGE}}
    small = experiment(methods=[entry], tune={"trials": 2}, suites=["picks"])
    cell, valley, others = planned(small).cells[-1], Valley(1e-4, 1e-3), Valley(1e-4, 1e-3)

    def meanwhile(trial, folder, title):
        with pytest.raises(Taken, match=f"process {os.getpid()}"):
            Tuner(tmp_path, others, lambda *told: None).tune(cell)
        valley(trial, folder, title)

    first = Tuner(tmp_path, meanwhile, lambda *told: None).tune(cell)
    assert valley.ran
    assert Tuner(tmp_path, others, lambda *told: None).tune(cell) == first
    assert not others.ran


@pytest.mark.parametrize(
    ("best", "wall", "edge"),
    [(0.5, 1.0, {"lr": "highest"}), (1e-8, 1.0, {"lr": "lowest"}), (2e-4, 1.0, None)],
)
def test_a_winner_with_nothing_beyond_it_is_named(experiment, tmp_path, best, wall, edge):
    entry = {"name": "lora", "tune": {"lr": RANGE}}
    cell, tuning = searched(experiment, tmp_path, Valley(best, wall), entry, trials=6, extend=0)
    assert tuning["at_edge"] == edge
    assert (len(tuning["trials"]), tuning["extended"]) == (6, 0)
    found = bracketing.findings(cell.search, tuning)
    assert [one.name for one in found] == (["lr_at_edge"] if edge else [])


def test_the_advice_widens_the_search_as_it_stands_in_a_file(experiment, tmp_path):
    entry = {"name": "lora", "tune": {"lr": RANGE}}
    cell, tuning = searched(experiment, tmp_path, Valley(0.5), entry, trials=4, extend=0)
    ((found,)) = bracketing.findings(cell.search, tuning)
    text = found.message.split("tune: ")[1].split(" in the method's entry")[0]
    wider = experiment(methods=[], tune={"trials": 4}, suites=["picks"])
    file = wider.file.read_text().replace("methods: []", f"methods: [{{name: lora, tune: {text}}}]")
    wider.file.write_text(file)
    space = planned(wider).cells[-1].search.space["lr"]
    assert space["low"] == RANGE["low"]
    assert space["high"] > 5 * tuning["trials"][tuning["chosen"]]["options"]["lr"]


@pytest.mark.parametrize("best", [5e-3, 3e-7])
def test_a_search_goes_on_until_its_winner_has_worse_values_on_both_sides(
    experiment, tmp_path, best
):
    entry = {"name": "lora", "tune": {"lr": RANGE}}
    valley = Valley(best)
    _, tuning = searched(experiment, tmp_path, valley, entry, trials=4)
    rates = [trial["options"]["lr"] for trial in tuning["trials"]]
    winner = rates[tuning["chosen"]]
    assert tuning["at_edge"] is None
    assert min(rates) < winner < max(rates)
    assert not RANGE["low"] <= winner <= RANGE["high"]
    assert 1 < tuning["extended"] == len(rates) - 4 <= tuning.get("extend", 4)
    for before, after in pairwise([winner, *sorted(rates[4:], reverse=best < 1e-5)]):
        assert before == after or max(before, after) >= 1.99 * min(before, after)
    # nothing of it runs again, or comes out otherwise
    assert searched(experiment, tmp_path, refuse, entry, trials=4)[1]["trials"] == tuning["trials"]


def test_divergence_brackets_a_search_and_the_extra_trials_end(experiment, tmp_path):
    entry = {"name": "lora", "tune": {"lr": RANGE}}
    _, tuning = searched(experiment, tmp_path / "a", Valley(0.5, wall=1e-3), entry, trials=4)
    assert (tuning["at_edge"], tuning["trials"][-1]["status"]) == (None, "diverged")
    _, tuning = searched(experiment, tmp_path / "b", Valley(0.5), entry, trials=4, extend=1)
    assert (tuning["at_edge"], tuning["extended"]) == ({"lr": "highest"}, 1)


@pytest.mark.parametrize(
    ("space", "most"),
    [({"lr": RANGE}, 8), ({"lr": [1e-4, 1e-3]}, 4), ({"r": {"low": 2, "high": 8}}, 4)],
)
def test_listed_values_and_sizes_are_not_gone_beyond(experiment, space, most):
    small = experiment(
        methods=[{"name": "lora", "tune": space}], tune={"trials": 4}, suites=["picks"]
    )
    assert planned(small).cells[-1].search.most == most


def test_the_plan_tells_how_many_trials_a_search_can_come_to(experiment, harness):
    small = experiment(methods=["lora"], tune={"trials": 4}, suites=["picks"])
    assert "lora: up to 8 trials of 2 steps" in harness("plan", small.file).stdout


def test_an_option_at_its_own_bound_is_at_no_edge(experiment, tmp_path):
    entry = {"name": "lora", "tune": {"lr": [0.1, 1.0]}}
    _, tuning = searched(experiment, tmp_path, Valley(1.0), entry, trials=4)
    assert tuning["trials"][tuning["chosen"]]["options"] == {"lr": 1.0}
    assert tuning["at_edge"] is None


def test_the_leaderboard_marks_a_row_that_was_tuned_to_an_edge(tuned):
    small, _, outcome = tuned
    rows = {row["label"]: row for row in outcome.board["rows"]}
    assert "lr_at_edge" in rows["two"]["health"]
    assert "lr_at_edge" not in rows["fixed"].get("health", [])
    assert "two: its training was warned of lr_at_edge" in render(outcome.board, "markdown")
    warnings = small.records()["two-1"]["warnings"]
    (said,) = [line for line in warnings if line.startswith("health.lr_at_edge: ")]
    assert "lr 0.03 is the highest tried" in said
    assert "search higher: tune: {lr: [1e-06, 0.03, 0.06]}" in said


# ---- nothing runs twice --------------------------------------------------------------------------


def refuse(*arguments):
    raise AssertionError(f"ran again: {arguments}")


@pytest.mark.parametrize("lost", ["nothing", "study.db", "tuning.json"])
def test_recorded_trials_give_the_same_answer_again(tuned, tmp_path, lost):
    small, _, _ = tuned
    cell = next(c for c in planned(small).cells if c.label == "range")
    shutil.copytree(small.out / "tuning", tmp_path / "tuning")
    (folder_of(cell, tmp_path) / lost).unlink(missing_ok=True)
    assert recorded_trials(cell, tmp_path) == 3
    tuning = Tuner(tmp_path, refuse, refuse).tune(cell)
    recorded = small.records()["range-0"]["plan"]["tuning"]
    assert tuning["trials"] == recorded["trials"]
    winner = chosen(cell, tuning)
    assert (winner.id, winner.options) == (cell.id, small.records()["range-0"]["plan"]["options"])


def test_an_interrupted_run_goes_on_with_the_same_trials(tuned, tmp_path, warm):
    small, watched, _ = tuned
    again = dataclasses.replace(small, folder=shutil.copytree(small.folder, tmp_path / "again"))
    for place in ("tuning", "cells"):
        shutil.rmtree(again.out / place)
    cut = Watched(warm, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        run_warm(again, cut, methods=("range",))
    assert not [r for r in again.records().values() if r["plan"]["method"] != "base"]
    resumed = Watched(warm)
    assert not run_warm(again, resumed, methods=("range",)).failed
    first = [cell["options"] for cell in watched.trials if cell["label"] == "range"]
    assert [cell["options"] for cell in (*cut.trials, *resumed.trials)] == first
    trials = again.records()["range-0"]["plan"]["tuning"]["trials"]
    whole = small.records()["range-0"]["plan"]["tuning"]["trials"]
    assert [t["validation_loss"] for t in trials] == [t["validation_loss"] for t in whole]


def test_more_trials_go_on_from_those_there_are(tuned):
    small, _, _ = tuned
    before = {c.label: c for c in planned(small).cells}
    more = small.write(tune={"trials": 4, "steps": 4, "extend": 0})
    try:
        after = {c.label: c for c in planned(more).cells}
    finally:
        small.write()
    for label in ("two", "range"):
        assert after[label].id != before[label].id
        assert folder_of(after[label], small.out) == folder_of(before[label], small.out)
    assert after["fixed"].id == before["fixed"].id


# ---- what fails, and the front -------------------------------------------------------------------


def test_trials_that_fail_count_and_are_recorded(tmp_path, experiment, warm, monkeypatch):
    write_distribution(tmp_path / "site", ROOT / "tests/sample_plugins/trouble.py", "trouble")
    monkeypatch.syspath_prepend(tmp_path / "site")
    small = experiment(
        methods=[{"name": "trouble", "tune": {"how": ["error", "diverged", "memory"]}}],
        tune={"trials": 6},
        suites=["picks"],
    )
    watched = Watched(warm)
    outcome = run_warm(small, watched)
    (cell,) = outcome.failed
    record = store.read_record(small.out / "cells" / f"{cell}.json")
    tuning = record["plan"]["tuning"]
    assert (record["status"], record["error"]["phase"]) == ("error", "tuning")
    assert "none of 6 trials gave a validation loss" in record["error"]["message"]
    assert "this method always breaks" in record["error"]["message"]
    assert len(tuning["trials"]) == 6
    assert tuning["chosen"] is None
    tried = {t["options"]["how"]: t["status"] for t in tuning["trials"]}
    assert len(tried) > 1
    assert tried.items() <= {"error": "error", "diverged": "diverged", "memory": "oom"}.items()
    again = Watched(warm)
    run_warm(small, again)
    # an error may be mended since; that it diverged or did not fit is a result
    assert [cell["options"]["how"] for cell in again.trials] == ["error"]


def test_a_front_is_drawn_over_loss_and_memory(experiment, warm):
    small = experiment(
        methods=[{"name": "lora", "tune": {"r": [1, 16]}}],
        budget=BUDGET,
        tune={"trials": 2, "steps": 2, "objectives": ["validation_loss", "peak_memory"]},
        suites=["picks"],
    )
    assert not run_warm(small, warm).failed
    tuning = small.records()["lora-0"]["plan"]["tuning"]
    placed = {t["number"]: (t["validation_loss"], t["peak_memory_bytes"]) for t in tuning["trials"]}
    assert tuning["front"] == front(placed)
    assert tuning["chosen"] == min(placed, key=placed.get)
    assert tuning["chosen"] in tuning["front"]


def test_the_front_is_optunas(tmp_path):
    import optuna

    space = {"lr": {"low": 1e-5, "high": 1e-2, "log": True}, "r": {"choices": [4, 8, 16]}}
    names = ("validation_loss", "peak_memory")
    search = Search(8, Budget(1, 1, 8, "float32"), 0, names, space)
    file = tmp_path / "what? 100%" / "study.db"
    sampler = study.Study(file, search, {"lr": 1e-3, "r": 32})
    placed = {}
    for number in range(8):
        values = sampler.values(number)
        assert sampler.values(number) == values
        assert 1e-5 <= values["lr"] <= 1e-2
        assert values["r"] in (4, 8, 16)
        fails = number % 5 == 4
        place = None if fails else [abs(values["lr"] - 1e-3), values["r"] * (1 - values["lr"])]
        sampler.tell(number, place)
        placed |= {} if place is None else {number: place}
        if number == 0:
            assert values["lr"] == 1e-3  # its own rank is not among the choices
    stored = optuna.load_study(study_name=study.NAME, storage=study.url(file))
    assert {trial.number for trial in stored.best_trials} == set(front(placed))
    assert len(stored.trials) == 8


# ---- wrong input ---------------------------------------------------------------------------------

WRONG = {
    "an unknown option": (
        {"name": "lora", "tune": {"rank": [4, 8]}},
        r"experiment.yaml:\d+: unknown option 'rank' to tune of method 'lora': .*known: alpha",
    ),
    "an unknown option in a list": (
        {"name": "lora", "tune": ["lr", "droput"]},
        r"yaml:\d+: unknown option 'droput' .*did you mean 'dropout'\?",
    ),
    "a value that the option does not take": (
        {"name": "lora", "tune": {"lr": {"low": 1e-5, "high": 5}}},
        r"yaml:\d+: lr of method 'lora': must be at most 1.0, got 5",
    ),
    "bounds the wrong way round": (
        {"name": "lora", "tune": {"lr": {"low": 0.1, "high": 0.01}}},
        r"yaml:\d+: lr of method 'lora': low must be below high, got 0.1 to 0.01",
    ),
    "an option without a usual range": (
        {"name": "lora", "tune": ["dropout"]},
        r"yaml:\d+: option 'dropout' of method 'lora' has no usual range: write",
    ),
    "a range of words": (
        {"name": "lora", "tune": {"schedule": {"low": 1, "high": 2}}},
        r"yaml:\d+: schedule of method 'lora': expected 'cosine', ",
    ),
    "a method that trains nothing": (
        {"name": "base", "tune": ["lr"]},
        r"yaml:\d+: method 'base' trains nothing to tune",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_space_is_one_line(experiment, wrong):
    entry, message = WRONG[wrong]
    small = experiment(methods=[entry], tune={"trials": 2}, suites=["picks"])
    with pytest.raises(UserError, match=message):
        planned(small)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {"trails": 2}}, "unknown key 'trails' in tune: did you mean 'trials'"),
        ({"tune": {"trials": 0}}, "tune.trials: must be at least 1, got 0"),
        ({"tune": {"trials": 2, "objectives": ["peak_memory"]}}, r"expected \[validation_loss\]"),
        ({"tune": {"trials": 2}, "data": {"train": "train.jsonl"}}, "set data.validation"),
        ({"methods": [{"name": "lora", "tune": ["lr"]}]}, "add `tune: {trials: 8}`"),
    ],
)
def test_a_wrong_block_is_one_line(experiment, changes, message):
    small = experiment(**{"methods": ["lora"], "suites": ["picks"], **changes})
    with pytest.raises(UserError, match=message) as error:
        planned(small)
    assert str(error.value).startswith(f"{small.file}:")


def test_the_plan_shows_the_trials_and_runs_none(tuned, harness):
    small, _, _ = tuned
    result = harness("plan", small.file, "--out", small.out)
    assert result.code == 0
    assert "two: 3 trials of 4 steps, 3 recorded; lr one of 1e-06, 0.03" in result.stdout
    assert "range: 3 trials of 4 steps, 3 recorded; lr 2e-05 to 0.01 (log)" in result.stdout
    assert "Not tuned, for the entry says what it takes: fixed." in result.stdout
    plan = json.loads(harness("plan", small.file, "--out", small.out, "--json").stdout)
    assert [entry["label"] for entry in plan["tuning"]] == ["two", "range"]
    assert all(cell["recorded"] for cell in plan["cells"])
    rerun = harness("run", small.file, "--out", small.out)
    assert "two: lr=0.03, the best of 3 trials: validation loss" in rerun.stdout


def test_without_optuna_a_run_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentLack, match=r"pip install 'finetune-harness\[tune\]'"):
        study.check()


def test_a_rank_that_the_model_has_no_room_for_is_refused_before_the_trials(experiment):
    small = experiment(
        methods=[{"name": "lora", "tune": {"r": [4, 4096]}}], tune={"trials": 2}, suites=["picks"]
    )
    with pytest.raises(ConfigError, match=r"method 'lora': r: rank 4096 is above the width"):
        make_plan(load_experiment(small.file), Plugins(), Settings())
