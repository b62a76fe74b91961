"""The documentation site builds strictly, every page is in its menu, what pages show is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

PAGES = sorted(file.relative_to(ROOT / "docs").as_posix() for file in ROOT.glob("docs/**/*.md"))


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, in a copy of the site."""
    pytest.importorskip("zensical", reason="zensical needs Python 3.11")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


def in_menu(nav: list[Any]) -> Iterator[str]:
    """The pages of a `nav`, in its order."""
    for item in nav:
        for value in item.values() if isinstance(item, dict) else [item]:
            if isinstance(value, list):
                yield from in_menu(value)
            else:
                yield value


def missing_files(folder: Path) -> list[str]:
    """What pages show or link to that is not there: the strict build sees links to pages alone."""
    found = []
    for page in folder.glob("**/*.md"):
        text = re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", page.read_text("utf-8"))
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            file = page.parent / target
            if "://" not in target and not file.is_file():
                found.append(f"{page.name}: {target}")
        found += [f"{page.name}: {name}" for name in re.findall(r"\]\[[^\]]*\]", text)]
    return found


def test_every_page_is_in_the_menu_and_what_it_shows_is_there() -> None:
    menu = list(in_menu(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    assert sorted(menu) == PAGES
    assert missing_files(ROOT / "docs") == []


def test_it_builds_strictly_and_asks_no_other_host(site: Path) -> None:
    done = build(site)
    assert done.returncode == 0, done.stdout + done.stderr
    out = site / "build/site"
    assert all((out / page).with_suffix(".html").is_file() for page in PAGES)
    # no other host is asked for a script, a style, a font or a picture
    for page in out.glob("**/*.html"):
        text = page.read_text("utf-8")
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", text)
        assert not [tag for tag in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("[a page](nowhere.md)", "page does not exist"),
        ("[a heading](report.md#nowhere)", "anchor does not exist"),
    ],
)
def test_a_broken_link_stops_the_build(site: Path, wrong: str, told: str) -> None:
    with (site / "docs/index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{wrong}\n")
    done = build(site)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr


def test_a_missing_picture_is_seen(site: Path) -> None:
    (site / "docs/images/report.png").unlink()
    assert "index.md: images/report.png" in missing_files(site / "docs")
