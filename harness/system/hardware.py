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
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.types import Precision

__all__ = [
    "Driver",
    "Gpu",
    "Machine",
    "TorchBuild",
    "TorchView",
    "available_memory",
    "check_precision",
    "default_precision",
    "facts",
    "free_memory",
    "free_paged_state",
    "planning_for",
    "torch_build",
    "torch_view",
]

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
BUSY_SHARE = 0.1
"""Share of a GPU's memory above which what others hold of it makes it a busy one: a screen's
compositor takes less, a model more."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device that this process may use (`CUDA_VISIBLE_DEVICES` is honoured)."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    """Compute capability, as (8, 0)."""
    id: str | None = None
    """As `CUDA_VISIBLE_DEVICES` takes it; None where it is not known."""
    free_bytes: int | None = None
    """When it was asked; None where it is not known."""

    @property
    def busy(self) -> bool:
        """Whether other processes hold more than BUSY_SHARE of its memory."""
        free = self.free_bytes
        return free is not None and free < (1 - BUSY_SHARE) * self.memory_bytes


@dataclass(frozen=True)
class Driver:
    """What NVIDIA's driver says of itself."""

    cuda: tuple[int, int] | None = None
    """The newest CUDA that it supports; None without a driver."""
    fault: str | None = None
    """Why its devices are not known."""
    answered: bool = True
    """False where it took too long, so that there may well be GPUs."""


@dataclass(frozen=True)
class TorchBuild:
    """The torch that is installed."""

    version: str
    cuda: str | None
    """The CUDA (or HIP) release it was built with; None for a CPU build."""
    rocm: bool = False
    """Whether that is HIP, AMD's: torch calls its devices `cuda` too."""


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
    """Those that are free first."""
    torch: TorchBuild | None = None
    driver: Driver = Driver()

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
    """What `precision: auto` stands for: bf16 where it is fast, else fp16 on CUDA, else float32."""
    if machine.bf16_is_fast:
        return "bf16"
    return "fp16" if machine.device == "cuda" else "float32"


def check_precision(precision: str, machine: Machine) -> None:
    """Raise UserError, with what to write instead, for arithmetic that the device lacks.

    CUDA cards before compute capability 8.0 only emulate bf16. On a CPU bf16 may be slow but is
    there; fp16 is not offered, as its loss scaling would be for nothing. `auto` always passes.
    """
    usual = default_precision(machine)
    if precision == "bf16" and machine.device == "cuda" and not machine.bf16_is_fast:
        gpu = machine.gpus[0]
        capability = ".".join(map(str, gpu.capability))
        raise UserError(
            f"precision bf16: {gpu.name} (compute capability {capability}) has no bf16 arithmetic: "
            f"set it to {usual}, or to float32"
        )
    if precision == "fp16" and machine.device != "cuda":
        raise UserError(
            "precision fp16 needs a CUDA GPU, and there is none that torch can use: set it to "
            f"{usual}"
        )


_planned: ContextVar[Machine | None] = ContextVar("planned", default=None)


def facts() -> Machine:
    """This machine, read once per process; within `planning_for` the one that is planned for."""
    return _planned.get() or _facts()


@contextlib.contextmanager
def planning_for(machine: Machine | None) -> Iterator[None]:
    """Plan for a machine that is not at hand; None: for this one."""
    token = _planned.set(machine)
    try:
        yield
    finally:
        _planned.reset(token)


