"""A time limit for patterns and templates that a user wrote and that may run for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import UserError

__all__ = ["TEMPLATE_SECONDS", "TooSlow", "time_limit"]


TEMPLATE_SECONDS = 5
"""For one conversation: a template renders thousands of them in a second."""


class TooSlow(UserError):
    """A pattern or a template took longer than it may."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise TooSlow where the block takes longer than `seconds`; `what` begins its sentence.

    By SIGALRM, which Python's regular expressions and everything that Python itself runs heed.
    Outside the main thread, or where a timer runs already, there is no limit.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(*_: object) -> None:
        raise TooSlow(f"{what} took more than {seconds:g} s: simplify it")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
