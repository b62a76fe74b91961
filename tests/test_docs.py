"""The example workflow in docs/ does what it says, step by step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from harness.config import strict_yaml
from harness.results import policy
from tests.conftest import ROOT

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
