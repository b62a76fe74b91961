"""A leaderboard as a text: Markdown, CSV, LaTeX, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from harness.cli.render.tables import columns
from harness.cli.render.tables.columns import Board, Column, Row
from harness.cli.render.tables.escapes import for_latex, for_markdown, for_spreadsheet

__all__ = ["as_csv", "as_json", "as_latex", "as_markdown", "latex", "markdown"]

_NEEDS = r"% \usepackage{booktabs,textcomp}"


def as_markdown(board: Board, chosen: Sequence[Column], notes: Sequence[str]) -> str:
    """A board's table in GitHub's Markdown, then the notes, a paragraph each."""
    heads, *lines = _lines(board, chosen)
    return markdown(heads, lines, notes)


def as_latex(board: Board, chosen: Sequence[Column], notes: Sequence[str]) -> str:
    """A board's `table` with rules of booktabs, the notes in small letters below it."""
    heads, *lines = _lines(board, chosen)
    return latex(heads, lines, notes, columns="rl" + "r" * len(chosen))


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A table of plain texts in GitHub's Markdown, then the notes, a paragraph each."""
    rows = [[*map(for_markdown, line)] for line in (heads, *lines)]
    rows.insert(1, ["---"] * len(heads))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return "\n\n".join([table, *(for_markdown(note, line_start=True) for note in notes)]) + "\n"


def latex(
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    notes: Sequence[str],
    *,
    columns: str | None = None,
) -> str:
    """A `table` of plain texts; `columns` aligns them, by default the first left, others right."""
    head, *body = [" & ".join(map(for_latex, line)) + r" \\" for line in (heads, *lines)]
    below = [rf"\par\smallskip{{\footnotesize {for_latex(note)}\par}}" for note in notes]
    return "\n".join(
        [
            _NEEDS,
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns or 'l' + 'r' * (len(heads) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *below,
            r"\end{table}",
            "",
        ]
    )


def _lines(board: Board, chosen: Sequence[Column]) -> list[list[str]]:
    """The header, then a line per row: its place, its label and the columns."""
    rows = board["rows"]
    title = columns.titles(rows)

    def cells(row: Row) -> list[str]:
        label = title(row) + columns.failure(row)
        return [columns.rank(row), label, *(column.show(row) for column in chosen)]

    heads = ["#", "method", *(column.title for column in chosen)]
    return [heads, *map(cells, rows)]


def as_csv(board: Board, chosen: Sequence[Column] | None) -> str:
    """Every figure in a cell of its own; without `chosen` all metrics, costs, ties and cells."""
    rows = board["rows"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if chosen is None:
        chosen = columns.of_metrics(rows, columns.metric_names(rows))
        costs = list(dict.fromkeys(key for row in rows for key in row["cost"]))
        ends = [*costs, "tied_with", "cells"]
    else:
        costs, ends = [], []
    fields = {head: of for column in chosen for head, of in column.fields.items()}
    start = [
        "rank",
        "rank_low",
        "rank_high",
        "label",
        "model",
        "method",
        "options",
        "seeds",
        "status",
    ]
    writer.writerow(map(for_spreadsheet, [*start, *fields, *ends]))
    for row in rows:
        low, high = row.get("rank_range") or [row["rank"]] * 2
        line = [row["rank"], low, high, row["label"], row["model"], row["method"]]
        line += [json.dumps(row["options"], sort_keys=True), ";".join(map(str, row["seeds"]))]
        line += [row["status"], *(of(row) for of in fields.values())]
        if ends:
            line += [row["cost"].get(key) for key in costs]
            line += [";".join(row["tied_with"]), ";".join(row["cells"])]
        writer.writerow(map(for_spreadsheet, line))
    return out.getvalue()


def as_json(board: Board) -> str:
    """The board itself."""
    return json.dumps(board, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
