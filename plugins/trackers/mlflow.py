"""MLflow: the server that MLFLOW_TRACKING_URI names, or a SQLite file in the results folder."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import Tracker, hookimpl

LONGEST = 500
"""Characters of a parameter's value that every MLflow server takes."""


class MLflow(Tracker):
    """A run for each cell in the experiment of its name."""

    name, needs, install = "mlflow", "mlflow", "finetune-harness[mlflow]"
    _run: Any = None

    def open(self, experiment: str, folder: Path) -> None:
        """Find or create the experiment."""
        import logging

        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # not each table that it creates

        place = folder / self.name
        self.uri = os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = None
        if not self.uri:
            place.mkdir(parents=True, exist_ok=True)
            self.uri, artifacts = f"sqlite:///{place / 'mlflow.db'}", (place / "files").as_uri()
        self._client = MlflowClient(tracking_uri=self.uri)
        known = self._client.get_experiment_by_name(experiment)
        self._experiment = (
            known.experiment_id
            if known
            else self._client.create_experiment(experiment, artifact_location=artifacts)
        )

    def start(self, cell: str, settings: Mapping[str, str | int | float | bool]) -> None:
        """Create a run with its settings as parameters."""
        from mlflow.entities import Param

        self._end("KILLED")
        self._run = self._client.create_run(self._experiment, run_name=cell).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in settings.items()]
        self._client.log_batch(self._run, params=params)

    def log(self, cell: str, step: int, values: Mapping[str, float]) -> None:
        """One metric for each value."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, cell: str, status: str, values: Mapping[str, float]) -> None:
        """The final figures as metrics, the status as a tag."""
        self.log(cell, 0, values)
        self._client.set_tag(self._run, "status", status)
        self._end("FINISHED" if status == "ok" else "FAILED")

    def close(self) -> str:
        """The command that shows it."""
        self._end("KILLED")
        return f"MLflow: mlflow ui --backend-store-uri {self.uri}"

    def _end(self, status: str) -> None:
        if self._run is not None:
            self._client.set_terminated(self._run, status)
        self._run = None


@hookimpl
def register_trackers(register: Callable[[Tracker], None]) -> None:
    """The tracker `mlflow`."""
    register(MLflow())
