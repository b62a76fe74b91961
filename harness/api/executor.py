"""An executor: where the cells of a run are computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from harness.system import child_process
from harness.types import Event


class Executor:
    """Where cells run. Subclass it, set `name` and write `run`."""

    name: ClassVar[str]
    """What `harness run --executor` says."""
    concurrency: ClassVar[int] = 1
    """Cells that it runs at once; each has its own call of `run`.

    Above 1, `run` is called in threads: it may share no state between calls that is not locked, and
    must not change the working folder. When the run is interrupted its generator is closed at the
    next event of its worker.
    """

    on_this_machine: ClassVar[bool] = False
    """Whether its workers run on this machine, started with `harness.worker_environment()`.

    Then `harness run --jobs` sets how many run at once in place of `concurrency`, and each has a
    GPU, or its share of the cores, of its own. `run` must work in threads, as above.
    """

    def run(self, job_file: Path, log_file: Path) -> Iterator[Event]:
        """Run `harness.worker_command(job_file)` and yield the events that it reports.

        The worker writes an event a line on its standard output, as JSON; its standard error
        belongs into `log_file`. The last event is `{"event": "exit", "code": int}`, which the
        executor adds. Closing the generator stops the worker. The job file and the results folder
        that it names must be where the worker runs.
        """
        raise NotImplementedError


def worker_command(job_file: Path) -> list[str]:
    """The command that runs one cell, with this Python, in `worker_environment()`."""
    return child_process.command("harness.runner.worker", str(job_file))


def worker_environment() -> dict[str, str]:
    """The environment variables for `worker_command`: this process's own, and what workers need.

    To be asked for in `run`, for each worker: they say which GPU it has.
    """
    return child_process.environment()
