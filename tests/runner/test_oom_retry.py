"""Training that runs out of memory: what is tried next, and what the record says of it."""

import dataclasses

import pytest
import yaml

from harness.api.executor import Executor
from harness.config.experiment import load_experiment
from harness.manager import plugins
from harness.planning.plan import Settings, make_plan
from harness.results import store
from harness.runner import oom_retry
from harness.runner import run as run_module
from harness.runner.cell_runner import _End, run_cell
from harness.system.hardware import available_memory
from harness.types import Budget
from tests.conftest import ROOT, THINGS, conversations, run_warm, write_distribution, write_jsonl

BUDGET = Budget(2, 12, 96, "float32")
OPTIONS = {"gradient_checkpointing": False}


def climb(budget, options, phase="train"):
    """Every rung until there is none, from the first attempt on."""
    attempt = {
        "micro_batch": budget.first_micro_batch,
        "gradient_checkpointing": options.get("gradient_checkpointing", False),
        "phase": phase,
    }
    while (rung := oom_retry.lower(attempt, budget, options)) is not None:
        yield rung.micro_batch, rung.gradient_checkpointing
        attempt |= dataclasses.asdict(rung)


def test_micro_batches_are_halved_to_divisors_and_checkpointing_comes_last():
    steps = [(6, False), (3, False), (1, False), (1, True)]
    assert list(climb(BUDGET, OPTIONS)) == steps
    assert list(climb(dataclasses.replace(BUDGET, micro_batch=4), OPTIONS)) == [
        (2, False),
        (1, False),
        (1, True),
    ]


def test_what_is_not_allowed_or_cannot_help_is_not_tried():
    assert list(climb(dataclasses.replace(BUDGET, on_oom="stop"), OPTIONS)) == []
    halved = list(climb(dataclasses.replace(BUDGET, on_oom="halve"), OPTIONS))
    assert halved == list(climb(BUDGET, {})) == [(6, False), (3, False), (1, False)]
    checkpointed = list(climb(BUDGET, {"gradient_checkpointing": True}))
    assert checkpointed == [(6, True), (3, True), (1, True)]
    for phase in ("load", "prepare", "save", None):
        assert list(climb(BUDGET, OPTIONS, phase)) == []


# ---- with a limit on the process's memory --------------------------------------------------------


def long_rows():
    rows = conversations() * 2
    for i, row in enumerate(rows):
        answer = row["messages"][2]
        longer = {**answer, "content": f"{answer['content']} " * 4 + str(i)}
        rows[i] = {"messages": [*row["messages"][:2], longer]}
    return rows


@pytest.fixture
def run(warm, experiment, monkeypatch, tmp_path):
    """`run(label, batch=48, room=200)` trains under a limit of so many MiB; its record."""
    site = write_distribution(tmp_path / "site", ROOT / "tests/sample_plugins/narrow.py", "narrow")
    monkeypatch.syspath_prepend(site)
    plugins.cache_clear()

    def go(batch, *, suites=("picks",), on_oom="checkpoint", **options):
        small = experiment(
            data={"train": "train.jsonl", "loss": "all"},
            budget={"steps": 2, "batch": batch, "max_length": 192, "on_oom": on_oom}
            | {"precision": "float32"},
            methods=["base", {"name": "narrow", "r": 2, **options}, {"name": "lora", "r": 2}],
            suites=list(suites),
        )
        write_jsonl(tmp_path / "train.jsonl", long_rows())
        outcome = run_warm(small, warm)
        records = small.records()
        for record in records.values():
            store.validate(record, "record")
        assert records["base-0"]["status"] == "ok"
        return small, outcome, records

    yield go
    plugins.cache_clear()


def rungs(training):
    return [(rung["micro_batch"], rung["gradient_checkpointing"]) for rung in training["ladder"]]


def losses(record):
    return [point["loss"] for point in record["training"]["loss_curve"]]


def assert_same_training(split, whole):
    """The same losses but for float32's rounding, whatever kernels a processor has."""
    assert losses(split) == pytest.approx(losses(whole), rel=1e-4)


def test_a_training_that_does_not_fit_goes_on_with_smaller_passes(run):
    """48 rows at once take 570 MiB, 24 take 290 and 12 take 150; there are 200."""
    _, outcome, records = run(48, room=200)
    assert not outcome.failed
    narrow, free = records["narrow-0"], records["lora-0"]
    training = narrow["training"]
    assert rungs(training) == [(48, False), (24, False)]
    assert training["micro_batch"] == 12
    assert free["training"]["micro_batch"] == 48
    assert "ladder" not in free["training"]
    assert all("can't allocate memory" in rung["error"] for rung in training["ladder"])
    assert {rung["phase"] for rung in training["ladder"]} == {"train"}
    assert_same_training(narrow, free)
    assert narrow["plan"]["budget"]["batch"] == 48
    # what failed is apart from what trained
    phases = training["phases"]
    assert phases["oom_retries"] == {"seconds": sum(o["seconds"] for o in training["ladder"])}
    assert phases["train"]["seconds"] > 0
    (line,) = [text for text in narrow["warnings"] if "out of memory" in text]
    assert line == (
        "training ran out of memory with micro_batch 48, micro_batch 24; "
        "it ran with micro_batch 12 and the same effective batch"
    )


def test_where_nothing_fits_the_record_says_what_was_tried_and_what_there_is(run):
    small, outcome, records = run(4, room=0)
    assert outcome.exit_code == 5
    oom = records["narrow-0"]
    assert oom["status"] == "oom"
    assert rungs(oom["training"]) == [(4, False), (2, False), (1, False), (1, True)]
    assert oom["error"]["phase"] == "train"
    assert oom["error"]["available_bytes"] == available_memory()
    assert oom["error"]["predicted_bytes"] > 500 * 2**20
    assert oom["evaluation"] is None
    assert records["lora-0"]["status"] == "ok"  # the others go on
    assert not (small.out / "artifacts" / oom["id"] / "training.json").exists()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGBUS"])
