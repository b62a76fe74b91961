"""Puts the page together, and says in it what a browser may run: its own scripts alone."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from harness.cli.report import heat_map, leaderboard, samples, sections
from harness.cli.report.blocks import block, json_block
from harness.cli.report.core import core
from harness.cli.report.markup import Markup, element, joined
from harness.cli.report.reading import Results

__all__ = ["page"]

HERE = Path(__file__).parent
SCRIPTS = (
    *("dom", "blocks", "state", "theme", "leaderboard", "pictures", "tradeoff", "curves"),
    *("phases", "difference", "answers", "samples", "main"),
)
"""Modules of assets/, in the order in which they build on each other."""
STYLES = (
    *("vendor/plotly.css", "vendor/tabulator_simple.min.css"),
    *("assets/page.css", "assets/leaderboard.css", "assets/samples.css"),
)
LIBRARIES = {"tabulator": "tabulator.min.js", "plotly": "plotly-cartesian.min.js"}
"""Compressed, and run when they are needed; the policy names their hashes too."""
LICENCES = {"plotly.js": "plotly.LICENSE", "Tabulator": "tabulator.LICENSE"}


def page(results: Results, *, watched: str | None = None) -> str:
    """The whole page: the same text for the same records and samples.

    One that is `watched` asks its own server for more; that is the version of what it shows.
    """
    records = [one.data for one in results.stored]
    by_id = {record["id"]: record for record in records}
    answered = samples.answered(results.board["rows"], by_id, results.samples)
    parts = {
        "title": _title(results),
        "policy": Markup(_policy(watched is not None)),
        "styles": joined(*map(_style, STYLES)),
        "table": leaderboard.table(results.board, by_id),
        "notes": sections.notes(results),
        "heat": heat_map.maps(results.board, by_id),
        "judges": sections.judges(results.board, by_id),
        "warnings": sections.warnings(records),
        "repeat": sections.experiments(records),
        "licences": _licences(),
        "libraries": joined(*map(_library, LIBRARIES)),
        "core": json_block("core", core(results.board, by_id, answered) | {"watched": watched}),
        "samples": joined(*samples.blocks(answered, results.samples)),
        "scripts": joined(*(element("script", Markup(_script(name))) for name in SCRIPTS)),
    }
    fill = re.compile(r"\{\{(\w+)\}\}")
    return fill.sub(lambda match: str(joined(parts[match[1]])), _file("assets/page.html"))


def _title(results: Results) -> str:
    """The experiments' names."""
    plans = [one.data["plan"] for one in results.stored]
    names = dict.fromkeys(plan.get("experiment") or plan["model"]["name"] for plan in plans)
    return ", ".join(names) or "Nothing recorded yet"


def _policy(watched: bool) -> str:
    """Nothing is loaded from anywhere; what runs and what styles is named by its hash."""
    scripts = [_script(name) for name in SCRIPTS]
    scripts += [_file(f"vendor/{file}") for file in LIBRARIES.values()]
    directives = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src": " ".join(_hash(_file(name)) for name in STYLES),
        "img-src": "data:",
        "connect-src": "'self'" if watched else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _style(name: str) -> Markup:
    """Plotly looks for its own by its name, and adds no rule where it says so."""
    plotly = {"id": "plotly.js-style-global", "class_": "no-inline-styles"}
    return element("style", Markup(_file(name)), **(plotly if "plotly" in name else {}))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _script(name: str) -> str:
    return _file(f"assets/{name}.js")


@cache
def _library(name: str) -> Markup:
    return block(f"library-{name}", _file(f"vendor/{LIBRARIES[name]}").encode())


@cache
def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _licences() -> Markup:
    """Of the libraries in the page, word for word."""
    return joined(
        *(
            joined(element("h3", name), element("pre", _file(f"vendor/{file}"), tabindex=0))
            for name, file in LICENCES.items()
        )
    )
