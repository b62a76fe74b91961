"""What the figures of a leaderboard are to be read with: the lines below its table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.cli.render import judge_doubts, numbers
from harness.cli.render.tables.columns import (
    Board,
    Column,
    Row,
    metric_names,
    shown_names,
    titles,
)

__all__ = ["notes"]


def notes(board: Board, chosen: Sequence[Column] | None = None) -> list[str]:
    """Rows not told apart, labels such as self-judged, what is odd in rows, and suites that differ.

    With `chosen` columns what is about others is left out, as are ties that have a column.
    """
    labels = [f"{suite}: {label}" for suite, label in board.get("labels", {}).items()]
    rows = board["rows"]
    names = shown_names(rows)
    left_out = len(metric_names(rows)) - len(names)
    more = [f"{left_out} figures of single subjects and domains are in --format csv and json"]
    ties = _tie_lines(rows)
    if chosen is not None:
        wanted = {column.name for column in chosen}
        names, left_out = [name for name in metric_names(rows) if name in wanted], 0
        ties = [] if "tied_with" in wanted else ties
    ties += [*_seed_lines(rows), *_cost_lines(rows)]
    warned = [*_health_lines(rows), *_degenerate_lines(rows), *_judge_lines(rows, names)]
    warned += _reasoning_lines(rows)
    return [*ties, *warned, *labels, *board["incomparable"], *(more if left_out else [])]


def _cost_lines(rows: Sequence[Row]) -> list[str]:
    """How costs spread over seeds, which is no interval; nothing of rows with one measurement."""
    kinds = {
        "train time": ("train_seconds", numbers.duration),
        "peak memory": ("peak_memory_bytes", lambda value: numbers.size(round(value))),
    }
    lines, title = [], titles(rows)
    for what, (name, show) in kinds.items():
        ranges = [
            f"{title(row)} {show(of[0])} to {show(of[1])}"
            for row in rows
            if (of := row.get("cost_range", {}).get(name))
        ]
        lines += [f"{what} of single seeds: {', '.join(ranges)}"] if ranges else []
    return lines


def _health_lines(rows: Sequence[Row]) -> list[str]:
    title = titles(rows)
    return [
        f"{title(row)}: its training was warned of {', '.join(row['health'])} "
        "(warnings in its record)"
        for row in rows
        if row.get("health")
    ]


def _degenerate_lines(rows: Sequence[Row]) -> list[str]:
    title = titles(rows)
    return [f"{title(row)}: {line}" for row in rows for line in row.get("degenerate", ())]


def _reasoning_lines(rows: Sequence[Row]) -> list[str]:
    """How much of the answers was reasoning and not scored, and how many came to no end of it."""
    title = titles(rows)
    return [
        f"{title(row)}: suite '{suite}': {of['token_share']:.0%} of the tokens are reasoning, "
        f"{of['mean_tokens']:.1f} an answer; {of['unfinished']} of {of['answers']} answers "
        f"({of['unfinished_share']:.0%}) never end it"
        for row in rows
        for suite, of in row.get("reasoning", {}).items()
        if of["reasoned"]
    ]


def _judge_lines(rows: Sequence[Row], names: Iterable[str]) -> list[str]:
    """Why figures of weak and failed judges are dimmed."""
    return judge_doubts.lines(
        (name, judge_doubts.doubt_of(row["metrics"][name]))
        for name in names
        for row in rows
        if name in row["metrics"]
    )


def _tie_lines(rows: Sequence[Row]) -> list[str]:
    lines, listed = [], set()
    for row in rows:
        others = [label for label in row["tied_with"] if (label, row["label"]) not in listed]
        listed |= {(row["label"], label) for label in others}
        if others:
            lines.append(f"{row['label']} is not told apart from {', '.join(others)}")
    return lines


def _seed_lines(rows: Sequence[Row]) -> list[str]:
    trained = [row for row in rows if row["cost"]["trainable_parameters"]]
    one = bool(trained) and all(len(row["seeds"]) == 1 for row in trained)
    return ["one seed: training noise is not in these intervals"] if one else []
