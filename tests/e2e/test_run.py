"""Experiments from end to end on a tiny model: records, samples, leaderboard, what is run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.record import VERSION
from harness.results import store
from tests.conftest import ROOT, run_warm, write_distribution

SUITES = {"predicts", "answers", "picks", "tasks"}
METRIC = {"value", "stderr", "ci_low", "ci_high", "n", "higher_is_better"}
DELTA = {"delta", "delta_ci_low", "delta_ci_high"}
PHASE = {"seconds", "peak_allocated_bytes", "peak_reserved_bytes", "peak_host_bytes"}


# ---- what a run leaves behind --------------------------------------------------------------------


def test_every_cell_has_a_valid_record(finished):
    records = finished.records()
    labels = {"base-0", *(f"{m}-{s}" for m in ("full", "lora", "qlora") for s in (0, 1))}
    assert set(records) == labels
    for found in records.values():
        store.validate(found, "record")
        assert found["status"] == "ok"
        assert found["error"] is None


def test_a_record_has_what_the_contract_names(finished):
    for found in finished.records().values():
        assert found["schema"] == VERSION
        plan, training = found["plan"], found["training"]
        assert len(plan["model"]["content_hash"]) == 64
        assert {"method", "options", "data", "budget", "seed"} <= set(plan)
        assert set(found["evaluation"]["suites"]) == SUITES
        phases = dict(found["evaluation"]["phases"])
        assert {"reload", "generate", "loglikelihood", *SUITES} <= set(phases)
        if plan["method"] == "base":
            assert training is None
            continue
        assert {"load", "prepare", "train", "save"} <= set(training["phases"])
        for phase in [*phases.values(), *training["phases"].values()]:
            assert set(phase) == PHASE
            assert phase["seconds"] >= 0
            assert phase["peak_host_bytes"] > 10_000_000
        assert training["total_parameters"] >= training["trainable_parameters"] > 0
        assert training["artifact_bytes"] > 0
        assert training["tokens"] > 0
        assert training["tokens_per_second"] > 0
        assert [point["step"] for point in training["loss_curve"]] == [1, 2]
        assert plan["data"]["rows"] == 20


def test_every_figure_has_its_interval_and_its_change_against_the_base(finished):
    for found in finished.records().values():
        for suite in found["evaluation"]["suites"].values():
            tuned = found["plan"]["method"] != "base"
            for name, metric in suite["metrics"].items():
                assert set(metric) >= METRIC | DELTA
                if metric["value"] is not None:
                    assert metric["ci_low"] <= metric["value"] <= metric["ci_high"]
                if name == "retained":  # is a comparison with the base in itself
                    assert tuned or metric["value"] is None
                    continue
                assert all((metric[key] is not None) == tuned for key in DELTA)


def test_the_metrics_of_each_way_of_asking(finished):
    suites = finished.records()["lora-0"]["evaluation"]["suites"]
    assert set(suites["predicts"]["metrics"]) == {
        "perplexity",
        "bits_per_byte",
        "plain_perplexity",
        "plain_bits_per_byte",
    }
    answers = {"exact_match", "rougeL", "rougeL_own_minus_other"}
    assert set(suites["answers"]["metrics"]) == answers
    assert set(suites["picks"]["metrics"]) == {"acc", "acc_norm", "probability"}
    assert set(suites["tasks"]["metrics"]) == {"retained", "tiny_choice", "tiny_choice.probability"}


def test_lm_eval_and_our_own_choices_agree_on_the_same_questions(finished):
    """`picks` asks what `tasks` asks through lm-eval, in the same words."""
    for found in finished.records().values():
        suites = found["evaluation"]["suites"]
        ours = suites["picks"]["metrics"]["acc"]
        theirs = suites["tasks"]["metrics"]["tiny_choice"]
        assert (ours["value"], ours["n"]) == (theirs["value"], theirs["n"])
        ours = suites["picks"]["metrics"]["probability"]
        theirs = suites["tasks"]["metrics"]["tiny_choice.probability"]
        assert ours["value"] == pytest.approx(theirs["value"], rel=1e-6)
        assert 0 < ours["value"] < 1


def test_samples_can_be_read_and_make_up_the_figures(finished):
    for found in finished.records().values():
        for name, suite in found["evaluation"]["suites"].items():
            rows = store.read_samples(finished.out, found, name)
            assert len(rows) == suite["samples"]["rows"] > 0
            assert all({"id", "prompt", "reference", "output", "scores"} <= set(r) for r in rows)
            assert len({r["id"] for r in rows}) == len(rows)
        rows = store.read_samples(finished.out, found, "picks")
        share = sum(r["scores"]["acc"] for r in rows) / len(rows)
        assert found["evaluation"]["suites"]["picks"]["metrics"]["acc"]["value"] == share


def test_the_leaderboard_has_a_row_for_each_method(finished):
    board = json.loads((finished.out / "leaderboard.json").read_text())
    store.validate(board, "leaderboard")
    rows = {row["label"]: row for row in board["rows"]}
    assert set(rows) == {"base", "full", "lora", "qlora"}
    assert rows["lora"]["seeds"] == [0, 1]
    assert rows["base"]["seeds"] == [0]
    assert sorted(row["rank"] for row in board["rows"]) == [1, 2, 3, 4]
    assert (
        rows["full"]["cost"]["trainable_parameters"] > rows["lora"]["cost"]["trainable_parameters"]
    )
    assert rows["lora"]["cost"]["train_seconds"] > 0
    assert "predicts.perplexity" in rows["qlora"]["metrics"]


def test_artifacts_are_safetensors_only(finished):
    for label, found in finished.records().items():
        folder = finished.out / "artifacts" / found["id"]
        if label == "base-0":
            assert not folder.exists()
            continue
        kinds = {file.suffix for file in folder.rglob("*") if file.is_file()}
        assert ".safetensors" in kinds
        assert not kinds & {".bin", ".pt", ".pth", ".pkl"}


def test_tuning_moves_the_model(finished):
    found = finished.records()
    base, full = (
        store.read_samples(finished.out, found[label], "predicts") for label in ("base-0", "full-0")
    )
    assert [r["scores"]["nll"] for r in base] != [r["scores"]["nll"] for r in full]


# ---- fairness ------------------------------------------------------------------------------------


def test_every_method_sees_the_same_rows_in_the_same_order(finished, tmp_path):
    from harness.runner.worker import Log, TrainingRows, TrainingRun, Work

    plugins = Plugins(discover=False)
    plan = make_plan(load_experiment(finished.file), plugins, Settings())

    def rows(cell):
        log = Log(lambda **event: None)
        training = TrainingRun(Work(cell, tmp_path, None), TrainingRows(cell), log)
        return [r.id for r in training.job(plugins.methods.get(cell.method), tmp_path).train]

    seen = {(c.method, c.seed): rows(c) for c in plan.cells if c.data}
    for seed in (0, 1):
        assert seen["full", seed] == seen["lora", seed] == seen["qlora", seed]
    assert seen["lora", 0] != seen["lora", 1]
    assert len(seen["lora", 0]) == 4


def test_the_first_step_has_the_same_loss_whatever_the_method(finished):
    """Before the first update LoRA is the base: same rows, same masking, same arithmetic."""
    found = finished.records()
    first = {
        label: found[label]["training"]["loss_curve"][0]["loss"]
        for label in ("full-0", "lora-0", "full-1", "lora-1")
    }
    assert first["full-0"] == pytest.approx(first["lora-0"], rel=1e-4)
    assert first["full-1"] == pytest.approx(first["lora-1"], rel=1e-4)
    assert first["full-0"] != pytest.approx(first["full-1"], rel=1e-4)


def weights(small, label):
    (file,) = (small.out / "artifacts" / small.records()[label]["id"]).glob("*.safetensors")
    return file.read_bytes()


@pytest.mark.slow
def test_a_seed_gives_the_same_bytes_and_another_seed_others(finished, tmp_path, warm):
    again = type(finished)(tmp_path, finished.content)
    for file in finished.folder.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    again = again.write(seeds=[0], suites=["predicts"])
    outcome = run_warm(again, warm, methods=("full", "lora", "qlora"))
    assert not outcome.failed
    for method in ("full", "lora", "qlora"):
        assert weights(again, f"{method}-0") == weights(finished, f"{method}-0")
        assert weights(finished, f"{method}-0") != weights(finished, f"{method}-1")


# ---- running again -------------------------------------------------------------------------------


_READ_ONLY = """
import errno, os, sys

