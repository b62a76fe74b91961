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

from scripts.reference import markdown
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


def broken_links(file: Path) -> list[str]:
    """What a page shows or links to that is not there: files, headings, references.

    The strict build sees pages and their headings alone, and needs its builder.
    """
    text = re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", file.read_text("utf-8"))
    found = []
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        other = file.parent / path if path else file
        if not other.is_file() or (anchor and anchor not in anchors(other)):
            found.append(target)
    return found + re.findall(r"\]\[[^\]]*\]", text)


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", file.read_text("utf-8"))
    return {markdown.anchor(heading) for heading in headings}


def test_every_page_is_in_the_menu_and_what_it_shows_is_there() -> None:
    menu = list(in_menu(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    assert sorted(menu) == PAGES
    broken = {page: broken_links(ROOT / "docs" / page) for page in PAGES}
    assert broken == {page: [] for page in PAGES}


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
    assert "images/report.png" in broken_links(site / "docs/index.md")


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(
        "# Some page\n\n[a](page.md#some-page) [b](#none) [c](gone.md) `[d](code.md)` [e][none]\n"
    )
    assert broken_links(file) == ["#none", "gone.md", "][none]"]
