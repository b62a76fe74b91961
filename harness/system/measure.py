"""The only place that measures: seconds and peak memory, phase by phase."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record import Phase

if TYPE_CHECKING:
    from types import ModuleType

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): writing 5 resets the peak resident set size (VmHWM)


class Meter:
    """Measures named phases of one process.

    `phases[name]` holds `seconds`, `peak_allocated_bytes` and `peak_reserved_bytes` (of the CUDA
    allocator; None without a GPU) and `peak_host_bytes` (resident memory of the process). Every
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
            self._host = _HostPeak()
            self._start = time.perf_counter()

    def _close(self) -> None:
        if self._host is None:
            return
        _wait_for_cuda()
        self._add(self._open[-1], time.perf_counter() - self._start, self._host.stop())
        self._host = None

    def _add(self, name: str, seconds: float, host_bytes: int) -> None:
        allocated, reserved = _cuda_peaks()
        totals = self.phases.setdefault(
            name,
            {
                "seconds": 0.0,
                "peak_allocated_bytes": None,
                "peak_reserved_bytes": None,
                "peak_host_bytes": 0,
            },
        )
        totals["seconds"] = (totals["seconds"] or 0.0) + seconds
        totals["peak_host_bytes"] = max(totals["peak_host_bytes"] or 0, host_bytes)
        totals["peak_allocated_bytes"] = _larger(totals["peak_allocated_bytes"], allocated)
        totals["peak_reserved_bytes"] = _larger(totals["peak_reserved_bytes"], reserved)


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