out = sys.argv.pop(1)


def refuse(event, args):
    changes = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.chmod": 1, "os.utime": 1}
    writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    paths = args[:1] if writes else args[: changes.get(event, 0)]
    if any(str(path).startswith(out) for path in paths):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(paths[0]))


sys.addaudithook(refuse)
from harness.cli.main import main

main()
"""
"""The command where nothing under a folder can be written, whoever runs it."""


def test_a_finished_folder_that_is_read_only_is_read(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    (out / "leaderboard.json").unlink()

    def read_only(*arguments):
        return subprocess.run(
            [sys.executable, "-c", _READ_ONLY, str(out), *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    again = read_only("run", finished.file, "--out", out)
    assert again.returncode == 0, again.stderr
    assert "Nothing to do: all 7 cells are recorded" in again.stdout
    note = f"Note: {out}/leaderboard.json is not written (Read-only file system); the table is"
    assert again.stderr.startswith(note)
    assert again.stderr.count("\n") == 1
    for code, *arguments in (
        (0, "leaderboard", out),
        (0, "compare", out / "full", out / "qlora"),
        (0, "gate", out / "full", "--baseline", out / "full"),  # the same answers
    ):
        ran = read_only(*arguments)
        assert ran.returncode == code, (arguments, ran.stderr)
        # a random model's answers are degenerate, which a gate says; nothing else is
        assert all(": degenerate." in line for line in ran.stderr.splitlines()), ran.stderr
        assert ran.stdout
    more = finished.file.with_name("more.yaml")
    more.write_text(finished.file.read_text().replace("- 1\n", "- 1\n- 2\n"))
    left = read_only("run", more, "--out", out)
    assert left.returncode == 2
    said = f"Error: --out {out}: cannot write cells/ (Read-only file system); name a folder"
    assert left.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in left.stderr


def test_a_second_run_does_nothing_and_says_so(harness, finished):
    def state():
        files = [f for f in finished.out.rglob("*") if f.is_file()]
        return {f: f.stat().st_mtime_ns for f in files}

    before = state()
    ran = harness("run", finished.file, "--out", finished.out)
    assert ran.code == 0
    assert "Nothing to do: all 7 cells are recorded" in ran.stdout
    assert ran.stderr == ""
    assert state() == before


def test_json_prints_the_leaderboard_and_nothing_else(harness, finished):
    ran = harness("run", finished.file, "--out", finished.out, "--json")
    assert json.loads(ran.stdout) == json.loads((finished.out / "leaderboard.json").read_text())
    assert ran.stderr == ""
    listed = harness("leaderboard", finished.out, "--format", "json")
    assert {r["label"] for r in json.loads(listed.stdout)["rows"]} == {
        "base",
        "full",
        "lora",
        "qlora",
    }


@pytest.fixture
def copy(finished, tmp_path):
    """The finished experiment in a folder of its own, where it may be changed."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    return type(finished)(folder, finished.content)


