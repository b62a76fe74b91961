"""Plugins that break: an error that names them, and the other cells go on."""

import json
import re

import pytest

from harness.errors import EnvironmentLack, PluginFault, UserError
from harness.manager import Plugins
from tests.conftest import ROOT, run_harness, write_distribution

# ---- at import and registration

HOOK = (
    "from harness import hookimpl, Method, scorer\n@hookimpl\ndef register_methods(register):\n    "
)
MODULES = {
    "raises at import": ("1 / 0", r"cannot be imported: raised ZeroDivisionError: .*bad\.py:1"),
    "exits at import": ("import sys\nsys.exit(0)", r"cannot be imported: called exit with 0"),
    "is no Python": ("def :", "cannot be imported: raised SyntaxError"),
    "raises in a hook": (HOOK + "1 / 0", r"plugin 'bad' raised ZeroDivisionError.*bad\.py:4"),
    "exits in a hook": (HOOK + "raise SystemExit(0)", "plugin 'bad' called exit with 0"),
    "registers None": (HOOK + "register(None)", "None is not a method: register an instance of"),
    "registers a class": (HOOK + "register(Method)", "the class Method is not a method"),
    "registers without a name": (HOOK + "register(Method())", "the method Method has no `name`"),
    "registers a scorer as method": (
        HOOK + "register(scorer('x')(lambda text, sample: 1.0))",
        "plugin 'bad': Scorer.* is not a method: register an instance of harness.Method",
    ),
    "yields": (HOOK + "yield register", "register_methods yields, so it registers nothing"),
    "registers with a number for a name": (
        HOOK + "Method.name = 3\n    try: register(Method())\n    finally: del Method.name",
        "invalid method name 3: expected text",
    ),
}


@pytest.fixture
def bad(tmp_path, monkeypatch):
    def install(code):
        file = tmp_path / "source/bad.py"
        file.parent.mkdir()
        file.write_text(code)
        monkeypatch.delitem(__import__("sys").modules, "bad", raising=False)
        return write_distribution(tmp_path / "site", file, "bad")

    return install


@pytest.mark.parametrize("what", MODULES)
def test_a_plugin_that_breaks_when_it_is_loaded(bad, monkeypatch, what):
    code, message = MODULES[what]
    monkeypatch.syspath_prepend(bad(code))
    with pytest.raises((PluginFault, EnvironmentLack), match=message) as caught:
        Plugins()
    assert "plugin 'bad'" in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_an_exit_at_import_is_no_success(bad, harness, experiment):
    site = bad("import sys\nprint('printed')\nsys.exit(0)")
    ran = harness("plan", experiment().file, env={"PYTHONPATH": str(site)})
    assert (ran.code, ran.stdout) == (2, "")
    assert "Error: plugin 'bad' (bad) cannot be imported: called exit with 0" in ran.stderr


# ---- in the parent process


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    return str(write_distribution(folder, ROOT / "tests/sample_plugins/faulty.py", "faulty"))


@pytest.fixture
def faulty(site):
    """`faulty(fault, *arguments)` runs the command beside the plugin that breaks so."""
    return lambda fault, *arguments: run_harness(
        *arguments, env={"PYTHONPATH": site, "FAULT": fault}
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("check raises", r"method 'faulty' raised ValueError: no check today \(.*faulty\.py:\d+\)"),
        ("check exits", "method 'faulty' called exit with 0"),
        ("fits raises", "method 'faulty' raised KeyError: 'width'"),
    ],
)
def test_a_method_that_breaks_in_the_plan(faulty, experiment, fault, message):
    small = experiment(methods=["base", "faulty"])
    ran = faulty(fault, "plan", small.file, "--json")
    assert (ran.code, ran.stdout) == (2, "")
    error = ran.stderr.splitlines()[-1]
    assert re.search(r"Error: .*experiment\.yaml:\d+: method 'faulty': " + message, error)
    assert "Traceback" not in ran.stderr


def test_what_a_plugin_prints_is_no_part_of_json(faulty, experiment):
    small = experiment(methods=["base", "faulty"])
    ran = faulty("footprint raises", "plan", small.file, "--json")
    assert ran.code == 0, ran.stderr
    cell = next(c for c in json.loads(ran.stdout)["cells"] if c["method"] == "faulty")
    assert "method 'faulty' raised ZeroDivisionError: no bytes" in cell["memory"]["why_not"]
    assert "printed by a plugin" in ran.stderr


def test_a_plugin_that_changes_the_working_folder_moves_no_relative_path(site, experiment):
    small = experiment(methods=["base", "faulty"], suites=["answers"])
    apart = small.folder / "apart"
    apart.mkdir()
    (small.folder / "answers.yaml").rename(apart / "answers.yaml")
    (small.folder / "asked.jsonl").rename(apart / "asked.jsonl")
    env = {"PYTHONPATH": site, "FAULT": "moves"}
    asked = ("run", small.file.name, "--suites", "apart", "--out", "out", "--executor", "faulty")
    ran = run_harness(*asked, cwd=small.folder, env=env)
    assert ran.code == 5, ran.stderr  # its executor runs nothing
    assert [one["status"] for one in small.records().values()] == ["error", "error"]


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("commands raise", 2, "Error: plugin 'faulty' raised ValueError: no commands today"),
        ("command raises", 70, "ValueError: no command today"),
        ("command says", 2, "Error: words"),
    ],
)
def test_a_command_that_breaks(faulty, fault, code, message):
    ran = faulty(fault, "breaks")
    assert ran.code == code
    assert message in ran.stderr


