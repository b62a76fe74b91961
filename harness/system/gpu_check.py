"""Whether torch can use the GPUs that the driver shows, and what a step on one needs besides."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentLack
from harness.system import hardware
from harness.system.hardware import Machine, TorchView

ON_THE_CPU = "set CUDA_VISIBLE_DEVICES= (to nothing) to run on the CPU"
_ELSEWHERE = "   # or as your system calls it"
_INSTALL = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/"


@dataclass(frozen=True)
class Lack:
    """Why a GPU cannot be used."""

    why: str
    mend: str
    """What to do about it; a command where there is one."""


def check_device() -> None:
    """Raise EnvironmentLack where there is a GPU that torch cannot use.

    Models would run on the CPU, in the GPU's precision, without a word.
    """
    lack = lack_of(hardware.facts())
    if lack is not None:
        raise EnvironmentLack(f"{lack.why}: {lack.mend}; or {ON_THE_CPU}")


def lack_of(machine: Machine) -> Lack | None:
    """What keeps torch from the GPUs of a machine; None where nothing does or there is none.

    torch is asked, which takes seconds, where there is a GPU and a torch built for one.
    """
    if not machine.driver.answered:
        return Lack(str(machine.driver.fault), "wait until nvidia-smi answers, and run again")
    if machine.device != "cuda":
        return None
    return disagreement(machine, hardware.torch_view())


def disagreement(machine: Machine, view: TorchView) -> Lack | None:
    """What keeps torch from the first GPU of a machine, by what torch says of itself."""
    build, gpu = machine.torch, machine.gpus[0]
    assert build is not None
    assert build.cuda is not None
    torch = f"torch {build.version} ({'ROCm' if build.rocm else 'CUDA'} {build.cuda})"
    if not view.gpus:
        newest = machine.driver.cuda
        wanted = int(build.cuda.partition(".")[0])
        if newest is not None and newest[0] < wanted and not build.rocm:
            why = f"{torch} needs a newer driver: this one is for CUDA {newest[0]}.{newest[1]}"
            return Lack(why, _older_torch(newest[0], build.cuda))
        reason = f": {view.reason}" if view.reason else ""
        return Lack(f"{torch} cannot use the {gpu.name}{reason}", "see what nvidia-smi says")
    if not view.runs_on(gpu.capability):
        name = f"sm_{gpu.capability[0]}{gpu.capability[1]}"
        why = f"{torch} has no code for the {gpu.name} ({name}): {', '.join(view.compiled_for)}"
        # builds for CUDA 12.6 are the last with code for cards before Turing
        old = gpu.capability < (7, 5)
        return Lack(why, f"{_INSTALL}cu126" if old else "pip install --upgrade torch")
    return None


def _older_torch(newest: int, build: str) -> str:
    """A build runs on every driver of its CUDA's major version ("minor version compatibility")."""
    update = f"update the NVIDIA driver to one for CUDA {build}"
    return f"{_INSTALL}cu128" if newest == 12 else update


def unused() -> str | None:
    """Why a GPU that NVIDIA's driver does not show stays unused; None where none is known of."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return (
            "Apple's GPU (MPS) is not used: the passes are written and checked for CPUs and CUDA; "
            "models run on the CPU"
        )
    return hardware.facts().driver.fault


@functools.cache
def compiler_lack() -> Lack | None:
    """Why Triton could not compile its launchers here; None where it can.

    At its first kernel Triton (3.5 to 3.9, `runtime/build.py`) compiles a C file that includes
    Python.h, with $CC, gcc or clang; the same is tried here with a file of two lines.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return Lack(
            "no C compiler (gcc, clang or $CC), which Triton needs",
            f"apt-get install gcc{_ELSEWHERE}",
        )
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    source = "#include <Python.h>\nint probe(void) { return 0; }\n"
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-shared", "-fPIC", f"-I{headers}", "-o", str(Path(folder) / "probe.so")]
        command = [compiler, *flags, "-x", "c", "-"]
        try:
            done = subprocess.run(
                command, input=source, capture_output=True, text=True, check=False
            )
        except OSError as error:
            return Lack(f"the C compiler {compiler} does not start ({error.strerror})", "unset CC")
    if not done.returncode:
        return None
    if not (Path(headers) / "Python.h").is_file():
        return Lack(f"no Python.h in {headers}, which Triton needs", _headers())
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    told = f": {lines[0][:200]}" if lines else ""
    return Lack(
        f"the C compiler {compiler} fails{told}", f"apt-get install gcc libc6-dev{_ELSEWHERE}"
    )


def _headers() -> str:
    """The package of Python's headers, as Debian calls it."""
    return f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-dev{_ELSEWHERE}"
