"""Every example in README and docs/: experiments, suites, policies load, and commands parse."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from harness.cli.main import cli
from harness.config import experiment, strict_yaml
from harness.evaluation.suite import Where, load_suite, task_of
from harness.manager import plugins
from harness.results import policy
from harness.types import ModelRef
from tests.conftest import ROOT, write_distribution, write_jsonl

PAGES = [
    ROOT / "README.md",
    # docs/reference is made from the code, and has no examples: signatures and usage lines
    *sorted(set(ROOT.glob("docs/**/*.md")) - set(ROOT.glob("docs/reference/*.md"))),
]
FENCE = re.compile(r"^```(\w+)(?: title=\"[^\"]+\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HOW_TO = ROOT / "docs/how-to"
PARTS = ("suites",)
"""Keys of an experiment that a page may show alone; tests of their own hold those pages."""


def blocks(*languages: str) -> Iterator[Any]:
    """The code blocks of all pages, as parameters of a test."""
    for file in PAGES:
        text = file.read_text("utf-8")
        for found in FENCE.finditer(text):
            if found[1] in languages:
                line = text[: found.start()].count("\n") + 1
                where = f"{file.relative_to(ROOT)}:{line}"
                yield pytest.param(found[2], id=where)


def commands(text: str) -> Iterator[str]:
    """The `harness ...` lines of a page's code, without what a shell takes off them."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in re.findall(r"^(?:    )?((?:[A-Z_]+=\S+ )*harness .*)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        while "=" in words[0]:
            words.pop(0)
        if words[-1] in ("&", "...") or "..." in words:
            words = [word for word in words if word not in ("&", "...")]
        yield shlex.join(words[1:])


def parse(line: str) -> None:
    """Raise click.UsageError for words that the command line does not take."""
    command: click.Command = cli
    words = shlex.split(line)
    while isinstance(command, click.Group):
        name = words[0] if words and not words[0].startswith("-") else None
        found = command.get_command(click.Context(command), name) if name else None
        if found is None:
            if name and not command.invoke_without_command:
                raise click.UsageError(f"no command {name}")
            return
        command, words = found, words[1:]
    command.make_context(command.name, words)


def is_valid(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What kind of file a YAML block is; raises where it is not one."""
    keys = yaml.safe_load(text)
    if set(keys) <= set(PARTS):
        return "part"
    if "rules" in keys:
        strict_yaml.validate(policy.Policy, strict_yaml.parse(text, "a page"), context="policy")
        return "policy"
    if "methods" in keys:
        (folder / "experiment.yaml").write_text(text, "utf-8")
        loaded = experiment.load_experiment(folder / "experiment.yaml")
        for i, entry in enumerate(loaded.methods):
            options = plugins().methods.get(entry.name).Options
            strict_yaml.validate_options(options, entry.options, loaded.located, ("methods", i))
        return "experiment"
    return _suite(text, keys, folder, monkeypatch)


def _suite(text: str, keys: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    row = {"prompt": "What costs a tent?", "reference": "90 coins.", "must_contain": ["90 coins"]}
    write_jsonl(folder / keys["data"], [row])
    file = folder / f"{keys['name']}.yaml"
    file.write_text(text, "utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    base = ModelRef("tiny", "tiny", content_hash="0" * 64)
    suite = load_suite(file, {}, plugins=plugins(), base_model=base, where=Where())
    assert task_of(suite, plugins()).metrics(suite)
    return "suite"


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_yaml_is_an_experiment_a_suite_or_a_policy(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_valid(text, tmp_path, monkeypatch)


@pytest.mark.parametrize("text", list(blocks("json")))
def test_json_is_rows(text: str) -> None:
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


@pytest.mark.parametrize("text", list(blocks("python")))
def test_python_compiles(text: str) -> None:
    compile(text, "a page", "exec")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_are_taken(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in commands(file.read_text("utf-8")):
        parse(line)


def test_the_executor_and_the_scorer_of_the_manual_work(
    experiment: Callable[..., Any], harness: Callable[..., Any], tmp_path: Path
) -> None:
    """With a stand-in for Slurm's `srun`, which notes its options and starts the command here."""
    for name, page in (("ours_slurm", "machines"), ("ours_scorer", "suite")):
        found = re.search(r"```python\n(.*?)```", (HOW_TO / f"{page}.md").read_text("utf-8"), re.S)
        assert found
        (tmp_path / f"{name}.py").write_text(found[1], "utf-8")
        site = write_distribution(tmp_path / "site", tmp_path / f"{name}.py", name)
    srun = tmp_path / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\necho "$1 $2" >> {tmp_path}/asked\nshift 2\nexec "$@"\n')
    srun.chmod(0o755)
    small = experiment(suites=["brief"])
    scorers = [{"name": "short_enough", "words": 0, "label": "silent"}, "short_enough"]
    brief = {"name": "brief", "version": 1, "ask": "generate", "data": "asked.jsonl"}
    text = yaml.safe_dump({**brief, "max_new_tokens": 8, "scorers": scorers})
    (small.folder / "brief.yaml").write_text(text, "utf-8")
    env = {"PYTHONPATH": str(site), "PATH": f"{srun.parent}{os.pathsep}{os.environ['PATH']}"}
    ran = harness("run", small.file, "--out", small.out, "--executor", "slurm", env=env)
    assert ran.code == 0, ran.stderr
    assert (tmp_path / "asked").read_text() == "--gres=gpu:1 --quiet\n"
    metrics = small.records()["base-0"]["evaluation"]["suites"]["brief"]["metrics"]
    assert {name: metric["value"] for name, metric in metrics.items()} == {
        "silent": 0.0,
        "short_enough": 1.0,
    }


def test_what_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(blocks("yaml"))) >= 15
    assert sum(len(list(commands(file.read_text("utf-8")))) for file in PAGES) >= 40
    good = (ROOT / "harness/bundled/quickstart.yaml").read_text("utf-8")
    assert is_valid(good, tmp_path, monkeypatch) == "experiment"
    for right, wrong in (("steps", "stepps"), ("r: 16", "rank: 16")):
        with pytest.raises(Exception, match=r"stepps|rank"):
            is_valid(good.replace(right, wrong), tmp_path, monkeypatch)
    with pytest.raises(Exception, match="max_fall"):
        is_valid("rules:\n  - {metric: a.b, max_fall: 0.1}\n", tmp_path, monkeypatch)
    for line in ("gate lora --base-line base", "rum quickstart", "judge certfy x"):
        with pytest.raises(click.UsageError):
            parse(line)
