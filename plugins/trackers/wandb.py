"""Weights & Biases. Offline unless WANDB_MODE says otherwise or a key is at hand."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from harness import Tracker, hookimpl


class WeightsAndBiases(Tracker):
    """A run for each cell, grouped by experiment."""

    name, needs, install = "wandb", "wandb", "finetune-harness[wandb]"
    _run: Any = None

    def open(self, experiment: str, folder: Path) -> None:
        """The project is WANDB_PROJECT, or the experiment's name."""
        self.experiment = experiment
        self.folder = Path(os.environ.get("WANDB_DIR") or folder / self.name)
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self, cell: str, settings: Mapping[str, str | int | float | bool]) -> None:
        """Open a run; it never asks for a login."""
        import wandb

        self._end(1)
        key = os.environ.get("WANDB_API_KEY")
        self.mode = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self.experiment,
            group=self.experiment,
            name=cell,
            config=dict(settings),
            dir=str(self.folder),
            mode=cast("Any", self.mode),  # wandb refuses what is none of its modes
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def log(self, cell: str, step: int, values: Mapping[str, float]) -> None:
        """One point of the history; the validation loss of a step joins its loss."""
        self._run.log(dict(values), step=step)

    def finish(self, cell: str, status: str, values: Mapping[str, float]) -> None:
        """The final figures and the status are the run's summary."""
        self._run.summary.update({**values, "status": status})
        self._end(0 if status == "ok" else 1)

    def close(self) -> str:
        """What to do with offline runs."""
        self._end(1)
        if self.mode != "offline":
            return f"Weights & Biases: runs in {self.folder / 'wandb'}"
        return f"Weights & Biases: wandb sync {self.folder / 'wandb' / 'offline-run-*'}"

    def _end(self, code: int) -> None:
        if self._run is not None:
            self._run.finish(exit_code=code)
        self._run = None


@hookimpl
def register_trackers(register: Callable[[Tracker], None]) -> None:
    """The tracker `wandb`."""
    register(WeightsAndBiases())
