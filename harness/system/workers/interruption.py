"""When workers are to end: the run was interrupted, or a worker's time is up.

The first SIGINT (Ctrl-C), SIGTERM or SIGHUP is a wish: no further cell starts, and each worker is
told to go on to its next safe point. The second is an order: workers are killed. This is the side
of the process that has workers; `stopping` is theirs.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Literal

__all__ = [
    "SECONDS_AFTER_LIMIT",
    "SECONDS_TO_SAFE_POINT",
    "asked",
    "heeded",
    "limited",
    "out_of_time",
    "wanted",
    "wanted_for",
]

SECONDS_TO_SAFE_POINT = 600.0
"""That a worker gets after the first signal, in which a checkpoint of many billion weights is
written; a scheduler's own limit is often shorter."""
SECONDS_AFTER_LIMIT = 60.0
"""The same where its time is up: it may well hang."""

Wanted = Literal["soon", "now"]
_Handler = Callable[[int, FrameType | None], object] | int | None


class _Wish:
    """What was asked of this process."""

    since: float | None = None
    """When the first signal came, on the monotonic clock."""
    now: bool = False
    """Whether a second one came."""


_wish = _Wish()
_LIMIT: ContextVar[float | None] = ContextVar("LIMIT", default=None)
"""When the time of this thread's worker is up, on the monotonic clock."""


def wanted() -> Wanted | None:
    """Whether the worker that this thread runs is to end: `soon` at a safe point, or `now`."""
    seconds = wanted_for()
    if seconds is None:
        return None
    patience = SECONDS_AFTER_LIMIT if _wish.since is None else SECONDS_TO_SAFE_POINT
    return "now" if _wish.now or seconds > patience else "soon"


def wanted_for() -> float | None:
    """For how many seconds it has been to end; None where it is not."""
    now = time.monotonic()
    if _wish.since is not None:
        return now - _wish.since
    limit = _LIMIT.get()
    return None if limit is None or limit > now else now - limit


def asked() -> bool:
    """Whether this process was told to end, once at least."""
    return _wish.since is not None


def out_of_time() -> bool:
    """Whether the time of this thread's worker is up."""
    limit = _LIMIT.get()
    return limit is not None and limit <= time.monotonic()


@contextmanager
def limited(minutes: float | None) -> Iterator[None]:
    """From now on the worker of this thread has so many minutes; None: no limit."""
    before = _LIMIT.set(None if minutes is None else time.monotonic() + 60 * minutes)
    try:
        yield
    finally:
        _LIMIT.reset(before)


@contextmanager
def heeded() -> Iterator[None]:
    """Keep the first signal that comes while the block runs, and heed it as usual after that.

    The second raises KeyboardInterrupt. Signals that this process ignores (`nohup`) stay ignored.
    Outside the main thread nothing is kept, for signals come to that one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _wish.since, _wish.now = None, False
    first: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if first:
            _wish.now = True
            if callable(handler := before[number]):
                handler(number, frame)
            raise KeyboardInterrupt
        first.append(number)
        _wish.since = time.monotonic()

    before: dict[int, _Handler] = {}
    for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, keep)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _wish.since, _wish.now = None, False
    if first:
        signal.raise_signal(first[0])
