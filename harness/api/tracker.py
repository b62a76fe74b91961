"""A tracker: writes training down for a tool that draws it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from harness.errors import EnvironmentLack
from harness.types import Event


class Tracker:
    """Writes cells down for a tool that draws them. Subclass it, set `name`, write what it needs.

    Everything is called in the parent process, for the trackers that the user chose by name. The
    cells of a run start and finish one after another.
    """

    name: ClassVar[str]
    needs: ClassVar[str] = ""
    """The module that it cannot do without; imported in `open`, not at the top."""
    install: ClassVar[str] = ""
    """What pip installs for it; by default the module's name."""

    def check(self) -> None:
        """Raise EnvironmentLack where what it needs is not installed."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            command = f'pip install "{self.install or self.needs}"'
            raise EnvironmentLack(f"tracker '{self.name}' needs {self.needs}: {command}")

    def open(self, experiment: str, folder: Path) -> None:
        """Called before the first cell runs; files on this machine belong under `folder`."""

    def start(self, cell: str, settings: Mapping[str, str | int | float | bool]) -> None:
        """A cell starts: its model, method, options, data, budget and seed."""

    def log(self, cell: str, step: int, values: Mapping[str, float]) -> None:
        """A step of training: `train/loss`, `train/validation_loss`, `train/grad_norm` ..."""

    def finish(self, cell: str, status: str, values: Mapping[str, float]) -> None:
        """A cell is recorded: `suites/<suite>/<metric>`, `phases/<phase>/seconds` and the like."""

    def close(self) -> str:
        """Called after the last cell, also where a cell was cut off; how to look at the result."""
        return ""

    def event(self, cell: str, event: Event) -> None:
        """Called for every event of every cell, before `start`, `log` and `finish`."""
