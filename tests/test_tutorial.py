"""The tutorial is run: its files written, its commands called in order, its figures compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs/tutorial.md").read_text("utf-8")
BLOCK = re.compile(
    r"^(?:<!-- exit code (\d+) -->\n)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Step:
    """A block of the page: a file to write, a command to run, or what the command before shows."""

    kind: str
    file: str
    text: str
    code: int
    """The exit code that the page says; 0 where it says none."""


def steps(page: str) -> list[Step]:
    """In the page's order: `bash` is run, a block with a title is a file, `text` is output."""
    return [Step(b[2], b[3] or "", b[4], int(b[1] or 0)) for b in BLOCK.finditer(page)]


def verdicts(text: str) -> list[str]:
    """`PASS knows our prices (prices.must_contain)`: what the gate says of each rule."""
    found = re.findall(r"^(PASS|FAIL|UNDECIDED) +(.+? \([\w.]+\)):", text, re.MULTILINE)
    return [f"{verdict} {rule}" for verdict, rule in found]


def follow(page: str, folder: Path) -> None:
    """Do what a page says, in a folder; raises AssertionError where something else comes out."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env.pop("OMP_NUM_THREADS", None)
    printed = ""
    for step in steps(page):
        if step.file:
            (folder / step.file).write_text(step.text, "utf-8")
        elif step.kind == "bash":
            done = subprocess.run(
                ["bash", "-e", "-c", step.text],
                cwd=folder,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            printed = done.stdout
            assert done.returncode == step.code, f"{step.text}{printed}{done.stderr}"
        elif step.kind == "text":
            assert verdicts(step.text)
            assert verdicts(step.text) == verdicts(printed)


def figures(folder: Path) -> dict[str, dict[str, float]]:
    """Row -> metric -> value, of the tutorial's leaderboard."""
    board = json.loads((folder / "results/shop/leaderboard.json").read_text("utf-8"))
    return {
        row["label"]: {name: metric["value"] for name, metric in row["metrics"].items()}
        for row in board["rows"]
    }


@pytest.mark.slow
@pytest.mark.long
def test_the_tutorial_comes_out_as_it_says(tmp_path: Path) -> None:
    follow(PAGE, tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 100_000
    found = figures(tmp_path)
    rows = re.findall(r"^\| `([\w.]+)` . \| ([\d.]+) [^|]*\| ([\d.]+) ", PAGE, re.MULTILINE)
    assert len(rows) == 2
    for metric, lora, base in rows:
        # processors round otherwise: three answers of 24, a twentieth of a perplexity
        apart = {"abs": 0.13} if "must_contain" in metric else {"rel": 0.05}
        assert found["base"][metric] == pytest.approx(float(base), **apart)
        assert found["lora"][metric] == pytest.approx(float(lora), **apart)


def test_the_page_has_what_the_test_runs() -> None:
    kinds = [step.file or step.kind for step in steps(PAGE)]
    files = ["data.py", "prices.yaml", "shop.yaml", "release.yaml", "next.yaml"]
    assert [name for name in kinds if "." in name] == files
    assert kinds.count("bash") == 8
    assert len(steps(PAGE)) == len(re.findall(r"^```\w", PAGE, re.MULTILINE))
    assert [step.code for step in steps(PAGE) if step.kind == "bash"] == [0] * 7 + [1]


@pytest.mark.parametrize(
    "wrong",
    [
        "```bash\nexit 3\n```\n",  # a command that fails
        "<!-- exit code 1 -->\n```bash\ntrue\n```\n",  # one that should fail
        '```bash\necho "PASS  a (b.c): 1"\n```\n\n```text\nFAIL  a (b.c): 1\n```\n',
        '```bash\necho "PASS  a (b.c): 1"\n```\n\n```text\nnothing of the gate\n```\n',
    ],
)
def test_a_page_that_says_something_else_fails(wrong: str, tmp_path: Path) -> None:
    follow('```bash\necho "PASS  a (b.c): 1"\n```\n\n```text\nPASS  a (b.c): 1\n```\n', tmp_path)
    with pytest.raises(AssertionError):
        follow(wrong, tmp_path)