def test_other_suites_do_not_train_again(copy, warm):
    before = copy.records()["lora-0"]
    changed = copy.write(
        methods=["base", {"name": "lora", "r": 4}], seeds=[0], suites=["picks", "answers"]
    )
    outcome = run_warm(changed, warm)
    assert len(outcome.ran) == 2
    assert not outcome.failed
    folder = copy.out / "cells"
    (new,) = (json.loads((folder / f"{i}.json").read_text()) for i in outcome.ran if "lora" in i)
    assert new["id"] != before["id"]
    assert new["training"] == before["training"]  # measured once, to the microsecond
    assert set(new["evaluation"]["suites"]) == {"picks", "answers"}
    old, now = (copy.out / "artifacts" / r["id"] for r in (before, new))
    name = "adapter_model.safetensors"
    assert (old / name).read_bytes() == (now / name).read_bytes()


def test_a_deleted_record_is_evaluated_again_without_training(copy, warm):
    before = copy.records()["full-0"]
    (copy.out / "cells" / f"{before['id']}.json").unlink()
    outcome = run_warm(copy, warm)
    assert outcome.ran == (before["id"],)
    after = copy.records()["full-0"]
    assert after["training"] == before["training"]

    def figures(found):
        return {n: s["metrics"] for n, s in found["evaluation"]["suites"].items()}

    assert figures(after) == figures(before)


