"""Runs cells as child processes of this one."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness import Executor, hookimpl, worker_events


class Local(Executor):
    """Workers on this machine: one at a time, or as many as `--jobs` says."""

    name = "local"
    on_this_machine = True

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, object]]:
        """A child of this process."""
        yield from worker_events(job_file, log_file)


@hookimpl
def register_executors(register: Callable[[Executor], None]) -> None:
    """The executor `local`."""
    register(Local())
