"""The only place that measures: seconds and peak memory, phase by phase."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from harness.record import Phase

if TYPE_CHECKING:
    from types import ModuleType

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): writing 5 resets the peak resident set size (VmHWM)


class Meter:
    """Measures named phases of one process.

    `phases[name]` holds `seconds`, `peak_allocated_bytes` and `peak_reserved_bytes` (of the CUDA
    allocator; None without a GPU) and `peak_host_bytes` (resident memory of the process). With
    nvidia-ml-py there is what the allocator does not count, and energy (`record.Phase`). Every
    peak is reset when its phase starts. A phase entered twice adds seconds and keeps the larger
    peaks. A phase inside another suspends the outer one: its seconds are its own.
    """

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self.failed: str | None = None
        """The innermost phase that an exception left."""
        self._open: list[str] = []
        self._start = 0.0
        self._host: _HostPeak | None = None
        self._card: _CardUse | None = None

    @property
    def open(self) -> bool:
        """Whether a phase is being measured."""
        return bool(self._open)

    def so_far(self) -> dict[str, Phase]:
        """A copy of the phases, with the seconds so far of the one that is open."""
        phases: dict[str, Phase] = {name: phase.copy() for name, phase in self.phases.items()}
        if self._open:
            phase = phases.setdefault(self._open[-1], _unmeasured())
            phase["seconds"] = (phase["seconds"] or 0.0) + time.perf_counter() - self._start
        return phases

    def carry(self, phases: Mapping[str, Phase], *, again: Collection[str] = ()) -> None:
        """Add an earlier process's phases to this one's: seconds and joules, the larger peaks.

        Of phases that ran `again` here the peaks alone.
        """
        for name, earlier in phases.items():
            added: Phase = {**_unmeasured(), **earlier}
            if name in again:
                added["seconds"] = 0.0
                added.pop("joules", None)
            self.phases[name] = joined(self.phases.get(name), added)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside under `name`; recorded also when it raises."""
        self._close()
        self._open.append(name)
        self._begin()
        try:
            yield
        except BaseException:
            self.failed = self.failed or name
            raise
        finally:
            self._close()
            self._open.pop()
            self._begin()

    def _begin(self) -> None:
        if self._open:
            _reset_cuda_peak()
            self._card = _CardUse() if card() is not None else None
            self._host = _HostPeak()
            self._start = time.perf_counter()

    def _close(self) -> None:
        if self._host is None:
            return
        _wait_for_cuda()
        self._add(self._open[-1], time.perf_counter() - self._start, self._host.stop())
        self._host = None
        self._add_outside(self.phases[self._open[-1]])

    def _add(self, name: str, seconds: float, host_bytes: int) -> None:
        allocated, reserved = _cuda_peaks()
        totals = self.phases.setdefault(name, _unmeasured())
        totals["seconds"] = (totals["seconds"] or 0.0) + seconds
        totals["peak_host_bytes"] = max(totals["peak_host_bytes"] or 0, host_bytes)
        totals["peak_allocated_bytes"] = _larger(totals["peak_allocated_bytes"], allocated)
        totals["peak_reserved_bytes"] = _larger(totals["peak_reserved_bytes"], reserved)

    def _add_outside(self, totals: Phase) -> None:
        """What torch's allocator does not count."""
        paged = paged_state_bytes()
        if paged:
            totals["paged_bytes"] = max(totals.get("paged_bytes") or 0, paged)
        if self._card is None:
            return
        peak, now, joules = self._card.stop()
        self._card = None
        if joules is not None:
            totals["joules"] = (totals.get("joules") or 0.0) + joules
        if peak is not None and now is not None:
            totals["peak_process_bytes"] = _larger(totals.get("peak_process_bytes"), peak)
            cuda = _cuda()
            reserved = cuda.memory_reserved() if cuda else 0
            context = max(0, now - reserved - paged)
            totals["context_bytes"] = _larger(totals.get("context_bytes"), context)


@contextmanager
def stretch() -> Iterator[Phase]:
    """What a part of a phase costs: its seconds, and the peaks of the phase up to its end.

    They are in what it gives once it is over. No peak is reset: the phase around it has its own.
    """
    cost: Phase = {"seconds": 0.0}
    start = time.perf_counter()
    yield cost
    _wait_for_cuda()
    cost["seconds"] = time.perf_counter() - start
    cost["peak_allocated_bytes"], cost["peak_reserved_bytes"] = _cuda_peaks()
    cost["peak_host_bytes"] = _kernel_peak()


def joined(one: Phase | None, other: Phase) -> Phase:
    """One phase of two that ran apart: seconds and energy are added, peaks are the larger ones."""
    if one is None:
        return {**other}
    both: Phase = {**one, "seconds": (one["seconds"] or 0.0) + (other["seconds"] or 0.0)}
    for name in _PEAKS:
        if name in one or name in other:
            both[name] = _larger(one.get(name), other.get(name))
    if "joules" in other:
        both["joules"] = (one.get("joules") or 0.0) + (other["joules"] or 0.0)
    return both


_Peak = Literal[
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "peak_host_bytes",
    "peak_process_bytes",
    "paged_bytes",
    "context_bytes",
]
_PEAKS: tuple[_Peak, ...] = get_args(_Peak)


def _unmeasured() -> Phase:
    return {
        "seconds": 0.0,
        "peak_allocated_bytes": None,
        "peak_reserved_bytes": None,
        "peak_host_bytes": 0,
    }


def _larger(a: int | None, b: int | None) -> int | None:
    return max((value for value in (a, b) if value is not None), default=None)


