"""Hardware of this machine: cores, memory, GPUs and whether bf16 is fast. Never imports torch.

Control-group limits are honoured (v1 and v2), so the figures are those of the container.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.types import Precision

__all__ = [
    "Gpu",
    "Machine",
    "TorchBuild",
    "available_memory",
    "default_precision",
    "facts",
    "free_memory",
    "torch_build",
]

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """A CUDA device that this process may use (`CUDA_VISIBLE_DEVICES` is honoured)."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    """Compute capability, as (8, 0)."""


@dataclass(frozen=True)
class TorchBuild:
    """The torch that is installed."""

    version: str
    cuda: str | None
    """The CUDA (or HIP) release it was built with; None for a CPU build."""


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    cores: int
    """Usable cores: affinity and CPU quota taken into account, at least 1."""
    memory_bytes: int
    """Host memory, or the control group's limit where that is lower."""
    cpu: str
    flags: tuple[str, ...] = ()
    """Those of FLAGS that the CPU has."""
    gpus: tuple[Gpu, ...] = ()
    torch: TorchBuild | None = None

    @property
    def device(self) -> str:
        """`cuda` where there is a GPU and a torch that can use it, else `cpu`."""
        return "cuda" if self.gpus and self.torch is not None and self.torch.cuda else "cpu"

    @property
    def bf16_is_fast(self) -> bool:
        """Compute capability 8.0 and up; on a CPU only with instructions for bf16.

        Without them a bf16 forward pass of a 135M model ran 6 times slower than float32
        (80 against 470 tokens a second on two AVX2 cores).
        """
        if self.device == "cuda":
            return self.gpus[0].capability >= (8, 0)
        return not _BF16_FLAGS.isdisjoint(self.flags)


def default_precision(machine: Machine) -> Precision:
    """What `precision: auto` stands for: bf16 where it is fast, else float32."""
    return "bf16" if machine.bf16_is_fast else "float32"


@functools.cache
def facts() -> Machine:
    """This machine; read once per process."""
    model, flags = _cpu()
    return Machine(
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        cpu=model,
        flags=flags,
        gpus=_gpus(),
        torch=torch_build(),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """(model name, those of FLAGS that it has)."""
    import platform

    text = _read(cpuinfo)
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flag_line = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flag_line[1].split()) if flag_line else set()
    name = model[1] if model else platform.processor() or platform.machine()
    return name, tuple(flag for flag in FLAGS if flag in present)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The control-group folders that bind this process, from its own up to the root."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount
        inside = Path(path.lstrip("/"))
        yield from (top / folder for folder in (inside, *inside.parents))


def _cores(root: Path = Path("/")) -> int:
    """Cores by affinity, or by the tightest CPU quota (rounded down) where that is fewer."""
    try:
        count = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        count = float(os.cpu_count() or 1)
    for group in _groups("cpu", root):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if not quota:
            quota = _read(group / "cpu.cfs_quota_us")
            period = _read(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            count = min(count, int(quota) / int(period))
    return max(1, int(count))


def _memory_bytes(root: Path = Path("/")) -> int:
    """Host memory, or the tightest memory limit where that is lower."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for group in _groups("memory", root):
        for file in ("memory.max", "memory.limit_in_bytes"):
            limit = _read(group / file)
            if limit.isdigit() and int(limit) > 0:
                total = min(total, int(limit))
    return total


def _gpus(timeout: float = 5.0) -> tuple[Gpu, ...]:
    """The CUDA devices, queried from the driver in a child process.

    A child, because a process that has initialised CUDA must not fork; and the driver library
    rather than nvidia-smi, because it honours `CUDA_VISIBLE_DEVICES` and MIG slices.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return ()
    if sys.platform == "darwin":
        return ()
    with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
        completed = subprocess.run(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        devices = json.loads(completed.stdout or "[]")
        return tuple(Gpu(name, memory, (major, minor)) for name, memory, major, minor in devices)
    return ()


def _query_driver() -> list[tuple[str, int, int, int]]:
    """(name, memory in bytes, capability major, minor) of each device, through libcuda."""
    import ctypes

    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    devices = []
    for ordinal in range(count.value):
        device, capability = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        failed = (
            cuda.cuDeviceGet(ctypes.byref(device), ordinal)
            or cuda.cuDeviceGetName(name, len(name), device)
            or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
            or cuda.cuDeviceGetAttribute(ctypes.byref(capability[0]), _MAJOR, device)
            or cuda.cuDeviceGetAttribute(ctypes.byref(capability[1]), _MINOR, device)
        )
        if not failed:
            text = name.value.decode(errors="replace")
            devices.append((text, memory.value, capability[0].value, capability[1].value))
    return devices


def torch_build() -> TorchBuild | None:
    """The installed torch, read from its `version.py` as text; None where there is none."""
    import importlib.util

    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    text = _read(Path(spec.origin).parent / "version.py")
    values = dict(re.findall(r"^(\w+)\b[^=\n]*=\s*'([^']*)'", text, re.MULTILINE))
    return TorchBuild(values.get("__version__", "unknown"), values.get("cuda") or values.get("hip"))


def available_memory() -> int:
    """Bytes that a process here may use: the GPU's, else the host's or its own tighter limit."""
    machine = facts()
    if machine.device == "cuda":
        return machine.gpus[0].memory_bytes
    limits = [machine.memory_bytes]
    with contextlib.suppress(ImportError):  # Windows
        import resource

        soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        limits += [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min(limits)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Disable garbage collection, which would traverse large data again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def free_memory() -> None:
    """Free unreferenced memory, the GPU's cache too where torch is loaded."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    print(json.dumps(_query_driver()))
