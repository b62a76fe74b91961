"""Signals to real processes: no worker outlives the command that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.system import worker_process

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

FORKS = """
import os, time

child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
print(child, "last words", sep="\\n", end="", flush=True)
"""

STOPPED_TWICE = """
import subprocess, sys
from harness.system import worker_process

ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
worker = subprocess.Popen(
    [sys.executable, "-c", ignores + "; time.sleep(60)"], stdout=subprocess.PIPE, text=True
)
worker.stdout.readline()
print(worker.pid, flush=True)
worker_process._stop(worker)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_worker_ends_with_its_parent_also_where_it_ignores_sigterm() -> None:
    with started(PARENT, CHILD) as parent:
        assert parent.stderr is not None
        worker = int(parent.stderr.readline())
        parent.kill()
    assert ends(worker)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
def test_a_second_ctrl_c_kills_a_worker_that_ignores_sigterm() -> None:
    command = started(STOPPED_TWICE)
    assert command.stdout is not None
    worker = int(command.stdout.readline())
    time.sleep(0.5)
    assert not ends(worker, 0.2)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=15)
    assert ends(worker)


def test_a_worker_is_over_when_it_ends_whatever_it_forked_lives_on() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE) as worker:
        child, said = worker_process._lines(worker)
        assert said == b"last words"
        assert not ends(int(child), 0.2)
        os.kill(int(child), signal.SIGKILL)
