"""Counts of the faults that tests inject: how many, and how many of them a run survived.

Every process of a test session adds lines to one file; the session that started them prints the
table, and writes it where `--faults-json` says.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILE = "HARNESS_TEST_TALLY"
"""Variable with the path of the file; processes of pytest-xdist inherit it."""


@contextmanager
def injected(fault: str, times: int = 1) -> Iterator[None]:
    """Count a fault that is injected in the block, and survived where nothing is raised there."""
    _add(fault, "injected", times)
    try:
        yield
    except BaseException:
        _add(fault, "lost", times)
        raise
    _add(fault, "survived", times)


def _add(fault: str, what: str, times: int) -> None:
    if file := os.environ.get(FILE):
        with Path(file).open("a") as stream:
            stream.write(json.dumps([fault, what, times]) + "\n")


def begin() -> None:
    """Start counting, in the first process of a session."""
    if FILE not in os.environ:
        number, name = tempfile.mkstemp(prefix="harness-tally-")
        os.close(number)
        os.environ[FILE] = name


def counts() -> dict[str, dict[str, int]]:
    """Fault -> injected, survived, lost."""
    file = Path(os.environ.get(FILE, ""))
    table: dict[str, dict[str, int]] = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        fault, what, times = json.loads(line)
        table.setdefault(fault, {"injected": 0, "survived": 0, "lost": 0})[what] += times
    return dict(sorted(table.items()))


def report(terminal: pytest.TerminalReporter, path: str | None) -> None:
    """Print the table, if any fault was injected, and write it as JSON to `path`."""
    table = counts()
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(table, indent=2) + "\n")
    if not table:
        return
    total = {
        what: sum(row[what] for row in table.values()) for what in ("injected", "survived", "lost")
    }
    terminal.section("faults")
    width = max(map(len, table))
    terminal.write_line(f"{'':{width}} injected survived lost")
    for fault, row in {**table, "all": total}.items():
        terminal.write_line(
            f"{fault:{width}} {row['injected']:8} {row['survived']:8} {row['lost']:4}"
        )


def end() -> None:
    """Forget the file, in the process that made it."""
    Path(os.environ.pop(FILE, "")).unlink(missing_ok=True)
