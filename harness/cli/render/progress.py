"""What a person sees while cells run: live bars on a terminal, a line for each end elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.planning.cell import Cell
from harness.system.console import console

if TYPE_CHECKING:
    from rich.progress import TaskID

    from harness.types import Event


class Quiet:
    """Says nothing but warnings and what an interrupted run waits for (`--json`)."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to put away."""

    def begin(self, cells: int) -> None:
        """So many cells are planned."""

    def observe(self, cell: Cell, event: Event) -> None:
        """Print a warning, and what is waited for, in one line on standard error."""
        if event["event"] in {"warning", "stopping"}:
            print(_line(cell, event), file=sys.stderr)

    def download(self, name: str, done: int, total: int) -> None:
        """Ignore a download's progress."""


class Lines(Quiet):
    """A line for each warning, trial, retry and recorded cell (a log: no terminal)."""

    def observe(self, cell: Cell, event: Event) -> None:
        """Tell it on standard error at once."""
        if said := _line(cell, event):
            print(said, file=sys.stderr, flush=True)


class Live(Quiet):
    """A bar for the cells and one for what each running cell is doing (on a terminal)."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description:<44}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
        )
        self._cells = self._bars.add_task("cells", total=None)
        self._download = self._bars.add_task("", total=None, visible=False)
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bars off the screen."""
        self._bars.stop()

    def begin(self, cells: int) -> None:
        """Set the length of the cells' bar."""
        self._bars.update(self._cells, total=cells)

    def observe(self, cell: Cell, event: Event) -> None:
        """Move the bars, and leave above them what `Lines` would say."""
        kind = event["event"]
        if said := _line(cell, event):
            self._bars.console.print(said, style=_style(event), soft_wrap=True)
        if kind == "phase":
            self._restart(cell, f"{cell.label} (seed {cell.seed}): {event['name']}")
        elif kind == "progress" and cell.id in self._running:
            self._advance(self._running[cell.id], event)
        elif kind in {"skipped", "recorded"}:
            self._bars.advance(self._cells)
        if kind in {"exit", "recorded", "stopped"} and cell.id in self._running:
            self._bars.remove_task(self._running.pop(cell.id))

    def download(self, name: str, done: int, total: int) -> None:
        """Show a download in bytes."""
        self._bars.update(
            self._download,
            description=f"download {name} (MB)",
            completed=round(done / 1e6),
            total=round(total / 1e6),
            visible=True,
        )

    def _restart(self, cell: Cell, text: str) -> None:
        self._bars.update(self._download, visible=False)
        if cell.id not in self._running:
            self._running[cell.id] = self._bars.add_task("", total=None)
        self._bars.reset(self._running[cell.id], description=text, total=None)

    def _advance(self, bar: TaskID, event: Event) -> None:
        done = event.get("step", event.get("done"))
        total = event.get("steps", event.get("total"))
        if done is not None:
            self._bars.update(bar, completed=done, total=total)


def _line(cell: Cell, event: Event) -> str | None:
    """An event in one line; None of those that only move a bar."""
    kind = event["event"]
    if kind == "warning":
        message = " ".join(str(event["message"]).split())
        return f"Warning: {cell.label} (seed {cell.seed}): {message}"
    if kind == "trial":
        return _trial(cell, event)
    if kind == "retry":
        checkpointed = ", gradient checkpointing" if event["gradient_checkpointing"] else ""
        again = f"micro_batch {event['micro_batch']}{checkpointed}"
        return f"{cell.id}: out of memory, again with {again}"
    if kind == "stopping":
        return (
            f"{cell.id}: told to stop, goes on to where it can be taken up again, for at most "
            f"{_duration(event['seconds'])}; Ctrl-C again stops at once"
        )
    if kind == "waiting":
        return f"{cell.id}: another run is at it ({event['holder']}): its end is waited for"
    return f"{cell.id}: {event['status']}" if kind == "recorded" else None


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"


def _style(event: Event) -> str:
    if event["event"] == "recorded":
        return "green" if event["status"] == "ok" else "red"
    return "yellow" if event["event"] in {"warning", "retry"} else ""


def _trial(cell: Cell, trial: Event) -> str:
    loss, values = trial["validation_loss"], trial["options"].items()
    outcome = trial["status"] if loss is None else f"validation loss {loss:.4f}"
    options = ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in values)
    return f"{cell.label} trial {trial['number'] + 1}/{trial['trials']}: {options}: {outcome}"


def progress(*, json: bool) -> Quiet:
    """Live bars on a terminal, lines in a log, and quiet under `--json`."""
    if json:
        return Quiet()
    return Live() if sys.stderr.isatty() else Lines()
