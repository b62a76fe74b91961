"""What was forgotten where: differences to the base by subject or domain, as coloured tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.cli.render import numbers
from harness.cli.render.tables import columns
from harness.cli.report.markup import Markup, element
from harness.cli.report.titles import titles
from harness.record import Record
from harness.results.leaderboard_layout import Leaderboard, Row

__all__ = ["maps"]

STEPS = 5
"""Shades each way."""


def maps(board: Leaderboard, by_id: Mapping[str, Record]) -> Markup:
    """A table for each score that a suite has by part, parts against rows.

    A cell's shade is its difference to the base, as a part of the largest in its table; its text
    says the same, with a star where the interval excludes zero.
    """
    rows = list(zip(board["rows"], titles(board["rows"], by_id), strict=True))
    tables = [_map(rows, key, names) for key, names in _by_score(board["rows"]).items()]
    shown = [table for table in tables if table]
    if not shown:
        return element("p", "No suite here has figures by subject or domain and a base.")
    return element("div", *shown, class_="maps")


_Key = tuple[str, str, str, str | None]
"""Suite, kind of estimator, score, and what it is divided by."""


def _by_score(rows: Sequence[Row]) -> dict[_Key, list[str]]:
    """The metrics of parts of a suite, by what they are figures of; of one part alone none.

    Parts are a source's domains, and the tasks of a suite that asks what was retained: those first.
    """
    sections = {name: metric for row in rows for name, metric in row["metrics"].items()}
    retaining = {_suite(n) for n, m in sections.items() if m["estimator"]["kind"] == "retained"}
    found: dict[_Key, list[str]] = {}
    for name in sorted(sections, key=lambda name: _suite(name) not in retaining):
        how = sections[name]["estimator"]
        where = how["where"]
        if isinstance(where, Mapping) or (where is not None and _suite(name) in retaining):
            key = (_suite(name), how["kind"], how["score"], how["per"])
            found.setdefault(key, []).append(name)
    return {key: names for key, names in found.items() if len(names) > 1}


def _suite(name: str) -> str:
    return name.partition(".")[0]


def _map(every: Sequence[tuple[Row, str]], key: _Key, names: Sequence[str]) -> Markup | None:
    """The table of one score, with the rows that have it."""
    named = [(row, title) for row, title in every if _deltas(row, names)]
    if not named:
        return None
    rows = [row for row, _ in named]
    most = max(abs(delta) for row in rows for delta in _deltas(row, names))
    common = _common(names)
    what = f"{key[0]}: {common.partition('.')[2].rstrip('.') or key[2]}, minus the base's"
    better = "higher" if _higher(rows, names[0]) else "lower"
    heads = [element("th", title, scope="col") for _, title in named]
    lines = [
        element(
            "tr",
            element("th", _part(name, common, key[2]), scope="row"),
            *(_cell(row, name, most) for row in rows),
        )
        for name in names
    ]
    table = element(
        "table",
        element("caption", what, element("br"), f"{better} is better"),
        element("thead", element("tr", element("td"), *heads)),
        element("tbody", *lines),
        class_="heat",
    )
    return element(
        "div", table, class_="scrolled", tabindex=0, role="region", aria_label=f"By part: {what}"
    )


def _deltas(row: Row, names: Sequence[str]) -> list[float]:
    found = (row["metrics"].get(name) for name in names)
    return [one["delta"] for one in found if one is not None and one["delta"] is not None]


def _higher(rows: Sequence[Row], name: str) -> bool:
    return next(row["metrics"][name]["higher_is_better"] for row in rows if name in row["metrics"])


def _common(names: Sequence[str]) -> str:
    """What all names begin with, to a full stop: `perplexity.plain_bits_per_byte.`."""
    first, last = min(names), max(names)
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[: first.rfind(".", 0, same) + 1]


def _part(name: str, common: str, score: str) -> str:
    """What the names of a table do not share: `mmlu_anatomy` of `mmlu_anatomy.acc_norm`."""
    return name.removeprefix(common).removesuffix(f".{score}")


def _cell(row: Row, name: str, most: float) -> Markup:
    metric = row["metrics"].get(name)
    if metric is None or metric["delta"] is None:
        return element("td", "-")
    gain = metric["delta"] if metric["higher_is_better"] else -metric["delta"]
    step = math.ceil(STEPS * abs(gain) / most) if most else 0
    sure = "*" if columns.verdict(metric) else ""
    shade = f"{'gain' if gain > 0 else 'loss'}-{step}" if step else None
    text = numbers.number(metric["delta"], "+") + sure
    return element("td", text, class_=shade, title=columns.delta(row, name) or None)