def test_a_command_of_a_plugin_may_colour(faulty):
    assert faulty("", "breaks").stdout == "\x1b[1mdone\x1b[0m\n"


# ---- executors


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("executor raises", "executor 'faulty' raised ConnectionError: no such cluster"),
        ("executor raises late", "executor 'faulty' raised ConnectionError: the cluster is gone"),
        ("executor returns None", "executor 'faulty' raised TypeError"),
        ("executor exits", "executor 'faulty' called exit with 0"),
        ("no event", "executor 'faulty' yielded {'event': 'phase'}, which is not an event"),
        ("no mapping", "executor 'faulty' yielded 'exit', which is not an event"),
        ("yields nothing", "the executor ended without the worker's exit code"),
    ],
)
def test_an_executor_that_breaks_fails_its_cells_and_no_more(faulty, experiment, fault, message):
    small = experiment(methods=["base", "faulty"], suites=["answers"])
    ran = faulty(fault, "run", small.file, "--out", small.out, "--executor", "faulty")
    assert ran.code == 5, ran.stderr
    assert "Traceback" not in ran.stderr
    records = small.records()
    assert len(records) == 2
    for record in records.values():
        assert record["status"] == "error"
        assert message in record["error"]["message"]


# ---- in the worker


def test_a_method_and_scorers_that_break_in_their_cells(faulty, experiment):
    small = experiment(methods=["base"], suites=["answers"])
    suite = small.folder / "answers.yaml"
    suite.write_text(suite.read_text().replace("- rougeL", "- faulty\n- few"))
    faults = {
        "notes": "method 'faulty': its notes fit no record ($.loss_curve",
        "train exits": "0",
        "returns nothing": "method 'faulty': train() returned None: return an Artifact",
        "stream": None,
        "scorer text": "scorer 'faulty' gave 'good': a score is a number or None",
        "scorer few": "scorer 'few' gave 1 scores for 8 answers: give one for each",
    }
    for fault, message in faults.items():
        training = "scorer" not in fault
        told = small.write(methods=["faulty" if training else "base"], name=fault.replace(" ", "-"))
        out = small.folder / told.content["name"] / "out"  # answers of its neighbours are reused
        ran = faulty(fault, "run", told.file, "--out", out)
        assert "Traceback" not in ran.stderr, (fault, ran.stderr)
        records = [json.loads(file.read_text()) for file in (out / "cells").glob("*.json")]
        assert len(records) == 1 + training
        method = "faulty" if training else "base"
        record = next(r for r in records if r["plan"]["method"] == method)
        if message is None:
            assert (ran.code, record["status"]) == (0, "ok"), (fault, record["error"])
            continue
        assert ran.code == 5, (fault, ran.stderr)
        assert record["status"] == "error"
        assert message in record["error"]["message"], fault
        others = [r["status"] for r in records if r["plan"]["method"] != method]
        assert set(others) <= {"ok"}


def test_a_score_that_is_no_number_is_counted_told_and_never_compared(faulty, experiment):
    small = experiment(methods=["base"], suites=["answers"])
    suite = small.folder / "answers.yaml"
    suite.write_text(suite.read_text().replace("- rougeL", "- faulty"))
    outs = {"": small.folder / "whole", "scorer nan": small.folder / "lacking"}
    for fault, out in outs.items():
        ran = faulty(fault, "run", small.file, "--out", out)
        assert ran.code == 0, ran.stderr
    whole, lacking = outs.values()
    (record,) = (json.loads(file.read_text()) for file in (lacking / "cells").iterdir())
    told = record["evaluation"]["suites"]["answers"]
    metric = told["metrics"]["faulty"]
    assert (metric["value"], metric["n"], metric["left_out"]) == (1.0, 7, 1)
    assert told["samples"]["non_finite"] == 1
    (warning,) = (line for line in record["warnings"] if "answers': faulty" in line)
    assert warning.startswith("suite 'answers': faulty is NaN or infinite for 1 of 8 samples; they")
    policy = small.folder / "policy.yaml"
    policy.write_text("rules: [{metric: answers.faulty, max_drop: 0.5}]")
    said = "1 only in the baseline (such as 'tent'); a missing score was not a finite number"
    for command in (
        ("compare", lacking / "base", whole / "base"),
        ("gate", lacking / "base", "--baseline", whole / "base", "--policy", policy),
    ):
        ran = faulty("", *command)
        assert (ran.code, ran.stdout) == (4, "")
        assert said in ran.stderr
    both = faulty("", "gate", lacking / "base", "--baseline", lacking / "base", "--policy", policy)
    assert both.code == 0, "on the samples that both have"
