"""llama.cpp's HTTP server on loopback with one GGUF file, in a process of its own.

`python -m harness.system.llama_server` is that process: it reads a Request, prints its address and
serves until its standard input ends. Its threads would else stay and spin in the process that
measures, and a crash in native code would end that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentLack, UserError
from harness.system import child_process, hardware
from harness.system.gguf_file import GgufFacts, check_adapter, check_file, facts

__all__ = ["GgufFacts", "Server", "check_file", "check_installed", "facts", "running"]

_PAD = 256
"""llama.cpp's contexts are multiples of so many tokens."""
_ERRORS = 1
"""Of llama.cpp's verbosity: errors alone."""


def check_installed() -> None:
    """Raise EnvironmentLack where llama.cpp's server is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EnvironmentLack(
            "GGUF files are served by llama.cpp: pip install 'finetune-harness[gguf]'"
        )


@contextmanager
def running(
    file: Path,
    *,
    context: int,
    slots: int = 1,
    lora: Sequence[Path] = (),
    threads: int | None = None,
) -> Iterator[str]:
    """The address, `http://127.0.0.1:PORT`, of a server of a GGUF file while the block runs.

    It answers `slots` requests at once, each of at most `context` tokens with its answer, on
    `threads` processor threads (the cores of this machine), with the LoRA files' deltas added. It
    lists the model under the file's name. What a model writes of its thinking stays in its answer.

    Raises EnvironmentLack without llama.cpp, and UserError for a file that it cannot serve and
    where it dies, with the reason from its log.
    """
    server = Server(file, context=context, slots=slots, lora=lora, threads=threads)
    try:
        yield server.address
    except Exception as error:
        if (reason := server.death()) is not None:
            raise UserError(reason) from error
        raise
    finally:
        server.stop()


class Server:
    """A running server; `running` is the usual way to it. Raises as that does."""

    def __init__(
        self,
        file: Path,
        *,
        context: int,
        slots: int = 1,
        lora: Sequence[Path] = (),
        threads: int | None = None,
    ) -> None:
        check_installed()
        check_file(file)
        for adapter in lora:
            check_adapter(adapter)
        self.file = file
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        request = _Request(
            str(file.resolve()),
            context,
            slots,
            tuple(str(adapter.resolve()) for adapter in lora),
            threads or hardware.facts().cores,
        )
        self._process = subprocess.Popen(
            child_process.command(__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=child_process.environment(),
            start_new_session=True,  # Ctrl-C is for whoever asks it, and may go on to a safe point
        )
        try:
            self.address = self._begin(request)
        except BaseException:
            self.stop()
            raise

    def _begin(self, request: _Request) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            reason = self._said() or self._ended()
            raise UserError(f"{self.file}: llama.cpp does not open it: {reason}")
        return str(json.loads(line)["address"])

    def death(self) -> str | None:
        """Why the server has ended by itself, in one line; None while it runs."""
        try:
            # a connection is refused a moment before the process is gone
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            return None
        said = self._said()
        last = f", after: {said}" if said else ""
        return f"{self.file}: llama.cpp's server died ({self._ended()}){last}"

    def stop(self) -> None:
        """End the server, and its threads with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._log.close()

    def _said(self) -> str:
        self._log.seek(0)
        return _reason(self._log.read().decode(errors="replace"))

    def _ended(self) -> str:
        status = self._process.returncode
        return signal.Signals(-status).name if status < 0 else f"exit code {status}"


_LOADING, _TEMPLATE = "error loading model: ", "chat template parsing error: "


def _reason(log: str) -> str:
    """The line of llama.cpp's log that says why it ended, without its clock and function."""
    lines = [_PREFIX.sub("", line) for line in log.splitlines() if line.strip()]
    loading = [line.partition(_LOADING)[2] for line in lines if _LOADING in line]
    adapter = [line for line in lines if "adapter" in line]
    if any(_TEMPLATE in line for line in lines):
        errors = [line for line in lines if line.startswith("Error:")] or [""]
        reason = f"it cannot use the file's chat template: {errors[-1].removeprefix('Error: ')}"
    else:
        reason = (loading or adapter or lines or [""])[-1]
    return " ".join(reason.split())[:200]


_PREFIX = re.compile(r"^[\d.]+ [EWI] ")


# ---- the child -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    """What the child serves; see `running`."""

    file: str
    context: int
    slots: int
    lora: Sequence[str]
    threads: int


def _parameters(request: _Request) -> Any:
    """llama.cpp's parameters for a request."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = request.file
    parameters.model_alias = {Path(request.file).name}
    parameters.lora_adapters = [_adapter(path) for path in request.lora]
    parameters.n_parallel = request.slots
    # llama.cpp divides its context among the slots and pads what each has
    parameters.n_ctx = -(-request.context // _PAD) * _PAD * request.slots
    for pool in (parameters.cpuparams, parameters.cpuparams_batch):
        # threads that wait for work sleep: spinning, they take the cores of what measures
        pool.n_threads, pool.poll = request.threads, 0
    # the answer as the model wrote it, as models in this process give it
    parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    parameters.ui = parameters.warmup = False
    parameters.verbosity = _ERRORS
    return parameters


def _adapter(path: str) -> Any:
    import xllamacpp

    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, 1.0
    return adapter


def main() -> int:
    """Serve what standard input asks for until it ends; prints `{"address": ...}`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops this
    emit = child_process.begin()
    request = _Request(**json.loads(sys.stdin.buffer.readline()))
    import xllamacpp

    try:
        server = xllamacpp.Server(_parameters(request))
    except RuntimeError as error:
        # the reason stands above in the log; this is what is left where it does not
        print(error, file=sys.stderr, flush=True)
        return 1
    emit(address=server.listening_address)
    sys.stdin.buffer.read()
    os._exit(0)  # requests that are under way are nobody's


if __name__ == "__main__":
    sys.exit(main())
