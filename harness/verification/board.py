"""`leaderboard.json` held against the one that the records and samples make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness import __version__
from harness.errors import HarnessError
from harness.results import leaderboard, leaderboard_file, store
from harness.results.schema import first_problem
from harness.verification.comparing import Difference, differences, leaves
from harness.verification.folder import Folder
from harness.verification.report import Report

NAME = leaderboard_file.NAME
SEALED = ("sha256", "records", "rank_by")
"""What a file has beside the leaderboard."""


def check(folder: Folder, report: Report) -> None:
    """Every row, rank, tie and figure; nothing where the folder has no leaderboard."""
    file = folder.path / NAME
    if not file.is_file():
        return
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        report.fails(NAME, problem=f"cannot be read ({type(error).__name__})")
        return
    if (problem := first_problem(stated, "leaderboard")) is not None:
        report.fails(NAME, problem=f"is no valid leaderboard ({problem})")
        return
    if "sha256" in stated and not store.is_sealed(stated):
        report.fails(NAME, "sha256", "the seal is not that of the file: it changed")
    _cells(stated, folder, report)
    try:
        board = leaderboard.build(
            list(folder.records.values()), read_rows=folder.rows, rank_by=stated.get("rank_by")
        )
    except HarnessError as error:
        report.cannot(NAME, "ranks, ties and figures", str(error))
        return
    except Exception as error:  # a changed file may hold anything
        report.fails(NAME, problem=f"cannot be built anew ({type(error).__name__}: {error})")
        return
    if "records" in stated and stated["records"] != leaderboard_file.sources(
        folder.stored, stated.get("rank_by")
    ):
        _other_records(report)
    plain = store.plain(board)
    found = {key: value for key, value in stated.items() if key not in SEALED}
    for difference in _rows_apart(found, plain):
        report.fails(
            NAME, difference.path, stated=difference.stated, recomputed=difference.recomputed
        )
    report.counts("leaderboard values", leaves(found))


def _other_records(report: Report) -> None:
    problem = (
        f"is not of these records, or not of harness {__version__}; its figures are compared below"
    )
    if report.findings:  # the records themselves changed, which is said already
        return
    report.trusts(f"{NAME}: records: {problem}")


def _cells(stated: Mapping[str, Any], folder: Folder, report: Report) -> None:
    """Cells that the leaderboard has, and the folder has not."""
    for row in stated["rows"]:
        for cell in row["cells"]:
            if cell not in folder.records:
                problem = f"is missing; {NAME} has it in row {row['label']}"
                report.fails(f"cells/{cell}.json", problem=problem)


def _rows_apart(stated: Mapping[str, Any], found: Mapping[str, Any]) -> list[Difference]:
    """Differences, each row by its label and cells: their order may have changed."""
    own, other = _by_name(stated), _by_name(found)
    apart = [] if list(own) == list(other) else [Difference("rows", list(own), list(other))]
    for name in own:
        if name in other:
            apart += differences(own[name], other[name], f"row {name}")
    said, again = ({k: v for k, v in board.items() if k != "rows"} for board in (stated, found))
    return [*apart, *differences(said, again)]


def _by_name(board: Mapping[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for row in board["rows"]:
        name = row["label"]
        rows[name if name not in rows else f"{name} ({row['cells'][0]})"] = row
    return rows
