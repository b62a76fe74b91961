"""What rows are called on the page: no two alike, for links and filters name rows by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.cli.render.tables import columns
from harness.record import Record
from harness.results.leaderboard_layout import Row

__all__ = ["titles"]


def titles(rows: Sequence[Row], by_id: Mapping[str, Record]) -> list[str]:
    """As in the terminal; with the experiment where several are alike, and the cell where still."""
    short = [columns.titles(rows)(row) for row in rows]
    longer = [
        f"{title} ({by_id[row['cells'][0]]['plan'].get('experiment')})"
        for title, row in zip(short, rows, strict=True)
    ]
    longest = [
        f"{title} {row['cells'][0].rpartition('-')[2]}"
        for title, row in zip(longer, rows, strict=True)
    ]
    few, more = Counter(short), Counter(longer)
    return [
        a if few[a] == 1 else b if more[b] == 1 else c
        for a, b, c in zip(short, longer, longest, strict=True)
    ]