@pytest.mark.parametrize("damage", ["bit", "alpha", "truncated", "missing", "json"])
def test_a_damaged_artifact_is_trained_again_and_told(copy, warm, damage):
    copy = copy.write(methods=["base", {"name": "lora", "r": 4}], seeds=[0], suites=["picks"])
    run_warm(copy, warm)
    ids = [f.stem for f in (copy.out / "cells").glob("lora-s0-*.json")]
    before = next(f for i in ids if len((f := load(copy, i))["evaluation"]["suites"]) == 1)
    for i in ids:  # the other artifact of this training shares its files
        if i != before["id"]:
            shutil.rmtree(copy.out / "artifacts" / i)
    folder = copy.out / "artifacts" / before["id"]
    weights_file = folder / "adapter_model.safetensors"
    content = weights_file.read_bytes()
    if damage == "bit":
        weights_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "alpha":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))
    elif damage == "truncated":
        weights_file.write_bytes(content[:100])
    elif damage == "missing":
        weights_file.unlink()
    else:
        (folder / "training.json").write_text("{")
    (copy.out / "cells" / f"{before['id']}.json").unlink()
    assert run_warm(copy, warm).ran == (before["id"],)
    after = load(copy, before["id"])
    assert weights_file.read_bytes() == content
    assert any(f"artifacts/{before['id']} is not used" in line for line in after["warnings"])
    figures = [r["evaluation"]["suites"]["picks"]["metrics"] for r in (before, after)]
    assert figures[0] == figures[1]


def load(small, cell):
    return store.read_record(small.out / "cells" / f"{cell}.json")


def test_an_edited_record_is_set_aside_and_a_leaderboard_is_always_derived(copy, warm):
    copy = copy.write(methods=["base"], seeds=[0], suites=["picks", "answers", "predicts", "tasks"])
    board = run_warm(copy, warm).board
    for text in ("{", "[]", json.dumps({**board, "rows": []})):
        (copy.out / "leaderboard.json").write_text(text)
        assert run_warm(copy, warm).board == board
        assert json.loads((copy.out / "leaderboard.json").read_text()) == board
    base = copy.records()["base-0"]
    file = copy.out / "cells" / f"{base['id']}.json"
    base["evaluation"]["suites"]["picks"]["metrics"]["acc"]["value"] = 0.99
    file.write_text(json.dumps(base))
    assert run_warm(copy, warm).ran == (base["id"],)
    after = copy.records()["base-0"]
    assert after["evaluation"]["suites"]["picks"]["metrics"]["acc"]["value"] != 0.99
    assert any("changed since it was written" in line for line in after["warnings"])
    assert file.with_name(f"{file.name}.invalid").is_file()


def test_a_base_without_its_samples_is_evaluated_again(copy, warm):
    records = copy.records()
    shutil.rmtree(copy.out / "samples" / records["base-0"]["id"])
    (copy.out / "cells" / f"{records['lora-0']['id']}.json").unlink()
    outcome = run_warm(copy, warm)
    assert set(outcome.ran) == {records["base-0"]["id"], records["lora-0"]["id"]}
    assert not outcome.failed


# ---- when cells fail -----------------------------------------------------------------------------


@pytest.fixture
def troubled(experiment, tmp_path, monkeypatch):
    """An experiment with methods that break in every way, between two that do not."""
    site = write_distribution(
        tmp_path / "site", ROOT / "tests/sample_plugins/trouble.py", "trouble"
    )
    monkeypatch.syspath_prepend(site)
    ways = ("error", "memory", "diverged", "killed", "exit")
    return experiment(
        methods=[
            "base",
            *({"name": "trouble", "how": how, "label": how} for how in ways),
            {"name": "lora", "r": 2},
        ],
        suites=["picks"],
    )


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(troubled, warm):
    outcome = run_warm(troubled, warm)
    assert outcome.exit_code == 5
    assert len(outcome.ran) == 7
    assert len(outcome.failed) == 5
    records = troubled.records()
    assert {label: found["status"] for label, found in records.items()} == {
        "base-0": "ok",
        "error-0": "error",
        "memory-0": "oom",
        "diverged-0": "diverged",
        "killed-0": "error",
        "exit-0": "error",
        "lora-0": "ok",
    }
    for found in records.values():
        store.validate(found, "record")
    broken = records["error-0"]["error"]
    assert broken["type"] == "ValueError"
    assert broken["message"] == "this method always breaks"
    assert broken["phase"] == "train"
    assert any("trouble.py" in line for line in broken["traceback"])
    assert "exit code 3" in records["exit-0"]["error"]["message"]
    assert "SIGKILL" in records["killed-0"]["error"]["message"]
    rows = {r["label"]: r for r in outcome.board["rows"]}
    assert rows["error"]["status"] == "error"
    assert rows["error"]["rank"] is None
    assert rows["lora"]["rank"] is not None
    again = run_warm(troubled, warm)
    assert set(again.ran) == set(outcome.failed)
    assert set(again.skipped) == set(outcome.ran) - set(outcome.failed)


