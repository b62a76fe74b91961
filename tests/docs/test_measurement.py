"""What docs/measurement/ quotes stands in results/README.md, which the records hold."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

PAGES = sorted(ROOT.glob("docs/measurement/*.md"))


def words(text: str) -> str:
    """The text in one line."""
    return re.sub(r"\s+", " ", text).strip()


def quotes(text: str) -> list[str]:
    """Every block quote of a page."""
    blocks = re.findall(r"(?m)(?:^> .*\n?)+", text)
    return [words(re.sub(r"(?m)^> ", "", block)) for block in blocks]


def unfounded(text: str) -> list[str]:
    results = words((ROOT / "results/README.md").read_text("utf-8"))
    return [quote for quote in quotes(text) if quote not in results]


def test_every_quoted_figure_stands_in_the_results() -> None:
    assert len(PAGES) >= 4
    assert {file.name: unfounded(file.read_text("utf-8")) for file in PAGES} == {
        file.name: [] for file in PAGES
    }
    assert sum(len(quotes(file.read_text("utf-8"))) for file in PAGES) >= 8


def test_a_changed_figure_is_seen() -> None:
    text = Path(ROOT / "docs/measurement/cost.md").read_text("utf-8")
    assert len(unfounded(text.replace("5.5e-05", "5.4e-05"))) == 1


def test_the_rates_of_the_gate_are_those_of_its_table() -> None:
    """Over the single metrics where nothing differs, the least and the most."""
    results = (ROOT / "results/README.md").read_text("utf-8")
    table = results.split("| no difference: two seeds", 1)[1].split("\n\n", 1)[0]
    rates = [float(rate) for rate in re.findall(r"\| \d+ \| ([\d.]+) % \[", table)]
    said = f"failed between {min(rates)} % and {max(rates)} % of the time"
    assert said in words((ROOT / "docs/measurement/intervals.md").read_text("utf-8"))
