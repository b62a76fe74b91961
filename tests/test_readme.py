"""What README and manual show is what the harness does: their examples are taken out and run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from harness.cli.main import cli
from harness.config import experiment as config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs/commands.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def block(section: str, language: str) -> str:
    """The first code block of a language in a section of the README."""
    text = README.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return first(text, language) or pytest.fail(f"no {language} in '{section}'")


def first(text: str, language: str) -> str:
    """The first code block of a language in a text; empty where there is none."""
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def install(folder: Path) -> None:
    """The README's method as an installed distribution: a module, and metadata that names it."""
    (folder / "harness_vera.py").write_text(block("Write a method", "python"))
    info = folder / "harness_vera-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-vera\nVersion: 1.0\n")
    told = block("Write a method", "toml").replace("project.entry-points.harness", "harness")
    (info / "entry_points.txt").write_text(told.replace('"', ""))


@pytest.mark.slow
def test_the_method_and_the_suite_of_the_readme_run(
    experiment: Callable[..., Any], harness: Callable[..., Any], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    small = experiment(methods=["base", {"name": "vera", "r": 4}], suites=["returns-policy"])
    (small.folder / "returns-policy.yaml").write_text(block("Write a suite", "yaml"))
    (small.folder / "returns.jsonl").write_text(block("Write a suite", "json"))

    ran = harness("run", small.file, "--out", small.out, env={"PYTHONPATH": str(site)})

    assert ran.code == 0, ran.stderr
    records = small.records()
    assert {record["status"] for record in records.values()} == {"ok"}
    vera = records["vera-0"]
    assert vera["plan"]["options"]["r"] == 4
    assert vera["plan"]["options"]["lr"] == 1e-2
    adapter = json.loads((small.out / "artifacts" / vera["id"] / "adapter_config.json").read_text())
    assert (adapter["peft_type"], adapter["r"]) == ("VERA", 4)
    metrics = vera["evaluation"]["suites"]["returns-policy"]["metrics"]
    assert set(metrics) == {"rougeL", "rougeL_own_minus_other", "exact_match", "must_contain"}
    assert all(metric["n"] == 2 and metric["delta"] is not None for metric in metrics.values())


def test_the_examples_are_as_short_as_they_are_said_to_be() -> None:
    assert len(block("Write a method", "python").splitlines()) <= 30
    assert len(block("Write a suite", "yaml").splitlines()) <= 12


def test_the_manual_shows_the_same_examples() -> None:
    """They stand in the README too, from which the test above takes them."""
    assert first(page("how-to/method.md"), "python") == block("Write a method", "python")
    assert first(page("how-to/method.md"), "toml") == block("Write a method", "toml")
    assert first(page("how-to/suite.md"), "yaml") == block("Write a suite", "yaml")
    assert first(page("how-to/suite.md"), "json") == block("Write a suite", "json")


def test_the_readme_is_short_and_has_both_commands() -> None:
    shown = re.search(r"<!-- quickstart output -->.*<!-- /quickstart output -->", README, re.DOTALL)
    assert shown
    assert len(README.splitlines()) - len(shown[0].splitlines()) <= 200
    assert "    make quickstart " in README
    assert "    make test " in README


def test_the_experiment_shown_is_the_bundled_one() -> None:
    bundled = ROOT / "harness" / "bundled" / "quickstart.yaml"
    assert block("An experiment", "yaml") == bundled.read_text(encoding="utf-8")


def test_the_settings_for_real_benchmarks_are_taken(
    experiment: Callable[..., Any],
) -> None:
    from harness.manager import plugins
    from harness.planning.plan import Settings, make_plan

    shown = yaml.safe_load(first(page("how-to/benchmarks.md"), "yaml"))
    small = experiment(suites=shown["suites"])
    plan = make_plan(config.load_experiment(small.file), plugins(), Settings())
    (suite,) = plan.base.suites
    assert (suite.settings["tasks"], suite.settings["num_fewshot"]) == (["mmlu", "arc_easy"], 5)


def test_the_manual_names_commands_that_exist_and_leaves_none_out() -> None:
    assert set(re.findall(r"`harness ([a-z]+)", COMMANDS)) == set(cli.commands)
    assert set(re.findall(r"`harness ([a-z]+)", README)) <= set(cli.commands)


def test_options_named_with_a_command_exist() -> None:
    rows = re.findall(r"^\| `harness (\w+)(?: ([\w-]+))?[^|]*\|(.*)\|$", COMMANDS, re.MULTILINE)
    assert len(rows) >= len(cli.commands)
    for name, word, options in rows:
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group) and word in command.commands:
            command = command.get_command(click.Context(cli), word)
        known = {option for param in command.params for option in param.opts}
        assert set(re.findall(r"--[a-z0-9-]+", options)) <= known, (name, word)


def test_the_packaged_models_and_their_licences_are_the_registry_s() -> None:
    from harness.models.packaged import registry

    for entry in registry().values():
        line = f"| `{entry.alias}` | {entry.model} | {entry.licence} "
        assert f"{line}| `{entry.package}` {entry.version} |" in page("how-to/air-gapped.md")


def test_files_that_the_readme_names_are_there() -> None:
    for name in ("constraints.txt", "LICENSE", "CONTRIBUTING.md", "harness/hookspecs.py"):
        assert name in README
        assert (ROOT / name).is_file()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", README):
        assert (ROOT / target).is_file(), target
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
