"""What a third party adds, each in one short file, installed and run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_distribution

SAMPLES = Path(__file__).parent.parent / "sample_plugins"
EXAMPLE = SAMPLES / "vera"
LINES = {"brief": 15, "yes_no": 30, "pair": 30}
"""At most, of a scorer, a judge and an executor."""

SUITE = """\
name: judged
version: 1
ask: generate
data: judged.jsonl
max_new_tokens: 8
scorers: [{name: brief, words: 3}]
judge: {name: yes_no, rubric: Is it right}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the distribution in it, built and installed by pip where that is possible."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "vera"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    pip += ["--no-index", "--no-build-isolation", "--target", str(folder), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:  # an environment without pip or setuptools
        write_distribution(folder, EXAMPLE / "harness_vera", "vera")
        entry = folder / "vera-1.0.dist-info/entry_points.txt"
        entry.write_text("[harness]\nvera = harness_vera\n")
    return {"PYTHONPATH": str(folder)}


def test_the_plugin_and_the_suite_are_short():
    plugin = (EXAMPLE / "harness_vera/__init__.py").read_text().splitlines()
    suite = (EXAMPLE / "harness_vera/opening-hours.yaml").read_text().splitlines()
    assert len(plugin) <= 30
    assert len(suite) <= 12


def test_what_it_registers_is_listed(harness, site):
    listed = harness("plugins", env=site).stdout
    assert "vera" in listed
    assert "opening-hours" in harness("suites", env=site).stdout


@pytest.mark.slow
def test_its_method_trains_and_its_suite_measures(harness, site, experiment):
    small = experiment(methods=[{"name": "vera", "r": 2}], suites=["opening-hours"])
    ran = harness("run", small.file, "--out", small.out, env=site)
    assert ran.code == 0, ran.stderr
    records = small.records()
    assert set(records) == {"base-0", "vera-0"}
    record = records["vera-0"]
    assert record["status"] == "ok"
    assert record["plan"]["options"]["r"] == 2
    metrics = record["evaluation"]["suites"]["opening-hours"]["metrics"]
    names = ("rougeL", "rougeL_own_minus_other", "exact_match")
    assert {name: m["n"] for name, m in metrics.items()} == dict.fromkeys(names, 3)
    assert metrics["rougeL"]["delta"] is not None
    from safetensors import safe_open

    weights = small.out / "artifacts" / record["id"] / "adapter_model.safetensors"
    with safe_open(weights, "pt") as stored:
        assert any("vera_lambda" in name for name in stored.keys())  # noqa: SIM118


@pytest.mark.parametrize("name", LINES)
def test_a_scorer_a_judge_and_an_executor_are_short(name):
    assert len((SAMPLES / f"{name}.py").read_text().splitlines()) <= LINES[name]


def test_a_scorer_a_judge_and_an_executor_of_ones_own_measure(harness, experiment, tmp_path):
    site = tmp_path / "site"
    for name in LINES:
        write_distribution(site, SAMPLES / f"{name}.py", name)
    small = experiment(methods=["base"], suites=["judged"])
    (small.folder / "judged.yaml").write_text(SUITE)
    rows = [{"id": str(i), "prompt": f"Is {i} odd?", "reference": "Yes"} for i in range(3)]
    (small.folder / "judged.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    out = ("--out", small.out, "--executor", "pair")
    ran = harness("run", small.file, *out, env={"PYTHONPATH": str(site)})
    assert ran.code == 0, ran.stderr
    suite = small.records()["base-0"]["evaluation"]["suites"]["judged"]
    assert {name: one["n"] for name, one in suite["metrics"].items()} == {"brief": 3, "score": 3}
    assert 0 < suite["metrics"]["score"]["value"] < 1
    assert suite["notes"]["judge"]["judge"] == "yes_no"
