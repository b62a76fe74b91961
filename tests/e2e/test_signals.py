"""Signals to real processes: no worker outlives the command that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.system.workers import worker_process

COMMAND = """
import sys, time
from harness.cli.main import cli, main

@cli.command()
def wait():
    print("ready", flush=True)
    time.sleep(60)

sys.argv = ["harness", "wait"]
main()
"""

CHILD = """
import os, signal, sys, time
from harness.system.child_process import begin

signal.signal(signal.SIGTERM, signal.SIG_IGN)
begin()
sys.stderr.write(f"{os.getpid()}\\n")
time.sleep(60)
"""

PARENT = """
import subprocess, sys, time

subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""

WORKER = """
import json, os, signal, sys, time

child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
    os._exit(0)
pids = [os.getpid(), child]

def stop(*_):
    if sys.argv[1] == "heeds":
        print(json.dumps({"event": "stopped"}), flush=True)
        os._exit(143)

signal.signal(signal.SIGTERM, stop)
print(json.dumps({"event": "up", "pids": pids}), flush=True)
if sys.argv[1] == "ends":
    print("last words", end="", flush=True)
    os._exit(3)
until = time.monotonic() + 60
while time.monotonic() < until:
    time.sleep(1)
"""

HAS_WORKER = """
import json, os, sys
from pathlib import Path
from harness.system.workers import interruption, worker_process

worker_process.IDLE = interruption.SECONDS_AFTER_LIMIT = 0.5
kind, minutes, code = sys.argv[1:]
command = [sys.executable, "-c", code, kind]
with interruption.heeded(), interruption.limited(float(minutes) or None):
    for event in worker_process.events(command, Path(os.devnull), os.environ):
        print(json.dumps(event), flush=True)
"""

ROOT = Path(__file__).parent.parent.parent


def _heeded() -> None:
    """What started the tests may ignore signals, as `nohup` and `&` do, and children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heeded,
    )


def ends(pid: int, seconds: float = 10) -> bool:
    """Whether a process that need not be a child of this one is gone within `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":  # ended, and nobody has asked how
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_as_ctrl_c_does(number: signal.Signals, code: int) -> None:
    command = started(COMMAND)
    assert command.stdout is not None
    assert command.stdout.readline() == "ready\n"
    command.send_signal(number)
    _, said = command.communicate(timeout=20)
    assert command.returncode == code
    assert said.strip() == "Interrupted: everything finished so far is recorded."


def test_an_interrupted_command_says_what_it_keeps() -> None:
    says = COMMAND.replace("    time.sleep(60)", "    raise KeyboardInterrupt('2 of 3 are kept')")
    command = started(says)
    _, said = command.communicate(timeout=20)
    assert command.returncode == 130
    assert said.strip() == "Interrupted: 2 of 3 are kept"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_worker_ends_with_its_parent_also_where_it_ignores_sigterm() -> None:
    with started(PARENT, CHILD) as parent:
        assert parent.stderr is not None
        worker = int(parent.stderr.readline())
        parent.kill()
    assert ends(worker)


def with_worker(kind: str, minutes: float = 0) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that has a worker, and the pids of that worker and of what it has forked."""
    parent = started(HAS_WORKER, kind, str(minutes), WORKER)
    return parent, told(parent)["pids"]


def told(parent: subprocess.Popen[str], *, but: str = "idle") -> dict[str, Any]:
    """The next event of its worker."""
    assert parent.stdout is not None
    for line in parent.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] != but:
            return event
    return {"event": "none"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_nothing_of_a_worker_outlives_its_parent_whatever_ended_that(
    number: signal.Signals,
) -> None:
    parent, pids = with_worker("ignores")
    with parent:
        parent.send_signal(number)
        if (
            number != signal.SIGKILL
        ):  # kept until the worker is at a safe point, of which it knows none
            assert told(parent)["event"] == "stopping"
            parent.kill()
    assert all(ends(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_has_a_worker_go_on_to_its_safe_point(number: signal.Signals) -> None:
    parent, pids = with_worker("heeds")
    with parent:
        parent.send_signal(number)
        assert [told(parent) for _ in range(3)] == [
            {"event": "stopping", "seconds": 600.0},
            {"event": "stopped"},
            {"event": "exit", "code": 143},
        ]
    assert parent.returncode == -number  # the signal is heeded as ever, after that
    assert all(ends(pid) for pid in pids)


def test_a_second_ctrl_c_kills_a_worker_that_knows_no_safe_point_and_all_that_it_forked() -> None:
    parent, pids = with_worker("ignores")
    with parent:
        parent.send_signal(signal.SIGINT)
        assert told(parent)["event"] == "stopping"
        assert not any(ends(pid, 0.5) for pid in pids)
        parent.send_signal(signal.SIGINT)
    assert all(ends(pid) for pid in pids)


def test_a_worker_whose_time_is_up_is_killed_with_all_that_it_forked() -> None:
    parent, pids = with_worker("ignores", 0.02)
    with parent:
        assert told(parent) == {"event": "stopping", "seconds": 0.5}
        assert told(parent) == {"event": "exit", "code": -9}
    assert parent.returncode == 0
    assert all(ends(pid) for pid in pids)


def test_a_silent_worker_is_told_of_and_not_stopped() -> None:
    parent, pids = with_worker("ignores")
    with parent:
        assert [told(parent, but="none")["event"] for _ in range(2)] == ["idle", "idle"]
        assert not any(ends(pid, 0.1) for pid in pids)
        parent.kill()


def test_what_a_worker_forked_ends_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", WORKER, "ends"]
    up, end = worker_process.events(command, log, os.environ)
    assert end == {"event": "exit", "code": 3}
    assert log.read_text() == "last words"
    assert all(ends(pid) for pid in up["pids"])  # type: ignore[attr-defined]