def test_a_worker_that_dies_with_its_memory_spent_is_tried_again_with_less(run, name):
    _, outcome, records = run(4, room=500, killed_above=1, dies_of=name)
    assert not outcome.failed
    training = records["narrow-0"]["training"]
    assert rungs(training) == [(4, False), (2, False)]
    assert training["micro_batch"] == 1
    for attempt in training["ladder"]:
        assert attempt["error"].startswith(f"{name} with ")
    assert_same_training(records["narrow-0"], records["lora-0"])


@pytest.mark.parametrize(
    ("name", "advice"), [("SIGKILL", "kernel's log (dmesg)"), ("SIGSEGV", "Python stack")]
)
def test_a_worker_that_dies_with_memory_to_spare_is_an_error_that_says_what_to_do(
    run, name, advice
):
    _, outcome, records = run(4, room=500, killed_above=1, dies_of=name, full=False)
    assert outcome.exit_code == 5
    died = records["narrow-0"]
    assert died["status"] == "error"
    assert name in died["error"]["message"]
    assert advice in died["error"]["message"]
    assert "ladder" not in (died["training"] or {})
    assert records["lora-0"]["status"] == "ok"


@pytest.mark.parametrize(("spent", "told"), [(0.9, "oom"), (0.5, "possibly"), (0.1, "no")])
def test_a_crash_near_the_limit_is_told_as_possibly_out_of_memory(spent, told):
    """One allocation beyond the limit crashes oneDNN while half of the memory is free."""
    end = _End(code=-11)
    end.update({"event": "memory", "spent": spent})
    assert end.status == ("oom" if told == "oom" else "error")
    assert ("possibly out of memory" in end.cause) == (told == "possibly")
    assert ("lower budget.micro_batch" in end.cause) == (told == "possibly")
    assert "\n" not in end.cause


def test_on_oom_stop_tries_once(run):
    _, _, records = run(4, room=0, on_oom="stop")
    assert records["narrow-0"]["status"] == "oom"
    assert rungs(records["narrow-0"]["training"]) == [(4, False)]


def test_an_evaluation_that_runs_out_of_memory_keeps_the_trained_model(
    warm, experiment, monkeypatch, tmp_path
):
    site = write_distribution(tmp_path / "site", ROOT / "tests/sample_plugins/narrow.py", "narrow")
    monkeypatch.syspath_prepend(site)
    stone = tmp_path / "stone"
    stone.touch()
    rows = [{"id": t, "prompt": t, "reference": t, "stone": str(stone)} for t in THINGS[:2]]
    write_jsonl(tmp_path / "swells.jsonl", rows)
    suite = {"name": "swells", "version": 1, "ask": "generate", "data": "swells.jsonl"}
    suite |= {"scorers": ["swell"], "max_new_tokens": 2}
    (tmp_path / "swells.yaml").write_text(yaml.safe_dump(suite))
    small = experiment(methods=[{"name": "lora", "r": 2}], suites=["picks", "swells"])
    run_warm(small, warm)
    before = small.records()["lora-0"]
    assert before["status"] == "oom"
    assert before["error"]["phase"] == "swells"
    assert set(before["evaluation"]["suites"]) == {"picks"}
    assert "ladder" not in before["training"]  # smaller passes of training would not help

    stone.unlink()
    assert not run_warm(small, warm).failed
    after = small.records()["lora-0"]
    assert after["training"] == before["training"]  # to the microsecond: not trained again
    assert set(after["evaluation"]["suites"]) == {"picks", "swells"}


# ---- by the prediction, before anything runs -----------------------------------------------------


class NeverStarted(Executor):
    """Starts no worker."""

    name = "never"

    def run(self, job_file, log_file):
        raise AssertionError("a worker was started")


@pytest.fixture
def planned_work(experiment, monkeypatch):
    """`planned_work(memory, **options)`: the task of a full fine-tuning on a machine of so much."""

    def make(memory, **options):
        small = experiment(
            methods=["base", {"name": "full", **options}],
            budget={"steps": 2, "batch": 4, "max_length": 96, "precision": "float32"},
        )
        plan = make_plan(load_experiment(small.file), plugins(), Settings())
        (cell,) = (cell for cell in plan.cells if cell.label == "full")
        monkeypatch.setattr(run_module, "available_memory", lambda: memory)
        prediction = run_module.predict(cell)
        work = run_module._work(plan, cell, small.out, None, None, prediction)
        return small, run_module._fitted(work, prediction)

    return make


def test_a_training_whose_weights_alone_do_not_fit_is_not_tried(planned_work):
    small, work = planned_work(10**6)
    assert run_cell(work, NeverStarted(), lambda cell, event: None) == "oom"
    (record,) = small.records().values()
    store.validate(record, "record")
    message = record["error"]["message"]
    assert message.startswith("weights, gradients and optimizer state alone take 0.0 GB of 0.0 GB")
    assert "so no micro-batch fits; " in message
    assert record["training"] is None


def test_training_begins_with_the_rows_that_are_predicted_to_fit(planned_work):
    _, work = planned_work(10**12)
    assert (work.rung, work.never_fits) == (oom_retry.Rung(), None)
    _, work = planned_work(work.predicted_bytes - 1)
    assert work.rung.micro_batch in (1, 2)
    assert any("training began with micro_batch" in line for line in work.warnings)
