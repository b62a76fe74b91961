"""Locks of a folder, held by real processes: who has one, and what becomes of it when they die."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system import locks
from harness.system.locks import Locks, Taken

ROOT = Path(__file__).parent.parent.parent

HOLDS = """
import errno, fcntl, sys, time
from harness.system.locks import Locks

def missing(*_):
    raise OSError(errno.ENOSYS, "no locks here")

if sys.argv[2] == "lease":
    fcntl.flock = missing
with Locks(sys.argv[1]).held("cell"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder, kind):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder), kind], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    return other


def without_flock(monkeypatch, number=errno.ENOSYS):
    def missing(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", missing)


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_a_lock_is_its_processs_and_nobodys_once_that_was_killed(tmp_path, monkeypatch, kind):
    if kind == "lease":
        without_flock(monkeypatch)
    mine = Locks(tmp_path / "locks")
    with holder(tmp_path / "locks", kind) as other:
        with pytest.raises(Taken) as taken, mine.held("cell"):
            pass
        assert taken.value.holder.startswith(f"process {other.pid}")
        with mine.held("another cell"):
            pass
        other.kill()
        other.wait()
        with mine.held("cell"):
            pass


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_a_lock_that_was_let_go_leaves_no_file(tmp_path, monkeypatch, kind):
    if kind == "lease":
        without_flock(monkeypatch)
    mine, others = Locks(tmp_path / "locks"), Locks(tmp_path / "locks")
    for _ in range(2):
        with mine.held("cell"):
            assert list((tmp_path / "locks").iterdir())
            with pytest.raises(Taken, match=f"process {os.getpid()}.* wait for its end"):
                others.held("cell").__enter__()
        assert not (tmp_path / "locks").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_lease_that_nobody_touches_is_taken_over(tmp_path, monkeypatch, number):
    """Its process stands still, as it would on a machine that is gone: pids say nothing then."""
    monkeypatch.setattr(locks, "LEASE", 1.0)
    without_flock(monkeypatch, number)
    mine = Locks(tmp_path / "locks")
    code = HOLDS.replace("Locks\n", "Locks, LEASE\nfrom harness.system import locks\n", 1)
    code = code.replace("with Locks", "locks.LEASE = 1.0\nwith Locks", 1)
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "locks"), "lease"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout.readline() == b"held\n"
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(Taken):
            mine.held("cell").__enter__()
        with mine.waited_for("cell", 30):
            assert (tmp_path / "locks" / "cell.lease").read_text().count(f"pid={os.getpid()}\n")
        other.kill()


def test_what_is_held_for_moments_is_waited_for_and_not_for_ever(tmp_path):
    mine, others = Locks(tmp_path / "locks"), Locks(tmp_path / "locks")
    with others.held("table"), mine.waited_for("table", 0.1):
        pass
    with mine.waited_for("table", 0.1), pytest.raises(Taken):
        others.held("table").__enter__()


def test_an_error_of_the_folder_is_not_taken_for_a_lack_of_locks(tmp_path):
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(FileExistsError):
        Locks(tmp_path / "locks").held("cell").__enter__()
