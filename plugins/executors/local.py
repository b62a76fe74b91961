"""Runs cells as child processes of this one."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness import Executor, ExecutorOptions, hookimpl, worker_events


class LocalOptions(ExecutorOptions):
    """How workers are started."""

    fork: bool = True
    """Whether workers of a machine without a GPU are forked from a process that has imported torch
    and the rest; false: each is a new interpreter (Linux; elsewhere they always are)."""


class Local(Executor):
    """Workers on this machine: one at a time, or as many as `--jobs` says."""

    name = "local"
    on_this_machine = True
    Options = LocalOptions
    options = LocalOptions()

    @property
    def forks(self) -> bool:
        """As the user says."""
        return self.options.fork

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, object]]:
        """A child of this process."""
        yield from worker_events(job_file, log_file)


@hookimpl
def register_executors(register: Callable[[Executor], None]) -> None:
    """The executor `local`."""
    register(Local())
