"""A wish to end: a worker that is told to stop ends where a later run can go on.

SIGTERM says so. It is kept, and whatever knows a safe point (the end of an optimizer step whose
checkpoint is written, the end of a block of samples, the start of a phase) asks for it there.
"""

from __future__ import annotations

import signal
import threading

_requested = threading.Event()


class Stopped(BaseException):
    """Raised at a safe point once a stop was asked for; no error, so that nothing records it."""


def on_request() -> None:
    """From now on keep SIGTERM instead of ending by it, where this is the main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: _requested.set())


def requested() -> bool:
    """Whether this process was told to stop."""
    return _requested.is_set()


def safe_point() -> None:
    """Raise Stopped where this process was told to stop: all that is finished is on disk."""
    if _requested.is_set():
        raise Stopped
