"""Child processes of the harness: how they are started, and how they report to their parent."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UserError
from harness.system import hardware
from harness.system.security.secrets import mask_stream, masked

Emit = Callable[..., None]
"""`emit(**event)` writes one event as a line of JSON."""

_START = (
    "import runpy, sys; sys.path[0] = sys.argv[1]; sys.argv[:] = sys.argv[2:]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the harness in a new interpreter, in `environment()`.

    `python -m` would put the current folder first on the path, where a user's own `datasets.py`
    or a clone of this repository hides what is installed.
    """
    root = Path(__file__).parent.parent.parent
    return [sys.executable, "-c", _START, str(root), module, *arguments]


PLACE: ContextVar[Mapping[str, str] | None] = ContextVar("PLACE", default=None)
"""Variables that pin the children of this thread to a GPU or to some cores; None: to no such."""


def environment() -> dict[str, str]:
    """The environment of a child: this one's, and where the child is to run.

    That is as PLACE says, or on the first of several GPUs that is free.

    OpenMP's threads sleep while they wait.

    libgomp's threads spin at barriers, and two processes of two threads on two cores wait for each
    other: 14.7 s each for small matrix products that take 3.6 s alone, 6.0 s so; alone the same.
    It is read when torch loads, hence set here. A user's own OMP_WAIT_POLICY stands.
    """
    place = PLACE.get()
    if place is None:
        place = on_gpu(hardware.facts().gpus[0]) if len(hardware.facts().gpus) > 1 else {}
    return {"OMP_WAIT_POLICY": "PASSIVE", **_allocator(), **os.environ, **place}


def _allocator() -> dict[str, str]:
    """On CUDA torch's allocator may grow its blocks, unless the user has set how it allocates.

    Batches of other lengths then leave no holes that the next does not fit into.
    """
    if not sys.platform.startswith("linux") or hardware.facts().device != "cuda":
        return {}
    if {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & set(os.environ):
        return {}
    return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # read by every torch


def on_gpu(gpu: hardware.Gpu) -> dict[str, str]:
    """The variables that leave a child this one GPU."""
    if gpu.id is None:
        return {}
    build = hardware.torch_build()
    rocm = build is not None and build.rocm
    return {"CUDA_VISIBLE_DEVICES": gpu.id, **({"HIP_VISIBLE_DEVICES": gpu.id} if rocm else {})}


def answer(module: str, request: bytes, otherwise: str) -> bytes:
    """The standard output of a module that reads `request` from standard input.

    Raises UserError with the last line of its standard error where it fails; with `otherwise`
    where that is empty.
    """
    completed = subprocess.run(
        command(module), input=request, capture_output=True, check=False, env=environment()
    )
    if completed.returncode:
        raise UserError(_last_line(completed.stderr) or otherwise)
    return completed.stdout


def answered(module: str, request: bytes, otherwise: str) -> dict[str, Any]:
    """The JSON of the last line that a module prints, from `request` on standard input.

    Raises UserError as `answer` does.
    """
    found: dict[str, Any] = json.loads(answer(module, request, otherwise).splitlines()[-1])
    return found


def reply_to_stdin(
    run: Callable[[str], object],
    *,
    known: type[HarnessError] = UserError,
    unexpected: str | None = None,
) -> int:
    """Print what `run` makes of the request on standard input, as JSON; return the exit code.

    The child's side of `answered`. All else that is printed goes to standard error. A `known` error
    is one line there; of any other the traceback, and its text behind `unexpected`. Without
    `unexpected` other errors are raised.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = run(sys.stdin.read())
    except known as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return UserError.exit_code
    except Exception as error:
        if unexpected is None:
            raise
        traceback.print_exc()
        print(f"{unexpected}: {type(error).__name__}: {error}", file=sys.stderr)
        return UserError.exit_code
    print(f"\n{json.dumps(found, default=str)}")
    return 0


def events(module: str, request: bytes) -> Iterator[dict[str, Any]]:
    """The JSON lines that a module prints, with `request` on its standard input.

    Raises UserError with the last line of its standard error where it ends without a report.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin:
                process.stdin.write(request)
            last = None
            for line in process.stdout:
                last = json.loads(line)
                yield last
        finally:
            process.terminate()
            process.wait()
        if last is None:
            log.seek(0)
            raise UserError(_last_line(log.read()) or f"{module} was killed")


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def begin() -> Emit:
    """Prepare a child process that opens a model; `emit(**event)` of the result reports events.

    A crash in native code leaves its Python stack in the log. The child ends with its parent.
    """
    end_with_parent()
    emit = event_stream()
    faulthandler.enable(2)
    one_gpu()
    quiet_libraries()
    return emit


def work(run: Callable[[bytes, Emit], object], message: Callable[[Exception], str]) -> int:
    """Do what standard input asks for and emit its result, plain JSON values; the exit code.

    The child's side of `events`. An error is emitted as `message` words it, with its exit code, and
    its traceback goes to standard error.
    """
    emit = begin()
    request = sys.stdin.buffer.read()
    try:
        result = run(request, emit)
    except Exception as error:
        traceback.print_exception(error)
        emit(error=message(error), exit_code=getattr(error, "exit_code", HarnessError.exit_code))
        return 1
    emit(result=result)
    return 0


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, whatever ended that.

    Linux only (prctl(2), PR_SET_PDEATHSIG); elsewhere the next event finds the stream closed.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before prctl took effect
        os._exit(1)


_SET_PARENT_DEATH_SIGNAL = 1


def event_stream() -> Emit:
    """Keep standard output for events; whatever else is printed goes to standard error.

    Any thread may report. Secrets of the environment are masked in both.
    """
    events = os.fdopen(os.dup(1), "w", buffering=1)
    line_by_line = threading.Lock()
    os.dup2(2, 1)
    sys.stderr = mask_stream(sys.stderr)
    sys.stdout = sys.stderr

    def emit(**event: object) -> None:
        try:
            with line_by_line:
                events.write(masked(json.dumps(event)) + "\n")
        except BrokenPipeError:
            # the parent was killed: an error written now could fall upon the next run's record
            os._exit(1)

    return emit


def one_gpu() -> None:
    """The first visible GPU only: Trainer would spread over several and multiply the batch."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.split(",")[0]


def quiet_libraries() -> None:
    """No progress bars and no chatter in a log."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning")