@functools.cache
def _facts() -> Machine:
    model, flags = _cpu()
    build = torch_build()
    gpus, driver = _gpus()
    if build is not None and build.rocm:
        gpus = torch_view().gpus  # AMD's libraries come with torch alone
    return Machine(
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        cpu=model,
        flags=flags,
        gpus=gpus,
        torch=build,
        driver=driver,
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


def _gpus(seconds: float = 60.0) -> tuple[tuple[Gpu, ...], Driver]:
    """The CUDA devices, and what their driver says (`gpu_query`), asked for at most `seconds`.

    Without persistence mode a driver loads for several seconds at the first question.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"} or sys.platform == "darwin":
        return (), Driver()
    script = Path(__file__).with_name("gpu_query.py")
    try:
        completed = subprocess.run(
            [sys.executable, "-I", "-S", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"the CUDA driver did not answer within {seconds:g} s"
        return (), Driver(fault=why, answered=False)
    except OSError as error:
        return (), Driver(fault=f"the CUDA driver could not be asked ({error.strerror})")
    if not completed.stdout:
        why = f"asking the CUDA driver ended with exit code {completed.returncode}"
        return (), Driver(fault=why)
    said = json.loads(completed.stdout)
    gpus = [
        Gpu(
            name=device["name"],
            memory_bytes=device["memory_bytes"],
            capability=tuple(device["capability"]),
            id=device["uuid"] or _visible(at, "CUDA_VISIBLE_DEVICES"),
            free_bytes=device["free_bytes"],
        )
        for at, device in enumerate(said["devices"])
    ]
    # those that are free come first, for the first is the one that is used
    gpus.sort(key=lambda gpu: gpu.busy)
    cuda = said["cuda"]
    return tuple(gpus), Driver(tuple(cuda) if cuda else None, said["fault"])


def torch_build() -> TorchBuild | None:
    """The installed torch, read from its `version.py` as text; None where there is none."""
    import importlib.util

    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    text = _read(Path(spec.origin).parent / "version.py")
    values = dict(re.findall(r"^(\w+)\b[^=\n]*=\s*'([^']*)'", text, re.MULTILINE))
    cuda, hip = values.get("cuda"), values.get("hip")
    return TorchBuild(values.get("__version__", "unknown"), cuda or hip, rocm=bool(hip))


def _visible(at: int, *variables: str) -> str:
    """What a variable that lists the visible devices calls the one at a position."""
    named = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return names[at] if at < len(names) else str(at)


_ASK_TORCH = """
import json, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import torch
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [torch.cuda.get_device_properties(i) for i in range(count)]
print(json.dumps({
    "gpus": [[d.name, d.total_memory, [d.major, d.minor]] for d in devices],
    "compiled_for": torch.cuda.get_arch_list(),
    "reason": " ".join(str(said[-1].message).split()) if said else None,
}))
"""


@dataclass(frozen=True)
class TorchView:
    """What torch itself sees."""

    gpus: tuple[Gpu, ...] = ()
    """In torch's order."""
    compiled_for: tuple[str, ...] = ()
    """The architectures that it has code for, such as `sm_90` and `compute_90`."""
    reason: str | None = None
    """What it says where it sees none, if anything."""

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether it has code for a compute capability.

        Machine code runs on later minor versions of its major one; `compute_*` is compiled for
        any later device (CUDA C++ Programming Guide, "Application Compatibility").
        """
        for name in self.compiled_for:
            kind, _, digits = name.partition("_")
            number = re.match(r"\d+", digits)
            if kind not in {"sm", "compute"} or number is None:
                return True  # ROCm's names, such as gfx942
            own = divmod(int(number[0]), 10)
            if own <= capability and (kind == "compute" or own[0] == capability[0]):
                return True
        return False


@functools.cache
def torch_view() -> TorchView:
    """What torch sees here, asked in a child process: it takes the seconds of torch's import.

    Nothing is seen where torch cannot be imported.
    """
    completed = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        lines = completed.stderr.strip().splitlines()
        return TorchView(reason=lines[-1] if lines else f"exit code {completed.returncode}")
    said = json.loads(completed.stdout.splitlines()[-1])
    gpus = tuple(
        Gpu(name, memory, tuple(which), _visible(at, "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"))
        for at, (name, memory, which) in enumerate(said["gpus"])
    )
    return TorchView(gpus, tuple(said["compiled_for"]), said["reason"])


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


def free_host_memory() -> int:
    """Bytes of the host's memory that are free now, within the process's own limit."""
    import psutil

    return min(int(psutil.virtual_memory().available), available_memory())


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


def free_paged_state() -> int:
    """Free bitsandbytes' paged optimizer state that no optimizer uses any more; bytes freed.

    It comes from cudaMallocManaged, is listed for good and freed by nobody: the evaluation after a
    training would have that much less of the GPU.
    """
    gc.collect()
    bnb = sys.modules.get("bitsandbytes.functional")
    pages = bnb.GlobalPageManager.get_instance().paged_tensors if bnb is not None else []
    # the list, and the argument of getrefcount
    unused = [at for at in range(len(pages)) if sys.getrefcount(pages[at]) <= 2]
    freed = 0
    for at in reversed(unused):
        address, size = pages[at].data_ptr(), pages[at].nbytes
        del pages[at]
        if _free_managed(address):
            freed += size
    return freed


def _free_managed(address: int) -> bool:
    """Whether the driver has freed managed memory."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return not cuda.cuMemFree_v2(ctypes.c_ulonglong(address))
    return False


def free_memory() -> None:
    """Free unreferenced memory, the GPU's cache too where torch is loaded."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
