"""A cell's worker as a child of this process: started, listened to, and ended.

A worker leads a group of its own, of all that it starts or that a plugin forks in it. The group
ends with the worker, and also where this process ends first, however it does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.system.workers import interruption
from harness.system.workers.fork_server import Forked, Servers

PATIENCE = 20
"""Seconds that a worker gets to end after it was told to stop, where nobody waits for the rest."""
LOOK = 0.2
"""Seconds between two looks at whether it is to stop."""
IDLE = 5.0
"""Seconds between two events `idle`, where it says nothing."""

Told = Mapping[str, object]


class Started:
    """A worker in a new interpreter; it stays a zombie, and its number its own, until `wait`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: int) -> None:
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.stream: IO[bytes] = self._process.stdout

    @property
    def code(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None before `wait`."""
        return self._process.returncode

    def ended(self) -> bool:
        """Whether it has ended."""
        if self.code is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait()


Worker = Started | Forked


def events(
    command: Sequence[str],
    log_file: Path,
    environment: Mapping[str, str],
    wanted: Callable[[], interruption.Wanted | None] = interruption.wanted,
    servers: Servers | None = None,
) -> Iterator[Told]:
    """Start a worker and yield the events that it reports; the last is its exit code.

    Events come as JSON lines on its standard output; the rest goes to the log. `idle` comes while
    it says nothing, `stopping` where it was told to go on to its next safe point, with the
    `seconds` that it has for that. `wanted` says whether it is to stop. Closing the generator ends
    the worker. Where one of `servers` can fork it, it has the last word of `command` as argument.
    """
    worker: Worker | None = None
    guard = None
    with log_file.open("ab") as log:
        try:
            server = None
            if servers is not None:
                server = servers.of(environment, log.fileno(), wanted)
            with _uninterrupted():
                if server is not None:
                    worker = server.fork(command[-1:], log.fileno())
                if worker is None:
                    worker = Started(command, environment, log.fileno())
                guard = _guard(worker.pid)
            for line in _lines(worker, wanted):
                if not isinstance(line, bytes):
                    yield line
                elif (event := _event(line)) is not None:
                    yield event
                else:  # something else than the worker wrote into its stream
                    log.write(line)
            yield {"event": "exit", "code": worker.wait()}
        finally:
            if worker is not None:
                _stop(worker)
            if guard is not None:
                guard.kill()
                guard.communicate()


def _lines(
    worker: Worker,
    wanted: Callable[[], interruption.Wanted | None] = interruption.wanted,
) -> Iterator[bytes | Told]:
    """What a worker writes, line by line, until it ends, and events of what it does not say.

    Not until the stream ends: a process that has left the worker's group may hold it open, and
    what the worker started may run after its streams were closed.
    """
    stream, rest = worker.stream.fileno(), b""
    told, closed, heard = False, False, time.monotonic()
    while True:
        ended = worker.ended()
        if ended:
            _kill_group(worker)
        when = None if ended else wanted()
        if when == "now":
            _kill_group(worker)
        elif when == "soon" and not told:
            told = True
            _tell(worker)
            yield {"event": "stopping", "seconds": _patience()}
        pause = 0 if ended else LOOK / 10 if closed else LOOK
        ready, _, _ = select.select([] if closed else [stream], [], [], pause)
        chunk = os.read(stream, 2**16) if ready else b""
        closed = closed or bool(ready and not chunk)
        if ended and not chunk:
            break
        if chunk:
            heard = time.monotonic()
        elif time.monotonic() - heard > IDLE:
            heard = time.monotonic()
            yield {"event": "idle"}
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _patience() -> float:
    if interruption.asked():
        return interruption.SECONDS_TO_SAFE_POINT
    return interruption.SECONDS_AFTER_LIMIT


def _event(line: bytes) -> Told | None:
    """A line of the stream; None where it is no event."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back, so that no worker starts without being known.

    The worker inherits it: it is the parent that ends a worker, with SIGTERM.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _guard(group: int) -> subprocess.Popen[bytes] | None:
    """A process that kills the worker's group once this process has ended.

    It waits for its standard input to end, whose other side this process alone holds. None where
    there is no shell.
    """
    with suppress(OSError):
        return subprocess.Popen(
            ["/bin/sh", "-c", f"read -r line; kill -s KILL -- -{group}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return None


def _tell(worker: Worker) -> None:
    """SIGTERM to a worker that was not reaped; Popen's own way would reap one that has ended."""
    os.kill(worker.pid, signal.SIGTERM)


def _kill_group(worker: Worker) -> None:
    """Kill a worker that was not reaped yet, and all that it has started or forked."""
    if worker.code is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)


def _stop(worker: Worker) -> None:
    """End a worker; kill one that does not end in time, or where Ctrl-C comes a second time."""
    try:
        if interruption.wanted() != "now" and not worker.ended():
            _tell(worker)
            until = time.monotonic() + PATIENCE
            while not worker.ended() and time.monotonic() < until:
                time.sleep(0.05)
                if interruption.wanted() == "now":
                    break
    finally:  # also where Ctrl-C comes again
        _kill_group(worker)
        worker.wait()
        worker.stream.close()