class StepClock:
    """Seconds of each training step; the clock waits for the device at the end of a step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def begin(self) -> None:
        """A step starts."""
        self._start = time.perf_counter()

    def end(self) -> None:
        """The step is over."""
        _wait_for_cuda()
        self.seconds.append(time.perf_counter() - self._start)


class _HostPeak:
    """Peak resident memory since construction: the kernel's own figure, else sampled."""

    def __init__(self) -> None:
        self._peak = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._done.is_set():
            self._peak = max(self._peak, process.memory_info().rss)
            self._done.wait(0.02)

    def stop(self) -> int:
        """Bytes."""
        if self._thread is None:
            return _kernel_peak()
        self._done.set()
        self._thread.join()
        return self._peak


class Card:
    """The GPU of this process by NVIDIA's management library; raises what that raises."""

    def __init__(self, cuda: ModuleType) -> None:
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        name = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if not name.startswith(("GPU-", "MIG-")):
            name = f"GPU-{cuda.get_device_properties(0).uuid}"
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(name)

    def process_bytes(self) -> int | None:
        """Memory of this process; None where it is not told, as to a container."""
        with suppress(self._nvml.NVMLError):
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
                if process.pid == os.getpid() and process.usedGpuMemory is not None:
                    return int(process.usedGpuMemory)
        return None

    def joules(self) -> float | None:
        """Energy since the driver was loaded; None before Volta and for a slice (MIG)."""
        with suppress(self._nvml.NVMLError):
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        return None


_CARDS: list[Card | None] = []
"""The card, once it was looked for with CUDA there."""


def card() -> Card | None:
    """The GPU of this process; None without one, or without nvidia-ml-py."""
    if not _CARDS and (cuda := _cuda()):
        try:
            _CARDS.append(Card(cuda))
        except Exception:  # not installed, or no rights: what it adds is left out
            _CARDS.append(None)
    return _CARDS[0] if _CARDS else None


class _CardUse:
    """Memory of this process on its GPU and the GPU's energy, since construction."""

    def __init__(self) -> None:
        found = card()
        assert found is not None
        self._card = found
        self._joules = found.joules()
        self._peak = found.process_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.1):
            self._peak = _larger(self._peak, self._card.process_bytes())

    def stop(self) -> tuple[int | None, int | None, float | None]:
        """Peak memory, memory now, both in bytes, and joules; None for what is not told."""
        self._done.set()
        self._thread.join()
        now, joules = self._card.process_bytes(), self._card.joules()
        spent = None if joules is None or self._joules is None else joules - self._joules
        return _larger(self._peak, now), now, spent


def paged_state_bytes() -> int:
    """Size of bitsandbytes' paged optimizer state that is there."""
    bnb = sys.modules.get("bitsandbytes.functional")
    if bnb is None:
        return 0
    return sum(tensor.nbytes for tensor in bnb.GlobalPageManager.get_instance().paged_tensors)


def _kernel_peak() -> int:
    return _status().get("VmHWM", 0)


def _status() -> dict[str, int]:
    """The sizes in this process's /proc status, in bytes; empty where there is none."""
    with suppress(OSError):
        fields = (line.split() for line in _STATUS.read_text().splitlines())
        return {
            field[0][:-1]: int(field[1]) * 1024 for field in fields if field[0].startswith("Vm")
        }
    return {}


class MemoryWatch:
    """Reports the share of memory that a process uses, so that its death can be explained.

    `report(share)` is called from a thread of its own with the largest share seen so far of what
    the process may use: of its own limits, of its control group's, of the machine's. It is called
    at once, and again whenever the share has grown by a hundredth.
    """

    PERIOD = 0.05
    """Seconds between two measurements."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._largest = -1.0
        self._measure()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(self.PERIOD)
            with suppress(OSError, ValueError, MemoryError):
                self._measure()

    def _measure(self) -> None:
        share = round(memory_spent(), 3)
        if share >= self._largest + 0.01:
            self._largest = share
            self._report(share)


def memory_spent() -> float:
    """The largest share that is in use of any memory limit of this process, from 0 to 1."""
    import psutil

    machine = psutil.virtual_memory()
    shares = [1 - machine.available / machine.total, *_limit_shares(), *_control_group_shares()]
    return min(1.0, max(shares))


def _limit_shares() -> Iterator[float]:
    """Of the process's own limits (`ulimit -v`, `ulimit -d`)."""
    with suppress(ImportError):  # Windows
        import resource

        used = _status()
        for size, kind in (("VmSize", resource.RLIMIT_AS), ("VmData", resource.RLIMIT_DATA)):
            limit = resource.getrlimit(kind)[0]
            if limit not in (resource.RLIM_INFINITY, 0) and size in used:
                yield used[size] / limit


def _control_group_shares() -> Iterator[float]:
    """Of the limits of its control group (version 2) and those above it, without file caches."""
    with suppress(OSError, ValueError, IndexError):
        path = Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0]
        group = Path("/sys/fs/cgroup") / path.lstrip("/")
        while group.is_relative_to("/sys/fs/cgroup"):
            limit = group / "memory.max"
            if limit.is_file() and (most := limit.read_text().strip()) != "max":
                stat = dict(line.split() for line in (group / "memory.stat").open())
                yield (int(stat["anon"]) + int(stat.get("shmem", 0))) / int(most)
            group = group.parent


def _cuda() -> ModuleType | None:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _wait_for_cuda() -> None:
    if cuda := _cuda():
        cuda.synchronize()


def _reset_cuda_peak() -> None:
    if cuda := _cuda():
        cuda.synchronize()
        cuda.reset_peak_memory_stats()


def _cuda_peaks() -> tuple[int | None, int | None]:
    if cuda := _cuda():
        return cuda.max_memory_allocated(), cuda.max_memory_reserved()
    return None, None
