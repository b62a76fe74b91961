"""The only place that measures: seconds and peak memory, phase by phase."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        self.phases: dict[str, dict[str, Any]] = {}
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
        known = self.phases.setdefault(
            name,
            {
                "seconds": 0.0,
                "peak_allocated_bytes": None,
                "peak_reserved_bytes": None,
                "peak_host_bytes": 0,
            },
        )
        known["seconds"] += seconds
        known["peak_host_bytes"] = max(known["peak_host_bytes"], host_bytes)
        for key, value in (("peak_allocated_bytes", allocated), ("peak_reserved_bytes", reserved)):
            if value is not None:
                known[key] = max(known[key] or 0, value)


class StepClock:
    """Seconds that the training steps took, one by one; waits for the device at each end."""

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
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _cuda() -> Any | None:
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
