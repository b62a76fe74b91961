"""trackio: a SQLite file in TRACKIO_DIR, or in the results folder."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import Tracker, hookimpl


class Trackio(Tracker):
    """A run for each cell in the project of the experiment's name."""

    name, needs, install = "trackio", "trackio", "finetune-harness[trackio]"
    _run: Any = None

    def open(self, experiment: str, folder: Path) -> None:
        """The folder is fixed when trackio is first imported, which may be long before."""
        os.environ.setdefault("TRACKIO_DIR", str(folder / self.name))
        from trackio.utils import TRACKIO_DIR

        self.experiment, self.folder = experiment, TRACKIO_DIR

    def start(self, cell: str, settings: Mapping[str, str | int | float | bool]) -> None:
        """Open a run with its settings."""
        import trackio

        self._end()
        self._run = trackio.init(
            project=self.experiment,
            name=cell,
            config=dict(settings),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, cell: str, step: int, values: Mapping[str, float]) -> None:
        """One row of the run's history."""
        self._run.log(dict(values), step=step)

    def finish(self, cell: str, status: str, values: Mapping[str, float]) -> None:
        """The final figures and the status are a row of their own."""
        self._run.log({**values, "status": status})
        self._end()

    def close(self) -> str:
        """The command that shows it."""
        self._end()
        return f"trackio: TRACKIO_DIR={self.folder} trackio show --project {self.experiment}"

    def _end(self) -> None:
        if self._run is not None:
            import trackio

            trackio.finish()  # the run's own leaves it for the end of the process, which prints
        self._run = None


@hookimpl
def register_trackers(register: Callable[[Tracker], None]) -> None:
    """The tracker `trackio`."""
    register(Trackio())
