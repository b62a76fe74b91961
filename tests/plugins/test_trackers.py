"""Trackers: what they wrote, read back with their own readers; and how they are chosen."""

import json
import sqlite3
import struct
import subprocess
import sys

import pytest

from harness import Tracker
from harness.config.experiment import load_experiment
from harness.errors import ConfigError, EnvironmentLack, UserError
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.runner.run import run_plan
from harness.runner.tracking import Tracking, chosen, figures, points, settings
from tests.conftest import ROOT, write_experiment

PLUGINS = Plugins(discover=False)
BUILT_IN = ("tensorboard", "wandb", "mlflow", "trackio")


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    """No tracker calls anybody, and none writes where its user's settings say."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TRACKIO_DIR", raising=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_model, warm):
    """A run that all trackers were told of: the experiment, its events and what was said."""
    small = write_experiment(
        tmp_path_factory.mktemp("tracked"),
        tiny_model,
        methods=["base", {"name": "lora", "lr": 0.01, "validate_every": 2}],
        budget={"steps": 4, "batch": 2, "max_length": 96, "precision": "float32"},
        track=["tensorboard", "mlflow"],
    )
    experiment = load_experiment(small.file)
    plan = make_plan(experiment, PLUGINS, Settings())
    said, events = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("TRACKIO_DIR", raising=False)
        # trl imports trackio where it is installed, and so fixed its folder; `harness` never does
        for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
            patch.delitem(sys.modules, name)
        trackers = chosen(PLUGINS, experiment, ["wandb", "trackio", "mlflow"])
        assert [one.name for one in trackers] == ["tensorboard", "mlflow", "wandb", "trackio"]
        with Tracking(trackers, plan.experiment, small.out, said.append) as tracking:
            outcome = run_plan(
                plan, small.out, warm, lambda cell, event: events.append(event), tracking
            )
    assert not outcome.failed
    assert not [line for line in said if "broke" in line], said
    return small, said


def expected(small):
    """The cell, its curve as step -> value by name, and its final figures."""
    record = small.records()["lora-0"]
    curve = {}
    for point in record["training"]["loss_curve"]:
        for name in ("loss", "validation_loss", "grad_norm", "learning_rate"):
            if name in point:
                curve.setdefault(f"train/{name}", {})[point["step"]] = point[name]
    assert {name: sorted(of) for name, of in curve.items()} == {
        "train/loss": [1, 2, 3, 4],
        "train/validation_loss": [2, 4],
        "train/grad_norm": [1, 2, 3, 4],
        "train/learning_rate": [1, 2, 3, 4],
    }
    final = figures(record)
    assert final["phases/train/seconds"] > 0
    assert any(name.startswith("suites/") for name in final)
    assert any(name.startswith("phases/train/peak_") for name in final)
    return record["id"], curve, final


def test_tensorboard(ran):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    small, said = ran
    cell, curve, final = expected(small)
    read = EventAccumulator(str(small.out / "trackers/tensorboard" / cell)).Reload()
    for name, values in curve.items():
        found = {one.step: one.value for one in read.Scalars(name)}
        assert found == pytest.approx(values, rel=1e-6)
    for name, value in final.items():
        assert read.Scalars(name)[-1].value == pytest.approx(value, rel=1e-6)
    assert [t.tensor_proto.string_val[0] for t in read.Tensors("status")] == [b"ok"]
    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["options.lr"].number_value == 0.01
    assert told["budget.steps"].number_value == 4
    assert f"tensorboard --logdir {small.out / 'trackers/tensorboard'}" in " ".join(said)


def offline_records(file):
    """The messages of an offline run: seven bytes of header, then LevelDB's log of 32 KiB blocks.

    wandb's own reader is compiled into its core; the messages are parsed by its own classes.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, part, found = file.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # too little of the block is left for a header
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        part += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(part))
            part = b""
    return found


def test_wandb_offline(ran):
    small, _ = ran
    cell, curve, final = expected(small)
    runs = {}
    for file in (small.out / "trackers/wandb").glob("wandb/offline-run-*/*.wandb"):
        records = offline_records(file)
        (name,) = {one.run.display_name for one in records if one.run.display_name}
        runs[name] = records
    assert set(runs) == {record["id"] for record in small.records().values()}
    config, history, summary = {}, {}, {}
    for one in runs[cell]:
        config |= {item.key: json.loads(item.value_json) for item in one.run.config.update}
        row = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in one.history.item}
        for name in curve.keys() & row.keys():
            history.setdefault(name, {})[row["_step"]] = row[name]
        for item in one.summary.update:
            key = ".".join(item.nested_key) or item.key
            summary[key] = json.loads(item.value_json)
    assert history == curve
    assert config["options.lr"] == 0.01
    assert summary["status"] == "ok"
    assert {name: summary[name] for name in final} == pytest.approx(final)


