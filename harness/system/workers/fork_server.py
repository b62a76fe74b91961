"""A process that has imported what workers need, and forks one for each cell.

A new interpreter imports torch, transformers, peft and trl for seconds, in the middle of phases
that are measured. `Servers` is the side of the process that has workers; `forked` is the server's.
They speak over a socket, which is the server's standard input, a request and its answer at a time.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from harness.system import hardware
from harness.system.workers import interruption

LOOK = 0.2
"""Seconds between two looks at whether to go on waiting for a server."""
_MESSAGE = 2**16
"""Bytes of a request at most."""


# ---- where workers are wanted --------------------------------------------------------------------


class Forked:
    """A worker that a server has forked; a zombie, whose number stays its own, until `wait`."""

    def __init__(self, pid: int, stream: int, server: Server) -> None:
        """Raises OSError where it is gone."""
        self.pid, self._server = pid, server
        self._handle = os.pidfd_open(pid)
        self.stream: IO[bytes] = os.fdopen(stream, "rb", buffering=0)
        self.code: int | None = None
        """Its exit code, minus the number of the signal that ended it; None before `wait`."""

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.code is not None or bool(select.select([self._handle], [], [], 0)[0])

    def wait(self) -> int:
        """Its exit code, once it has ended; a server that has ended took its worker along."""
        if self.code is None:
            select.select([self._handle], [], [])
            answer = self._server.ask({"reap": self.pid})
            self.code = answer["code"] if answer else -int(signal.SIGKILL)
            os.close(self._handle)
        return self.code


class Server:
    """One server, for workers of one environment."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: int) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def begun(self, wanted: Callable[[], interruption.Wanted | None]) -> bool:
        """Wait for it; whether it is ready to fork. It is closed where it is not."""
        while not select.select([self._socket], [], [], LOOK)[0]:
            if wanted() == "now":
                break
        else:
            if self._heard():
                return True
        self.close()
        return False

    def fork(self, arguments: Sequence[str], log: int) -> Forked | None:
        """A worker with these arguments, its standard error in `log`.

        None where the server has ended, and where the system does not let it fork.
        """
        read, write = os.pipe()
        try:
            answer = self.ask({"fork": arguments, "folder": str(Path.cwd())}, [write, log])
        finally:
            os.close(write)
        with suppress(OSError):  # the server ended after it had answered, and its worker with it
            if answer and "pid" in answer:
                return Forked(answer["pid"], read, self)
        os.close(read)
        return None

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """The answer to a request; None where the server has ended."""
        with self._lock, suppress(OSError):
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            return self._heard()
        return None

    def _heard(self) -> Any:
        """What the server says next, JSON; None where it has ended."""
        with suppress(ConnectionError):
            said = self._socket.recv(_MESSAGE)
            return json.loads(said) if said else None
        return None

    def close(self) -> None:
        """End it, and with it the workers that it has."""
        self._socket.close()
        self.process.kill()
        self.process.wait()


class Servers:
    """The servers of a run, each started when the first worker of its environment is wanted."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._by_environment: dict[frozenset[tuple[str, str]], Server | None] = {}
        self._lock = threading.Lock()

    def of(
        self,
        environment: Mapping[str, str],
        log: int,
        wanted: Callable[[], interruption.Wanted | None],
    ) -> Server | None:
        """The server for workers of an environment, once it is ready; its imports may say much.

        That goes to `log`. None where there is no server, and where `wanted` says `now` before it
        is ready.
        """
        key = frozenset(environment.items())
        with self._lock:
            if key not in self._by_environment:
                server = Server(self._command, environment, log)
                self._by_environment[key] = server if server.begun(wanted) else None
            return self._by_environment[key]

    def close(self) -> None:
        """End all servers."""
        for server in filter(None, self._by_environment.values()):
            server.close()


_open: list[Servers] = []


def possible() -> bool:
    """Whether workers can be forked: on Linux without a GPU.

    A forked child cannot use a GPU whose driver its parent has opened, as importing bitsandbytes
    does.
    """
    return hasattr(os, "pidfd_open") and hardware.facts().device == "cpu"


@contextmanager
def serving(command: Sequence[str]) -> Iterator[None]:
    """Within it workers are forked from servers, which `command` runs, where that is `possible`."""
    if not possible():
        yield
        return
    servers = Servers(command)
    _open.append(servers)
    try:
        yield
    finally:
        _open.remove(servers)
        servers.close()


def current() -> Servers | None:
    """The servers of the run that is at work; None where workers are not forked."""
    return _open[-1] if _open else None


# ---- the server ----------------------------------------------------------------------------------


def abandoned() -> bool:
    """Whether the process that this server is for has gone, or closed it."""
    with socket.socket(fileno=os.dup(0)) as requests, suppress(BlockingIOError):
        return not requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False


def forked() -> list[str] | None:
    """Fork a worker at each request. Returns in the workers, with their arguments; else with None.

    To be called once everything is imported, and before any thread is started.
    """
    requests = socket.socket(fileno=os.dup(0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 2):  # what imports had to say is in the log
        os.dup2(nowhere, descriptor)
    gc.collect()
    gc.freeze()  # collections of workers neither traverse nor copy what is imported
    with requests, suppress(ConnectionError):
        requests.send(b'{"ready": true}')
        while True:
            text, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE, 2)
            if not text:
                return None
            request = json.loads(text)
            answer = _reap(request["reap"]) if "reap" in request else _fork(request, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            if answer is None:
                arguments: list[str] = request["fork"]
                return arguments
            requests.send(json.dumps(answer).encode())
    return None


def _reap(pid: int) -> dict[str, Any]:
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status)}


def _fork(request: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any] | None:
    """The answer to a request for a worker; None in the worker."""
    try:
        pid = os.fork()
    except OSError as error:
        return {"error": str(error)}
    if pid:
        return {"pid": pid}
    _become_worker(request, *descriptors)
    return None


def _become_worker(request: Mapping[str, Any], stream: int, log: int) -> None:
    """A session, streams and a folder of its own, as a new process would have."""
    os.setsid()
    os.dup2(stream, 1)
    os.dup2(log, 2)
    os.chdir(request["folder"])
    from setproctitle import setproctitle

    os.environ["SPT_NOENV"] = "1"  # else the title takes the place of /proc/PID/environ
    setproctitle(" ".join(["harness.runner.worker", *request["fork"]]))
    del os.environ["SPT_NOENV"]
