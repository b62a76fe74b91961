"""Work that one process at a time may do, of all that share a folder, on several machines too.

A lock is the system's (flock(2)) and ends with its process, however that ends. Where the file
system has none it is a lease: a file that its holder touches, and that another takes over once it
was not touched for `LEASE` seconds, or at once where its process is gone from the same machine.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.system.paths import in_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["FOLDER", "LEASE", "Locks", "Taken", "is_abandoned"]

FOLDER = "locks"
"""Of a results folder: a file for each lock that is held."""
LEASE = 60.0
"""Seconds without a touch after which a lease is another's; three touches fall into them."""
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What a file system says that locks no files."""


class Taken(UserError):
    """Another process is at it; `holder` says which, in words."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"{name}: {holder} is at work there: wait for its end")
        self.holder = holder


class Locks:
    """The locks of a folder, which is made with the first of them; any thread may take one."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._known: dict[str, BaseFileLock] = {}
        """A lease is only known to be stale to an object that has seen it for long."""

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold one while the block runs. Raises Taken where another holds it."""
        file = self._folder / f"{name}.lock"
        lock = self._taken(name, file)
        try:
            yield
        finally:
            with suppress(OSError):  # while it is held, so that nobody holds a name that is gone
                file.unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):  # others are held there
                self._folder.rmdir()

    @contextmanager
    def waited_for(self, name: str, seconds: float) -> Iterator[None]:
        """Hold one that others hold for moments; not held where that takes more than `seconds`."""
        until = time.monotonic() + seconds
        with ExitStack() as stack:
            while time.monotonic() < until:
                try:
                    stack.enter_context(self.held(name))
                    break
                except Taken:
                    time.sleep(0.05)
            yield

    def _taken(self, name: str, file: Path) -> BaseFileLock:
        from filelock import Timeout

        lock = self._known.get(name) or _native(file)
        try:
            try:
                self._acquire(lock)
            except OSError as error:
                if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
                    raise
                lock = _lease(file)
                self._acquire(lock)
        except Timeout:
            raise Taken(str(file), _holder(file, lock)) from None
        except OSError as error:
            if error.errno != errno.ESTALE:  # of a network's disk: unlinked by its last holder
                raise
            raise Taken(str(file), "another process") from None
        finally:
            self._known[name] = lock
        if _is_native(lock):
            _sign(file)
        return lock

    def _acquire(self, lock: BaseFileLock) -> None:
        """Take a lock without waiting. Raises Timeout where another has it, and OSError."""
        in_folder(self._folder, lambda: lock.acquire(blocking=False))


def _native(file: Path) -> BaseFileLock:
    from filelock import FileLock

    return FileLock(file, fallback_to_soft=False)


def _lease(file: Path) -> BaseFileLock:
    from filelock import SoftFileLease

    return SoftFileLease(file.with_suffix(".lease"), lease_duration=LEASE)


def _is_native(lock: BaseFileLock) -> bool:
    from filelock import FileLock

    return isinstance(lock, FileLock)


def _sign(file: Path) -> None:
    """Write into a lock's file who holds it, for others to tell."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    with suppress(OSError):  # a full disk: the lock holds all the same
        file.write_text(json.dumps(holder), encoding="utf-8")


def _holder(file: Path, lock: BaseFileLock) -> str:
    """Who holds a lock, in words."""
    from filelock import SoftFileLease

    if isinstance(lock, SoftFileLease):
        owner = lock.owner
        return "another process" if owner is None else _process(owner.pid, owner.hostname)
    try:
        signed = json.loads(file.read_text(encoding="utf-8"))
        since = time.strftime("%H:%M", time.localtime(signed["since"]))
        return f"{_process(signed['pid'], signed['host'])}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def is_abandoned(file: Path) -> bool:
    """Whether a lock's file is all that is left of a process of this machine that is gone."""
    import psutil
    from filelock import SoftFileLease

    lock = _lease(file) if file.suffix == ".lease" else None
    try:
        if isinstance(lock, SoftFileLease):
            owner = lock.owner
            signed: dict[str, Any] = {"pid": owner.pid, "host": owner.hostname} if owner else {}
        else:
            signed = json.loads(file.read_text(encoding="utf-8"))
        return signed["host"] == socket.gethostname() and not psutil.pid_exists(int(signed["pid"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return False


def _process(pid: int, host: str) -> str:
    return f"process {pid}" + ("" if host == socket.gethostname() else f" on {host}")
