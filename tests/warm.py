"""An executor whose workers are forked from one process that has torch imported already.

Each cell still runs in a process of its own, through `harness.runner.worker`; only the seconds
that a new interpreter spends on importing are saved. Run as a script this file is that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


class Warm:
    """`harness.Executor` by duck typing, so that this file imports no harness."""

    name = "warm"
    on_this_machine = False
    concurrency = 1

    def __init__(self, *paths: Path) -> None:
        found = os.pathsep.join(map(str, [Path(__file__).parent.parent, *paths]))
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": found},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def with_options(self, options: Mapping[str, object]) -> Warm:
        return self

    def session(self, device: str, note: object) -> Any:
        return contextlib.nullcontext()

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, Any]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(job_file), str(log_file)]), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            event = json.loads(line)
            yield event
            if event["event"] == "exit":
                return

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()


class Several:
    """Workers of one warm process side by side.

    The cell's own worker stands still from the moment that others may help it until `ready()`.
    """

    name = "several"
    on_this_machine = False
    concurrency = 1

    def __init__(self, warm: Warm, folder: Path, ready: Callable[[], bool]) -> None:
        self.process, self.folder, self.ready = warm.process, folder, ready
        self.helpers = 0
        self._lock = threading.Lock()

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, Any]]:
        assert self.process.stdin is not None
        with self._lock:
            self.helpers += bool(json.loads(job_file.read_text())["helps_with"])
            place = self.folder / f"{time.monotonic_ns()}.fifo"
            os.mkfifo(place)
            asked = json.dumps([str(job_file), str(log_file), str(place)])
            print(asked, file=self.process.stdin, flush=True)
        with place.open() as lines:
            worker = json.loads(lines.readline())["pid"]
            for event in map(json.loads, lines):
                if event["event"] == "shared":
                    os.kill(worker, signal.SIGSTOP)
                yield event
                if event["event"] == "shared":
                    while not self.ready():
                        time.sleep(0.01)
                    os.kill(worker, signal.SIGCONT)


def _serve() -> None:
    from harness.runner import libraries, worker

    libraries.imported([*libraries.TRAINING, *libraries.SUITES])
    for line in sys.stdin:
        job, log, *place = json.loads(line)
        if place and os.fork():
            continue
        if place:
            os.dup2(os.open(place[0], os.O_WRONLY), 1)
        child = os.fork()
        if child and place:
            os.write(1, (json.dumps({"pid": child}) + "\n").encode())
        if not child:
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
            code = 1
            try:
                code = worker.main([job])
            finally:
                os._exit(code)
        os.write(1, (json.dumps({"event": "forked", "pid": child}) + "\n").encode())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, (json.dumps({"event": "exit", "code": status}) + "\n").encode())
        if place:
            os._exit(0)


if __name__ == "__main__":
    _serve()
