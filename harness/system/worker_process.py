"""A cell's worker as a child of this process: started, listened to, and ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 20
"""Seconds that a worker gets to end after it was told to stop."""


def events(
    command: Sequence[str], log_file: Path, environment: Mapping[str, str]
) -> Iterator[Mapping[str, object]]:
    """Start a worker and yield the events that it reports; the last is its exit code.

    Events come as JSON lines on its standard output; the rest goes to the log. Closing the
    generator ends the worker.
    """
    worker = None
    with log_file.open("ab") as log:
        try:
            with _uninterrupted():
                worker = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                )
            for line in _lines(worker):
                event = _event(line)
                if event is not None:
                    yield event
                else:  # something else than the worker wrote into its stream
                    log.write(line)
            yield {"event": "exit", "code": worker.wait()}
        finally:
            if worker is not None:
                _stop(worker)


def _lines(worker: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a worker writes, line by line, until it ends.

    Not until the stream ends: a process that a method has forked holds it open for as long as it
    lives.
    """
    assert worker.stdout is not None
    stream, rest = worker.stdout.fileno(), b""
    while True:
        ended = worker.poll() is not None
        ready, _, _ = select.select([stream], [], [], 0 if ended else 1)
        chunk = os.read(stream, 2**16) if ready else b""
        if not chunk and (ready or ended):
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _event(line: bytes) -> Mapping[str, object] | None:
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


def _stop(worker: subprocess.Popen[bytes]) -> None:
    """End a worker; kill one that does not end in time, or where Ctrl-C comes a second time."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
        try:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(PATIENCE)
        finally:  # also where Ctrl-C comes again
            if worker.poll() is None:
                worker.kill()
                worker.wait()
