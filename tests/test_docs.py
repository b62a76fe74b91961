"""The examples in docs/ are what they say: a workflow that runs step by step, suites that load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from harness.config import strict_yaml
from harness.evaluation.judging.injections import injections
from harness.evaluation.suite import Where, load_suite, task_of
from harness.manager import Plugins
from harness.results import policy
from harness.types import ModelRef
from tests.conftest import ROOT, write_jsonl

WORKFLOW = yaml.safe_load((ROOT / "docs/gate.yml").read_text(encoding="utf-8"))


def test_the_workflows_gate_runs_as_it_is_written(tmp_path: Path) -> None:
    every = WORKFLOW["jobs"]["gate"]["steps"]
    steps = {step["name"]: step["run"] for step in every if "run" in step}
    assert set(steps) == {"install", "gate"}
    # the runner's checkout, with what the install step puts there
    for name in ("results", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, **WORKFLOW["env"], "GITHUB_STEP_SUMMARY": str(tmp_path / "step.md")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", steps["gate"]],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = every[-1]["with"]["path"].split()
    assert all((tmp_path / file).is_file() for file in told)
    assert (tmp_path / "step.md").read_text().startswith("### ✅")


def test_its_policy_and_that_of_the_readme_are_policies() -> None:
    policy.load(ROOT / "docs/gate-policy.yaml")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n# gate.yaml\n", 1)[1].split("```", 1)[0]
    rules = strict_yaml.validate(
        policy.Policy, strict_yaml.parse(block, "README.md"), context="policy"
    )
    assert [rule.limit for rule in rules.rules] == [
        "max_drop", "max_increase", "max_drop", "min", "better_than", "max_increase",
    ]  # fmt: skip


def test_the_suites_of_the_judges_page_are_suites(tmp_path: Path) -> None:
    text = (ROOT / "docs/judges.md").read_text(encoding="utf-8")
    row = {"id": "tent", "prompt": "What costs a tent?", "reference": "It costs 90 coins."}
    write_jsonl(tmp_path / "answers.jsonl", [row])
    plugins, metrics = Plugins(discover=False), {}
    for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        name = yaml.safe_load(block)["name"]
        (tmp_path / f"{name}.yaml").write_text(block)
        base = ModelRef("tiny", "tiny", content_hash="0" * 64)
        file = tmp_path / f"{name}.yaml"
        suite = load_suite(file, {}, plugins=plugins, base_model=base, where=Where())
        metrics[name] = task_of(suite, plugins).metrics(suite)
    assert metrics == {
        "support-quality": ["score", "accuracy", "tone"],
        "support-preference": ["win_rate"],
    }
    assert f"has {len(injections())} texts" in text