@pytest.mark.slow
def test_a_run_on_the_command_line_ends_with_5_where_a_cell_failed(harness, experiment, tmp_path):
    site = write_distribution(
        tmp_path / "site", ROOT / "tests/sample_plugins/trouble.py", "trouble"
    )
    small = experiment(methods=["trouble", "base"], suites=["picks"])
    ran = harness("run", small.file, "--out", small.out, env={"PYTHONPATH": str(site)})
    assert ran.code == 5
    assert "2 cells ran" in ran.stdout
    lines = ran.stderr.splitlines()
    assert any("error in train: this method always breaks (log: " in line for line in lines)
    assert "Traceback" not in ran.stderr
    assert {k: v["status"] for k, v in small.records().items()} == {
        "base-0": "ok",
        "trouble-0": "error",
    }


def test_ctrl_c_ends_with_130_and_keeps_what_is_finished(copy):
    kept = copy.records()
    long = {**copy.content["budget"], "steps": 100_000}
    changed = copy.write(budget=long, methods=["lora"], seeds=[0])
    before = set((changed.out / "logs").iterdir())
    running = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "run", str(changed.file), "--out", str(changed.out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # where tests run in the background Ctrl-C is ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while before == set((changed.out / "logs").iterdir()):
        assert running.poll() is None, "the run ended before its cell started"
        time.sleep(0.1)
    time.sleep(1)  # the worker is up
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    last = stderr.splitlines()[-1]
    assert last.startswith(f"Interrupted: 1 of 2 cells are recorded in {changed.out}")
    assert last.endswith("the same command goes on from there")
    assert "Traceback" not in stderr
    assert copy.records() == kept
    with pytest.raises(ProcessLookupError):  # no worker is left behind
        os.killpg(running.pid, 0)


def test_a_worker_whose_parent_was_killed_writes_nothing_more(tmp_path):
    """Else its error could fall upon the record of the run that follows."""
    code = (
        "import pathlib, sys; from harness.system.child_process import event_stream;"
        "emit = event_stream();"
        "sys.stdin.read(); emit(event='late'); pathlib.Path('late').touch()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    worker.stdout.close()
    worker.stdin.close()
    assert worker.wait(60) == 1
    assert not (tmp_path / "late").exists()


# ---- the command, whole --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_runs_an_experiment_from_end_to_end(harness, experiment):
    small = experiment(
        methods=["base", "full", {"name": "lora", "r": 4}, {"name": "qlora", "r": 4}]
    )
    ran = harness("run", small.file, "--out", small.out)
    assert ran.code == 0, ran.stderr
    assert "4 cells ran, 0 were recorded already." in ran.stdout
    assert {found["status"] for found in small.records().values()} == {"ok"}
    # a log gets a line for each cell, as it ends
    assert ran.stderr.splitlines() == [f"{one['id']}: ok" for one in small.records().values()]
    again = harness("run", small.file, "--out", small.out)
    assert "Nothing to do" in again.stdout


@pytest.mark.parametrize("kind", ["nf4"])
def test_a_quantised_base_is_measured_against_the_base(harness, experiment, warm, kind):
    small = experiment(methods=[{"name": "base", "quant_type": kind}], suites=["predicts"])
    assert not run_warm(small, warm).failed
    base, quantised = (small.records()[f"{label}-0"] for label in ("base", f"base-{kind}"))
    assert quantised["evaluation"]["base"] == base["id"]
    assert base["evaluation"]["base"] is None
    ours, theirs = (
        store.suites(record)["predicts"]["metrics"]["perplexity"] for record in (quantised, base)
    )
    assert ours["value"] != theirs["value"]
    assert ours["delta"] == pytest.approx(ours["value"] - theirs["value"])
    board = json.loads(harness("leaderboard", small.out, "--format", "json").stdout)
    assert {row["label"] for row in board["rows"]} == {"base", f"base-{kind}"}
    policy = small.folder / "policy.yaml"
    policy.write_text("rules:\n  - {metric: predicts.perplexity, max_increase: 900%}\n")
    row = f"{small.out}/base-{kind}"
    gated = harness("gate", row, "--baseline", "base", "--policy", policy)
    assert gated.code == 0, gated.stderr
