"""The examples in docs/ are what they say: a workflow that runs step by step, suites that load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import yaml

from benchmarks import gpus, tables
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
    assert set(steps) == {"install", "gate", "comment"}
    # the runner's checkout, with what the install step puts there
    for name in ("results", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, **WORKFLOW["env"], "GITHUB_STEP_SUMMARY": str(tmp_path / "step.md")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = run(steps["gate"], tmp_path, env)
    assert done.returncode == 0, done.stdout + done.stderr
    told = every[-1]["with"]["path"].split()
    assert all((tmp_path / file).is_file() for file in told)
    assert (tmp_path / "step.md").read_text().startswith("### ✅")

    # what `gh` is asked: to replace its comment, or to write the first one
    (tmp_path / "gh").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\ncat "$7" > comment\n')
    (tmp_path / "gh").chmod(0o755)
    pull_request = "https://github.com/o/r/pull/1"
    path = f"{tmp_path}{os.pathsep}{env['PATH']}"
    done = run(steps["comment"], tmp_path, {**env, "PATH": path, "PULL_REQUEST": pull_request})
    assert done.returncode == 0, done.stderr
    asked = ["pr", "comment", pull_request, "--edit-last", "--create-if-none", "--body-file"]
    assert (tmp_path / "asked").read_text().split() == [*asked, "gate.md"]
    assert (tmp_path / "comment").read_text().startswith("### ✅")


def run(script: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A step, as a runner starts it."""
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_gitlabs_job_writes_the_reports_that_it_names(tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / "docs/gate.gitlab-ci.yml").read_text(encoding="utf-8"))["gate"]
    for name in ("results", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, **job["variables"]}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = run("\n".join(job["script"]), tmp_path, env)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = job["artifacts"]["reports"]
    assert ElementTree.parse(tmp_path / reports["junit"]).getroot().tag == "testsuites"
    metrics = (tmp_path / reports["metrics"]).read_text(encoding="utf-8").splitlines()
    assert metrics[-1] == "# EOF"
    assert [line for line in metrics if line.startswith("harness_gate_passed{")]
    for line in metrics[:-1]:
        assert re.fullmatch(r"# (TYPE|HELP) \w+ .+|\w+\{rule=\".+\",limit=\".+\"\} [-+.\de]+", line)


def test_the_tables_are_what_their_commands_print() -> None:
    written = list(tables.written())
    assert not [str(file) for file, text in written if file.read_text("utf-8") != text], (
        "run `make tables`"
    )
    assert len([text for _, text in written if tables.BLOCK.search(text)]) >= 2
    # what somebody edits by hand is seen
    readme = (ROOT / "README.md").read_text("utf-8")
    figure = re.search(r"full +(\d\.\d+) \[", readme)
    assert figure
    edited = readme.replace(figure[1], "1.000")
    assert tables.renewed(edited) != edited
    assert tables.renewed(edited).count(figure[1]) >= 2
    cards = (ROOT / "docs/how-to/gpus.md").read_text("utf-8")
    edited = re.sub(r"(\| Qwen2.5-7B \| qlora \|).*", r"\1 8 | 8 | 8 | 8 |", cards)
    assert edited != cards
    assert tables.renewed(edited) == cards


def test_what_is_advised_for_each_card_is_in_the_table(tmp_path: Path) -> None:
    rows = [line.strip("| ").split(" | ") for line in gpus.table().splitlines()[2:]]
    fits = {
        (model, method, card): cell
        for model, method, *cells in rows
        for card, cell in zip(gpus.CARDS, cells, strict=True)
    }
    whole = {
        8: [("Qwen2.5-1.5B", "qlora")],
        16: [("Qwen2.5-3B", "lora"), ("Llama-3.1-8B", "qlora")],
        24: [("Llama-3.1-8B", "qlora"), ("Qwen2.5-1.5B", "full, 8-bit AdamW")],
        80: [
            ("Qwen2.5-7B", "full, 8-bit AdamW"),
            ("Qwen2.5-14B", "lora"),
            ("Qwen2.5-32B", "qlora"),
        ],
    }
    assert all(fits[(*row, card)].isdigit() for card, some in whole.items() for row in some)
    checkpointed = [
        ("Qwen2.5-7B", "qlora", 8),
        ("Qwen2.5-14B", "qlora", 16),
        ("Llama-3.1-8B", "lora", 24),
        ("Llama-3.1-70B", "qlora", 80),
    ]
    assert {fits[row] for row in checkpointed} == {"1 +gc"}
    told = gpus.plan(tmp_path, gpus.SHAPES["Llama-3.1-8B"], 16)
    least = next(text for text in told["advice"] if text.startswith("base does not fit while"))
    (size,) = re.findall(r"at least ([\d.]+ GB)", least)
    page = (ROOT / "docs/how-to/gpus.md").read_text("utf-8")
    assert f"{size} at least for Llama-3.1-8B" in page


def test_its_policy_and_that_of_the_manual_are_policies() -> None:
    policy.load(ROOT / "docs/gate-policy.yaml")
    text = (ROOT / "docs/how-to/gate.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n# gate.yaml\n", 1)[1].split("```", 1)[0]
    rules = strict_yaml.validate(
        policy.Policy, strict_yaml.parse(block, "gate.md"), context="policy"
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
        "support-panel": ["score", "agreement"],
    }
    assert f"has {len(injections())} texts" in text
