"""Workers that a server forks have a session, streams, a folder and an end of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.system.workers import fork_server, worker_process
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    not fork_server.possible(),
    reason="workers are forked on Linux without a GPU",
)

WORKER = """
import ctypes, json, os, subprocess, sys, time
from harness.system.child_process import begin
from harness.system.workers import stopping

def work(what):
    stopping.on_request()
    emit = begin()
    emit(event="phase", name=what, pid=os.getpid(), parent=os.getppid(), session=os.getsid(0),
         folder=os.getcwd(), variable=os.environ.get("OWN"), stdin=sys.stdin.read())
    print(f"log of {what}", file=sys.stderr, flush=True)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "leaves":
        subprocess.Popen(["sleep", "600"])
    while what == "waits" and not stopping.requested():
        time.sleep(0.01)
    return {"fails": 3}.get(what, 0)
"""
SERVER = (
    WORKER
    + """
from harness.system.workers.fork_server import forked
arguments = forked()
sys.exit(0 if arguments is None else work(*arguments))
"""
)
FRESH = WORKER + "\nsys.exit(work(sys.argv[1]))\n"


def command(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def started(what: str, log: Path, **more: str) -> Generator[Any]:
    yield from worker_process.events(
        command(FRESH, what), log, environment(**more), servers=fork_server.current()
    )


def run(what: str, log: Path, **more: str) -> tuple[dict[str, Any], int]:
    """What a worker says of itself, and its exit code."""
    first, *_, last = started(what, log, **more)
    return first, last["code"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone(*pids: int) -> bool:
    until = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_workers_of_one_server_are_as_new_processes(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fork_server.serving(command(SERVER)):
        first, code = run("one", log)
        monkeypatch.chdir(tmp_path)
        second, _ = run("two", log)
        assert code == 0
        assert first["parent"] == second["parent"] != os.getpid()
        assert first["pid"] == first["session"] != second["session"] == second["pid"]
        assert (second["folder"], second["stdin"]) == (str(tmp_path), "")
        assert log.read_text().split("\n")[:2] == ["log of one", "log of two"]
    assert gone(first["parent"])


def test_another_environment_has_a_server_of_its_own(log: Path) -> None:
    with fork_server.serving(command(SERVER)):
        one, _ = run("one", log, OWN="1")
        events = started("waits", log, OWN="1")
        shown = psutil.Process(next(events)["pid"])
        assert shown.environ()["OWN"] == "1"
        assert " ".join(shown.cmdline()).strip() == "harness.runner.worker waits"
        events.close()
        two, _ = run("two", log, OWN="2")
        again, _ = run("three", log, OWN="1")
    assert [one["variable"], two["variable"]] == ["1", "2"]
    assert one["parent"] == again["parent"] != two["parent"]
    assert gone(one["parent"], two["parent"])


@pytest.mark.parametrize(("what", "code"), [("fails", 3), ("segfault", -signal.SIGSEGV)])
def test_the_exit_code_is_the_workers_and_the_server_goes_on(
    what: str, code: int, log: Path
) -> None:
    with fork_server.serving(command(SERVER)):
        before, found = run(what, log)
        after, fine = run("one", log)
    assert (found, fine) == (code, 0)
    assert before["parent"] == after["parent"]


def test_a_worker_that_is_killed_and_one_that_is_told_to_stop(log: Path) -> None:
    with fork_server.serving(command(SERVER)):
        for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
            events = started("waits", log)
            os.kill(next(events)["pid"], number)
            assert list(events)[-1] == {"event": "exit", "code": code}


def test_what_a_worker_leaves_behind_ends_with_it(log: Path) -> None:
    with fork_server.serving(command(SERVER)):
        events = started("leaves", log)
        worker = next(events)["pid"]
        assert list(events)[-1]["code"] == 0
        group = [p.pid for p in psutil.process_iter() if _group(p.pid) == worker]
    assert gone(*group)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_a_server_that_is_killed_takes_its_worker_along_and_the_next_is_a_new_process(
    log: Path,
) -> None:
    with fork_server.serving(command(SERVER)):
        events = started("waits", log)
        os.kill(next(events)["parent"], signal.SIGKILL)
        assert list(events)[-1] == {"event": "exit", "code": -signal.SIGKILL}
        after, code = run("one", log)
    assert (after["parent"], code) == (os.getpid(), 0)


def test_where_no_server_starts_workers_are_new_processes_and_the_log_says_why(log: Path) -> None:
    with fork_server.serving(command("raise SystemExit('no server here')")):
        for what in ("one", "two"):
            said, code = run(what, log)
            assert (said["parent"], code) == (os.getpid(), 0)
    assert log.read_text().startswith("no server here\n")


def test_a_second_interrupt_does_not_wait_for_imports(log: Path) -> None:
    slow = command("import time; time.sleep(600)")
    begun = time.monotonic()
    with fork_server.serving(slow):
        events = worker_process.events(
            command(FRESH, "waits"),
            log,
            environment(),
            lambda: "now" if time.monotonic() > begun + 1 else None,
            fork_server.current(),
        )
        assert list(events)[-1]["code"] == -signal.SIGKILL


DRIVER = """
import json, os, sys
from pathlib import Path
from tests.system.workers.test_fork_server import SERVER, command, started
from harness.system.workers import fork_server
with fork_server.serving(command(SERVER)):
    events = started("waits", Path(os.devnull))
    print(json.dumps(next(events)), flush=True)
    sys.stdin.read()
"""


def test_server_and_worker_end_with_a_process_that_is_killed() -> None:
    driver = subprocess.Popen(
        command(DRIVER), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with driver:
        assert driver.stdout is not None
        said = json.loads(driver.stdout.readline())
        assert alive(said["pid"])
        assert alive(said["parent"])
        driver.kill()
    assert gone(said["pid"], said["parent"])
