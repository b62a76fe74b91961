"""Results to look at: the leaderboard of results folders, for people, for pandas and a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.results import leaderboard_file, lookup, store
from harness.results.leaderboard_layout import Leaderboard, Row
from harness.results.store import Stored
from harness.sdk import html
from harness.sdk.measuring import existing_results

if TYPE_CHECKING:
    import pandas

__all__ = ["Results", "load_results"]


@dataclass(frozen=True)
class Results:
    """The records of some results folders, and the leaderboard that is derived from them."""

    folders: Sequence[Path]
    records: Sequence[Stored]
    """Those that the board is of."""
    board: Leaderboard
    """As `leaderboard.json` holds it; rows are ordered best first."""
    problems: Sequence[str]
    """What is wrong with each record that is left out."""

    @property
    def failed(self) -> list[str]:
        """Ids of the cells that did not end well."""
        return [one.id for one in self.records if one.data["status"] != "ok"]

    def to_pandas(self) -> pandas.DataFrame:
        """A line per row of the leaderboard and metric, with intervals, differences and costs."""
        import pandas

        lines = [
            {**_described(row), "metric": name, **_figures(metric), **row["cost"]}
            for row in self.board["rows"]
            for name, metric in row["metrics"].items()
        ]
        return pandas.DataFrame(lines)

    def samples(self, row: str, suite: str) -> pandas.DataFrame:
        """The samples of a row (a label, a method, a cell's id) in a suite: a line per answer.

        With the columns of the sample file, `scores` one by one, and the cell and its seed. Raises
        UserError for an unknown name, and where a sample file is missing or changed.
        """
        import pandas

        arm = lookup.find(row, self.folders)
        lines = [
            {
                "cell": cell["id"],
                "seed": cell["plan"]["seed"],
                **{key: value for key, value in sample.items() if key != "scores"},
                **{f"scores.{key}": value for key, value in sample.get("scores", {}).items()},
            }
            for cell in arm.group.cells
            for sample in arm.records.read_rows(cell, suite)
        ]
        return pandas.DataFrame(lines)

    def _repr_html_(self) -> str:
        """The leaderboard with the first metric of each suite."""
        rows, names = self.board["rows"], self._headlines()
        heads = ["#", "method", *names, "train seconds", "peak memory (GiB)", "status"]
        notes = [*self.board["incomparable"], *(f"left out: {line}" for line in self.problems)]
        return html.table(heads, [_cells(row, names) for row in rows], notes)

    def _headlines(self) -> list[str]:
        firsts: dict[str, str] = {}
        for row in self.board["rows"]:
            for name in row["metrics"]:
                firsts.setdefault(name.partition(".")[0], name)
        return list(firsts.values())


def load_results(*folders: str | Path, rank_by: str | None = None) -> Results:
    """The results in some results folders, by default in all those under results/.

    Records that are broken, of another layout or without their samples are left out and named in
    `problems`. `rank_by` is `suite.metric`. Raises UserError where there are no records to show,
    and for an unknown `rank_by`.
    """
    places = existing_results(folders)
    if not places:
        raise UserError("no results under results/: name a results folder, or run an experiment")
    records, problems = store.read_usable(places)
    folder = places[0] if len(places) == 1 else None
    try:
        board = leaderboard_file.build(folder, records, rank_by=rank_by)
    except UserError:
        records, more = store.with_samples(records)
        if not more or not records:
            raise
        problems += more
        board = leaderboard_file.build(None, records, rank_by=rank_by)
    return Results(places, records, board, problems)


def _described(row: Row) -> dict[str, Any]:
    low, high = _places(row)
    return {
        "rank": row["rank"],
        "rank_low": low,
        "rank_high": high,
        "label": row["label"],
        "model": row["model"],
        "method": row["method"],
        "status": row["status"],
        "seeds": len(row["seeds"]),
    }


def _places(row: Row) -> tuple[int | None, int | None]:
    """The best and the worst place of a row; None without a rank."""
    ends = row.get("rank_range")
    return (ends[0], ends[1]) if ends else (row["rank"], row["rank"])


def _figures(metric: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        *("value", "ci_low", "ci_high", "n", "higher_is_better"),
        *("delta", "delta_ci_low", "delta_ci_high", "delta_p"),
    )
    return {name: metric.get(name) for name in names}


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    figures = []
    for name in names:
        metric: Mapping[str, Any] = row["metrics"].get(name) or {}
        figures.append(
            html.figure(metric.get("value"), metric.get("ci_low"), metric.get("ci_high"))
        )
    low, high = _places(row)
    place = "-" if low is None else str(low) if low == high else f"{low}-{high}"
    peak = row["cost"]["peak_memory_bytes"]
    ends = [html.figure(row["cost"]["train_seconds"]), html.figure(peak and peak / 2**30)]
    return [place, row["label"], *figures, *ends, row["status"]]