def test_mlflow(ran):
    from mlflow import MlflowClient

    small, said = ran
    cell, curve, final = expected(small)
    uri = f"sqlite:///{small.out / 'trackers/mlflow/mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert set(runs) == {record["id"] for record in small.records().values()}
    run = runs[cell]
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "ok")
    assert run.data.params["options.lr"] == "0.01"
    for name, values in curve.items():
        points = client.get_metric_history(run.info.run_id, name)
        assert {one.step: one.value for one in points} == pytest.approx(values)
    assert {name: run.data.metrics[name] for name in final} == pytest.approx(final)
    assert uri in " ".join(said)


def test_trackio(ran):
    small, _ = ran
    cell, curve, final = expected(small)
    (file,) = (small.out / "trackers/trackio").glob("small*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute(
            "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (cell,)
        ).fetchall()
        (config,) = base.execute(
            "SELECT config FROM configs WHERE run_name = ?", (cell,)
        ).fetchone()
    read = [(step, json.loads(values)) for step, values in rows]
    for name, values in curve.items():
        assert {step: row[name] for step, row in read if name in row} == values
    assert read[-1][1]["status"] == "ok"
    assert {name: read[-1][1][name] for name in final} == pytest.approx(final)
    assert json.loads(config)["options.lr"] == 0.01


# ---- what they are told --------------------------------------------------------------------------


def test_what_trackers_are_told(finished):
    record = finished.records()["lora-0"]
    told = settings(record["plan"])
    assert (told["method"], told["options.r"], told["seed"]) == ("lora", 4, 0)
    assert told["budget.batch"] == 2
    assert all(isinstance(value, (str, int, float, bool)) for value in told.values())
    assert points({"event": "progress", "step": 2, "loss": 1.5}) == {"train/loss": 1.5}
    assert points({"event": "progress", "step": 2, "loss": float("nan")}) == {}
    assert points({"event": "progress", "done": 2, "total": 3}) == {}


# ---- choosing ------------------------------------------------------------------------------------


def test_none_is_told_that_was_not_chosen(experiment):
    assert chosen(PLUGINS, load_experiment(experiment().file), []) == []


def test_unknown_names_get_the_nearest(experiment):
    small = experiment(track=["tensorbord"])
    with pytest.raises(ConfigError, match=r"yaml:\d+: unknown tracker .* mean 'tensorboard'"):
        chosen(PLUGINS, load_experiment(small.file), [])
    with pytest.raises(UserError, match="unknown tracker 'wandbb': did you mean 'wandb'"):
        chosen(PLUGINS, load_experiment(experiment(track=[]).file), ["wandbb"])


def test_an_unknown_name_ends_the_command_before_anything_runs(experiment, harness):
    small = experiment()
    done = harness("run", small.file, "--out", small.out, "--tracker", "ml-flow")
    assert done.code == 2
    assert "unknown tracker 'ml-flow': did you mean 'mlflow'" in done.error
    assert not small.out.exists()


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_missing_library_is_one_line_with_the_command(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    told = f"tracker '{name}' needs {name}: pip install \"finetune-harness\\[{name}\\]\""
    with pytest.raises(EnvironmentLack, match=told):
        PLUGINS.trackers.get(name).check()


def test_plugins_load_no_tracker_library():
    code = "import sys, harness.manager as m; m.plugins(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {*BUILT_IN} & set(done.stdout.split())


# ---- trouble -------------------------------------------------------------------------------------


class Broken(Tracker):
    name = "broken"

    def __init__(self, at):
        self.at = at
        self.calls = []

    def _call(self, what):
        print("a library's chatter")
        self.calls.append(what)
        if what == self.at:
            raise ConnectionError("the server\nis gone")

    def open(self, experiment, folder):
        self._call("open")

    def log(self, cell, step, values):
        self._call("log")

    def close(self):
        self._call("close")
        return "Look here"


@pytest.mark.parametrize("at", ["open", "log", "close", None])
def test_one_that_breaks_is_told_no_more(tmp_path, capsys, at):
    broken, whole, said = Broken(at), Broken(None), []
    step = {"event": "progress", "step": 1, "loss": 2.0}
    plan = {"model": {"name": "m"}}
    with Tracking([broken, whole], "small", tmp_path, said.append) as tracking:
        for event in ({"event": "started", "plan": plan}, step, step):
            tracking.event("cell", event)
    assert whole.calls == ["open", "log", "log", "close"]
    assert said[-1] == "Look here"
    told = "tracker 'broken' failed and gets no more events (ConnectionError: the server is gone)"
    assert said.count(told) == (at is not None)
    assert broken.calls[-1] == (at or "close")
    assert capsys.readouterr().out == ""


def test_nothing_is_opened_where_nothing_runs(tmp_path):
    tracker, said = Broken(None), []
    with Tracking([tracker], "small", tmp_path, said.append) as tracking:
        tracking.event("cell", {"event": "skipped"})
    assert (tracker.calls, said) == ([], [])
