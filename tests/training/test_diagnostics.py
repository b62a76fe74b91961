"""Each health check on a training that has the fault, and none on trainings that have none."""

import contextlib
import importlib.util
import json
import random
import re
import shutil
import sys
from pathlib import Path

import pytest

from harness.cli.render import leaderboard_table, progress
from harness.data.tokenization import IGNORED, Encoded, encode_row
from harness.results import groups, leaderboard, store
from harness.training import sft
from harness.training.diagnostics import findings, loss_curve, token_rows, trainable_share
from harness.training.diagnostics.options import outside_usual
from harness.training.low_rank import LowRankOptions
from harness.types import Row

ROOT = Path(__file__).parent.parent.parent


def _benchmark():
    """The trainings of benchmarks/health.py."""
    spec = importlib.util.spec_from_file_location("health_runs", ROOT / "benchmarks/health.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


RUNS = _benchmark()
SAYS = {
    "not_finite": "loss is not finite at step 1: lower the learning rate",
    "gradient_spike": "times its median",
    "loss_not_falling": "12 steps: raise lr, or train for longer",
    "overfitting": "set keep_best: true",
    "few_trainable": "128 of 26,9",
    "no_loss_tokens": "1 of 9 rows have no token under the loss (first: row long): raise",
    "rows_cut": "8 of 8 rows are longer than budget.max_length 128 and were cut (first: "
    "row talk-0): 810 of 1834 tokens (44.2%) are lost",
    "end_not_learnt": "so the model does not learn to stop: give data.chat_template",
    "marker_unknown": "'<|end|>'",
    "bos_missing": "begin data.chat_template with {{ bos_token }}",
    "bos_doubled": "8 of 8 rows begin with '<|endoftext|>' twice",
    "eos_doubled": "8 of 8 rows end with '<|im_end|>' twice",
    "eos_masked": "2 of 2 end tokens '<|im_end|>' of the first batch are left out of the loss",
    "lr_unusual": "lr 0.5 is above the usual 1e-06 to 0.001 of this method",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from harness.models.tiny import write_tiny_model

    folder = tmp_path_factory.mktemp("health") / "tiny"
    write_tiny_model(folder)
    return folder


# ---- real trainings ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", RUNS.FAULTS)
def test_a_training_with_the_fault_is_told_of_it_once_with_its_mend(fault, tiny, tmp_path):
    name, training = RUNS.FAULTS[fault]
    job, told = training.job(tiny, tmp_path)
    (line,) = [line for line in told if line.startswith(f"health.{name}: ")]
    assert SAYS[name] in line
    assert "\n" not in line
    if name != "lr_unusual":  # the worker notes what is known before
        (found,) = [one for one in job.notes["health"] if one["name"] == name]
        assert line == f"health.{name}: {found['message']}"


@pytest.mark.parametrize("kind", RUNS.CLEAN)
def test_a_healthy_training_is_told_nothing(kind, tiny, tmp_path):
    job, told = RUNS.CLEAN[kind].job(tiny, tmp_path)
    assert told == []
    assert job.notes["health"] == []


def test_every_check_has_a_training_that_it_speaks_in():
    assert {name for name, _ in RUNS.FAULTS.values()} == set(SAYS)


def test_looking_back_is_no_training_time_and_changes_no_weight(tiny, tmp_path):
    """The rows of the first step are scored again in a phase of their own."""
    from safetensors.torch import load_file

    training = RUNS.CLEAN["full"]
    seen = []
    keep = sft.train_sft

    def phases(job, **settings):
        @contextlib.contextmanager
        def phase(name):
            seen.append(name)
            yield

        return keep(type(job)(**{**vars(job), "phase": phase}), **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RUNS, "train_sft", phases)
        first, _ = training.job(tiny, tmp_path / "a")
        patch.setattr("harness.training.diagnostics.recipe_checks.curves.FEWEST_STEPS", 1000)
        second, _ = training.job(tiny, tmp_path / "b")
    assert seen == ["load", "prepare", "train", "check", "save", "load", "prepare", "train", "save"]
    one, two = (load_file(job.folder / "model.safetensors") for job in (first, second))
    assert all(one[name].equal(two[name]) for name in one)
    assert first.notes["loss_curve"] == second.notes["loss_curve"]


# ---- rows ----------------------------------------------------------------------------------------


def encoded(*ids, learnt=None, cut=0):
    count = len(ids) if learnt is None else learnt
    return Encoded(list(ids), [IGNORED] * (len(ids) - count) + list(ids)[len(ids) - count :], cut)


def test_what_was_cut_is_counted_and_the_length_that_keeps_all_is_named():
    found = token_rows.cut({"a": encoded(1, 2, 3, cut=5), "b": encoded(1, 2)}, 3)
    assert found.message == (
        "1 of 2 rows are longer than budget.max_length 3 and were cut (first: row a): "
        "5 of 10 tokens (50.0%) are lost, with the ends of those rows; 8 keeps all"
    )
    assert token_rows.cut({"b": encoded(1, 2)}, 3) is None


def test_a_row_that_is_not_cut_needs_an_answer_where_it_has_none():
    found = token_rows.nothing_to_learn({"a": encoded(1, 2, learnt=0), "b": encoded(1, 2)})
    assert found.message.endswith("(first: row a): give them an answer, or drop them")


@pytest.mark.parametrize("loss", ["assistant", "all"])
def test_a_line_break_after_the_end_is_no_fault(tokenizer, loss):
    turns = ({"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes.\n\n"})
    row = encode_row(tokenizer, Row("a", messages=turns), loss=loss)
    assert token_rows.end_not_learnt({"a": row}, tokenizer) is None
    assert token_rows.doubled({"a": row}, tokenizer) == []


def test_an_end_is_not_asked_of_rows_that_were_cut(tokenizer):
    text = Row("a", text="The lamp stood by the door.")
    assert (
        token_rows.end_not_learnt({"a": encode_row(tokenizer, text, max_length=8)}, tokenizer)
        is None
    )
    assert token_rows.end_not_learnt({"a": encoded(300, 301)}, tokenizer).name == "end_not_learnt"


def test_a_template_with_the_models_own_markers_is_no_fault(tokenizer):
    own = tokenizer.chat_template
    assert token_rows.unknown_markers(own.replace("user", "person"), tokenizer) is None
    other = own.replace("<|im_start|>", "<|start_header_id|>")
    assert "'<|start_header_id|>'" in token_rows.unknown_markers(other, tokenizer).message
    assert token_rows.unknown_markers(None, tokenizer) is None


def test_ends_are_counted_in_padded_and_in_packed_batches(tokenizer):
    end = tokenizer.eos_token_id
    batch = [encoded(5, 6, end, learnt=2), encoded(5, 6, 7, end, learnt=2)]
    padded = [[IGNORED, 6, end, IGNORED], [IGNORED, IGNORED, 7, end]]
    assert token_rows.masked_ends(batch, padded, tokenizer) is None
    assert token_rows.masked_ends(batch, [[*padded[0], *padded[1]]], tokenizer) is None
    masked = [[IGNORED if token == end else token for token in row] for row in padded]
    found = token_rows.masked_ends(batch, masked, tokenizer)
    assert found.message.startswith("2 of 2 end tokens '<|im_end|>'")
    assert "the padding is that token too" in found.message


# ---- losses and gradient norms -------------------------------------------------------------------


def references():
    """The loss curve of every training run under results/, by the name of its record."""
    for file in sorted((ROOT / "results/reference").glob("*/cells/*.json")):
        if training := json.loads(file.read_text())["training"]:
            yield file.stem, training["loss_curve"]


def points(losses, norms=None):
    norms = norms or [1.0] * len(losses)
    return [
        {"step": step, "loss": loss, "grad_norm": norm}
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1)
    ]


def told_by(points):
    """Names of all that is said while the points come one by one."""
    found = [
        check(points[:n])
        for n in range(1, len(points) + 1)
        for check in (loss_curve.gradient_spike, loss_curve.rising, loss_curve.overfitting)
    ]
    return {one.name for one in found if one}


def test_the_reference_runs_are_healthy():
    told = {name: told_by(curve) for name, curve in references()}
    assert {"full", "lora", "qlora"} <= {name.split("-s0-")[0] for name in told}
    assert [name for name, found in told.items() if found and "spoilt" not in name] == []


def test_the_spoilt_reference_run_is_not():
    (spoilt,) = [curve for name, curve in references() if name.startswith("lora-spoilt-")]
    found = next(filter(None, (loss_curve.gradient_spike(spoilt[:n]) for n in range(1, 13))))
    assert found.step == 3
    assert re.match(r"the gradient norm is \d+ at step 3, \d{3} times its median", found.message)
    assert "lower lr" in loss_curve.not_falling(spoilt[0]["loss"], spoilt[-1]["loss"], 12).message


@pytest.mark.parametrize(
    ("norms", "step"), [((2, 1, 2, 50), None), ((2, 1, 180), 3), ((1, 180), None)]
)
def test_an_early_spike_is_told_where_it_is_beyond_doubt(norms, step):
    """A few norms have a rough median alone, and one has none."""
    found = loss_curve.gradient_spike(points([1.0] * len(norms), list(norms)))
    assert (found.step if found else None) == step


def test_a_norm_that_is_large_only_beside_nothing_is_no_spike():
    """Rows learnt by heart: 100 times the median, and a tenth of what the run began with."""
    norms = [5.0] * 6 + [0.005] * 20 + [0.5]
    assert loss_curve.gradient_spike(points([1.0] * 27, norms)) is None
    assert loss_curve.gradient_spike(points([1.0] * 27, [*norms[:-1], 6.0])).step == 27


def test_a_loss_that_rises_is_seen_in_its_noise_and_a_flat_one_is_not_taken_for_it():
    noise = random.Random(0)
    up = [2 + step / 20 + noise.gauss(0, 0.3) for step in range(40)]
    assert loss_curve.rising(points(up)).message.endswith("in the last: lower lr")
    assert loss_curve.rising(points(up[::-1])) is None
    flat = [points([noise.gauss(2, 0.5) for _ in range(24)]) for _ in range(400)]
    assert sum(loss_curve.rising(one) is not None for one in flat) <= 2


@pytest.mark.parametrize(
    ("before", "after", "steps", "mend"),
    [
        (2.0, 2.0, 12, "raise lr"),
        (2.0, 9.0, 12, "lower lr"),
        (2.0, 1.9, 12, None),
        (2.0, 2.0, 9, None),  # too few steps to tell
    ],
)
def test_the_loss_of_the_first_rows_must_have_fallen(before, after, steps, mend):
    found = loss_curve.not_falling(before, after, steps)
    assert (found is None) if mend is None else (mend in found.message)


def validated(training, validation):
    """A curve with a validation every second step."""
    made = []
    for step, loss in enumerate(training, 1):
        made.append({"step": step, "loss": loss, "grad_norm": 1.0})
        if step % 2 == 0:
            made.append({"step": step, "validation_loss": validation[step // 2 - 1]})
    return made


FALLING = [3.0, 2.5, 2.0, 1.5, 1.0, 0.8, 0.6, 0.5]


@pytest.mark.parametrize(
    ("training", "validation", "told"),
    [
        (FALLING, [2.0, 1.8, 1.9, 2.1], True),
        (FALLING, [2.0, 1.8, 1.7, 1.9], False),  # a single rise
        (FALLING, [2.0, 1.8, 1.801, 1.802], False),  # less than 1%
        ([1.5] * 4 + [1.6] * 4, [2.0, 1.8, 1.9, 2.1], False),  # the training loss rises too
        (FALLING, [2.0, 1.8, 1.7, 1.6], False),
    ],
)
def test_overfitting_is_validation_rising_while_training_falls(training, validation, told):
    found = loss_curve.overfitting(validated(training, validation))
    assert (found is not None) == told


# ---- what is trained, and options ----------------------------------------------------------------


def test_the_smallest_shares_in_use_are_plausible():
    assert (
        trainable_share.few_trainable(20 * 4096, 6_738_415_616) is None
    )  # prompt tuning of a 7B model
    assert trainable_share.few_trainable(0, 1000).message.startswith("0 of 1,000 parameters")


def test_the_ends_of_the_usual_range_are_usual():
    assert outside_usual(LowRankOptions(lr=2e-5, r=256)) == []
    found = outside_usual(LowRankOptions(lr=1e-5, r=512))
    assert [one.name for one in found] == ["lr_unusual", "r_unusual"]
    assert "r 512 is above the usual 4 to 256" in found[1].message


# ---- the record, the screen, the plan ------------------------------------------------------------

SHORT = {"steps": 2, "batch": 2, "max_length": 32, "precision": "float32"}


def run_watched(small, executor):
    from harness.config.experiment import load_experiment
    from harness.manager import Plugins
    from harness.planning.plan import Settings, make_plan
    from harness.runner.run import run_plan

    events = []
    plan = make_plan(load_experiment(small.file), Plugins(), Settings())
    outcome = run_plan(plan, small.out, executor, lambda cell, event: events.append((cell, event)))
    return outcome, [(cell, event) for cell, event in events if event["event"] == "warning"]


def test_findings_are_in_the_record_on_the_screen_and_kept_with_the_artifact(
    experiment, warm, capsys
):
    small = experiment(
        methods=["base", {"name": "lora", "r": 2, "lr": 0.5}], budget=SHORT, suites=["picks"]
    )
    outcome, events = run_watched(small, warm)
    assert not outcome.failed
    before = small.records()["lora-0"]
    store.validate(before, "record")
    assert groups.findings(before) == ["lr_unusual", "r_unusual", "rows_cut"]
    said = [f"health.{one['name']}: {one['message']}" for one in before["training"]["health"]]
    assert [line for line in before["warnings"] if line.startswith("health.")] == said

    # what the options say was told by the plan, before the first cell
    told = [event["message"] for _, event in events]
    assert [line for line in told if line.startswith("health.")] == said[2:]
    events = [pair for pair in events if pair[1]["message"] == said[2]]
    for screen in (progress.Quiet(), progress.Lines(), progress.Live()):
        with screen:
            screen.observe(*events[0])
        assert f"Warning: lora (seed 0): {said[2]}" in capsys.readouterr().err.splitlines()

    (row,) = [row for row in outcome.board["rows"] if row["label"] == "lora"]
    assert row["health"] == groups.findings(before)
    store.validate(outcome.board, "leaderboard")
    assert (
        "lora: its training was warned of lr_unusual, r_unusual, rows_cut"
        in leaderboard_table.render(outcome.board, "markdown")
    )

    (small.out / "cells" / f"{before['id']}.json").unlink()
    run_watched(small, warm)
    after = small.records()["lora-0"]
    assert after["warnings"] == before["warnings"]
    assert after["training"] == before["training"]


def test_a_diverged_cell_says_so_by_name(experiment, warm, tiny_model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    RUNS._broken_weight(broken)
    small = experiment(methods=["full"], suites=["picks"]).write(model=str(broken))
    run_watched(small, warm)
    found = small.records()["full-0"]
    assert found["status"] == "diverged"
    assert groups.findings(found) == ["not_finite"]
    (said,) = [line for line in found["warnings"] if line.startswith("health.")]
    assert said.startswith("health.not_finite: loss is not finite at step 1")


def test_the_finished_runs_are_healthy(finished):
    trained = [found for found in finished.records().values() if found["training"]]
    assert len(trained) == 6
    assert all(found["training"]["health"] == [] for found in trained)
    assert not any(w.startswith(findings.PREFIX) for found in trained for w in found["warnings"])


def test_a_plan_tells_of_options_before_anything_is_trained(harness, experiment):
    small = experiment(methods=["base", {"name": "full", "lr": 0.02}], seeds=[0, 1])
    ran = harness("plan", small.file, "--out", small.out, "--json")
    assert ran.code == 0
    assert len(json.loads(ran.stdout)["cells"]) == 3
    assert ran.error.startswith(
        "Note: method 'full': health.lr_unusual: lr 0.02 is above the usual 1e-06 to 0.001"
    )


def test_the_leaderboard_of_healthy_cells_has_no_word_of_it(finished):
    stored = store.read_records(sorted((finished.out / "cells").glob("*.json")))
    board = leaderboard.build([s.data for s in stored], read_rows=store.rows_reader(stored))
    assert not any("health" in row for row in board["rows"])
