"""An executor: where the cells of a run are computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from typing_extensions import Self

from harness.config import strict_yaml
from harness.config.strict_yaml import StrictModel
from harness.system import child_process
from harness.system.workers import fork_server, interruption, worker_process
from harness.types import Event


class ExecutorOptions(StrictModel):
    """What `--executor-option KEY=VALUE` may set. Fields are annotated; docstrings are the help."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Executor:
    """Where cells run. Subclass it, set `name` and write `run`."""

    name: ClassVar[str]
    """What `harness run --executor` says."""
    concurrency: int = 1
    """Cells that it runs at once; each has its own call of `run`.

    Above 1, `run` is called in threads: it may share no state between calls that is not locked, and
    must not change the working folder.
    """

    on_this_machine: ClassVar[bool] = False
    """Whether its workers run on this machine, started with `harness.worker_environment()`.

    Then `harness run --jobs` sets how many run at once in place of `concurrency`, and each has a
    GPU, or its share of the cores, of its own. `run` must work in threads, as above.
    """

    @property
    def forks(self) -> bool:
        """Whether `harness run` enters `harness.forked_workers()` for it, where that saves time."""
        return False

    Options: ClassVar[type[ExecutorOptions]] = ExecutorOptions
    """What a user may set."""
    options: Any
    """The user's `Options`, once it has them by `with_options`."""

    def with_options(self, options: Mapping[str, object]) -> Self:
        """A copy with its `options`, checked. Raises UserError for those that are none."""
        own = copy.copy(self)
        what = f"--executor-option of '{self.name}'"
        own.options = strict_yaml.validate_options(self.Options, options, what=what)
        return own

    def session(self, device: str, note: Callable[[str], None]) -> AbstractContextManager[None]:
        """What the cells of one run have in common, such as a connection; entered before the first.

        `device` is what they were planned for: `cuda`, `cpu` or another of torch's. `note` is
        called with a line that the user should see. Raises UserError where no cell can run.
        `concurrency` is read inside it; where nothing is to run it is not entered.
        """
        return nullcontext()

    def run(self, job_file: Path, log_file: Path) -> Iterator[Event]:
        """Run `harness.worker_command(job_file)` and yield the events that it reports.

        The worker writes an event a line on its standard output, as JSON; its standard error
        belongs into `log_file`. The last event is `{"event": "exit", "code": int}`, which the
        executor adds. Closing the generator stops the worker. The job file and the results folder
        that it names must be where the worker runs. Raises CellFailed where this cell cannot be
        run, which becomes its record.

        Where `harness.stop_wanted()` says `soon`, it has the worker told to stop (SIGTERM: it goes
        on to its next safe point, reports `{"event": "stopped"}` and exits) and yields `{"event":
        "stopping", "seconds": float}`, the time that it has; where that says `now`, it kills the
        worker. `{"event": "idle"}`, every few seconds in which the worker says nothing, has its
        silence noticed. `harness.worker_events` does all that. An executor that does not is closed
        at its next event.
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


def stop_wanted() -> Literal["soon", "now"] | None:
    """Whether the worker that this thread runs is to stop; None: it goes on.

    `soon` where the run is interrupted or the worker's `budget.max_minutes` are over, and `now`
    where it was interrupted twice or the worker has had its time for it.
    """
    return interruption.wanted()


def worker_events(
    job_file: Path,
    log_file: Path,
    environment: Mapping[str, str] | None = None,
    wanted: Callable[[], Literal["soon", "now"] | None] = stop_wanted,
) -> Iterator[Event]:
    """Run `worker_command(job_file)` as a child of this process; what `Executor.run` yields.

    `environment` is added to `worker_environment()`. Its standard error is appended to `log_file`.
    `wanted` says whether it is to stop, as `stop_wanted` does; another is for a process that the
    run did not start itself.
    """
    variables = {**worker_environment(), **(environment or {})}
    yield from worker_process.events(
        worker_command(job_file), log_file, variables, wanted, fork_server.current()
    )


def forked_workers() -> AbstractContextManager[None]:
    """Within it `worker_events` forks workers from a process that has imported torch and the rest.

    For whatever runs more than one cell: a new interpreter imports them for seconds. With a GPU,
    and on other systems than Linux, workers are new interpreters here too.
    """
    return fork_server.serving(child_process.command("harness.runner.worker_server"))
