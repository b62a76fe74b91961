"""An executor: where the cells of a run are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar


class Executor:
    """Where cells run. Subclass it and set `name`."""

    name: ClassVar[str]

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, Any]]:
        """Run `python -m harness.runner.worker job_file` and yield the events that it reports.

        The last event is `{"event": "exit", "code": int}`. Closing the generator stops the worker.
        """
        raise NotImplementedError
