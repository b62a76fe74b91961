"""A child that is told to stop goes on to its next safe point."""

from __future__ import annotations

import signal
import subprocess
import sys

CHILD = """
import time
from harness.system.workers import stopping
stopping.on_request()
stopping.safe_point()
print("begun", flush=True)
while not stopping.requested():
    time.sleep(0.01)
print("told", flush=True)
try:
    stopping.safe_point()
except stopping.Stopped:
    print("stopped", flush=True)
"""


def test_sigterm_is_kept_until_a_safe_point() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=60)
    assert output == "told\nstopped\n"
    assert child.returncode == 0
