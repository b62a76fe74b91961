"""Runs cells as jobs of Slurm, by submitit, on a disk that all machines share.

A job runs the worker and appends the events that it reports to a file, whose lines are read here.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness import (
    CellFailed,
    EnvironmentLack,
    Executor,
    ExecutorOptions,
    Parcel,
    hookimpl,
    stop_wanted,
    worker_events,
)

LOOK = 0.5
"""Seconds between two looks at a job's events, and at whether its worker is to stop."""


class SubmititOptions(ExecutorOptions):
    """What a job asks Slurm for."""

    cluster: Literal["slurm", "local"] = "slurm"
    """`local`: jobs are processes of this machine, to try it out."""
    partition: str | None = None
    """Default: the cluster's own."""
    account: str | None = None
    """Whom Slurm charges, where it asks."""
    gpus: int | None = Field(None, ge=0)
    """GPUs of a cell. Default: 1 where the plan is for CUDA, else 0."""
    cpus: int = Field(4, ge=1)
    """Cores of a cell."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory of a cell. Default: the cluster's own."""
    minutes: int = Field(24 * 60, ge=1)
    """After which Slurm ends a job."""
    at_once: int = Field(16, ge=1)
    """Jobs that are queued or run at once."""


class Submitit(Executor):
    """Cells as jobs of Slurm, by submitit, on a disk that all machines share."""

    name = "submitit"
    Options = SubmititOptions
    options: SubmititOptions

    @contextmanager
    def session(self, device: str, note: Callable[[str], None]) -> Iterator[None]:
        """Jobs can be submitted."""
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise EnvironmentLack(
                "--executor submitit needs submitit: pip install 'finetune-harness[slurm]'"
            ) from None
        options = self.options
        if options.cluster == "slurm" and not shutil.which("sbatch"):
            raise EnvironmentLack(
                "--executor submitit: there is no Slurm here (no sbatch on the PATH): run this on "
                "a login node of the cluster"
            )
        gpus = (device == "cuda") if options.gpus is None else options.gpus
        self._asked = {
            "timeout_min": options.minutes,
            "cpus_per_task": options.cpus,
            "gpus_per_node": int(gpus),
            "mem_gb": options.memory_gb,
            "slurm_partition": options.partition,
            "slurm_account": options.account,
        }
        self.concurrency = options.at_once
        yield

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, object]]:
        """One job; Slurm's own files lie in `logs/submitit`."""
        import submitit

        executor = submitit.AutoExecutor(log_file.parent / "submitit", cluster=self.options.cluster)
        asked = {key: value for key, value in self._asked.items() if value is not None}
        executor.update_parameters(name=log_file.stem, **asked)
        events, stop = log_file.with_suffix(".events"), log_file.with_suffix(".stop")
        stop.unlink(missing_ok=True)
        events.unlink(missing_ok=True)
        events.touch()
        job = executor.submit(_work, *map(str, (job_file, log_file, events, stop)))
        try:
            yield from _events(job, Parcel(job_file, log_file), events, stop)
        finally:
            if not job.done():
                job.cancel()
            events.unlink(missing_ok=True)
            stop.unlink(missing_ok=True)


def _work(job_file: str, log_file: str, events: str, stop: str) -> None:
    """Run the worker, in a job: append its events, and heed the file that says to stop."""
    parcel = Parcel(Path(job_file), Path(log_file))
    with Path(events).open("ab") as sink:
        for event in worker_events(
            Path(job_file), Path(log_file), None, lambda: "soon" if Path(stop).exists() else None
        ):
            if event["event"] == "exit":
                event = {**event, "record": parcel.record_digest}
            sink.write(json.dumps(event).encode() + b"\n")
            sink.flush()
            os.fsync(sink.fileno())


def _events(job: Any, parcel: Parcel, events: Path, stop: Path) -> Iterator[Mapping[str, object]]:
    """The lines of a job's events. Raises CellFailed for a job that ends without a last one."""
    rest, done = b"", False
    with events.open("rb") as source:
        while not done:
            done = job.done()  # before reading: what a job wrote before its end is read
            *lines, rest = (rest + source.read()).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["event"] == "exit":
                    parcel.wait_for_record(event.pop("record"))
                    yield event
                    return
                yield event
            if (wanted := stop_wanted()) == "now":
                return
            if wanted:
                stop.touch()
            time.sleep(LOOK)
    raise CellFailed(
        f"the job {job.job_id} ended as {job.state} before its worker did: see {job.paths.stderr}"
    )


@hookimpl
def register_executors(register: Callable[[Executor], None]) -> None:
    """The executor `submitit`."""
    register(Submitit())
