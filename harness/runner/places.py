"""Where the workers of a run are computed: a GPU for each, or a share of the CPU's cores."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.errors import UserError
from harness.system import child_process, hub
from harness.system.hardware import Gpu, Machine

Note = Callable[[str], None]


class Places:
    """A fixed number of places, each for one worker at a time; any thread may take one."""

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self._free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        self._count = len(places)
        for place in places:
            self._free.put(place)

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def one(self) -> Iterator[None]:
        """Have the children of this thread run at a place that is free; waits for one."""
        place = self._free.get()
        before = child_process.PLACE.set(place)
        try:
            yield
        finally:
            child_process.PLACE.reset(before)
            self._free.put(place)

    @contextmanager
    def spare(self, over: threading.Event) -> Iterator[bool]:
        """As `one`, of a place that nobody waits for; False once it is `over`."""
        while not over.wait(SPARE):
            try:
                place = self._free.get_nowait()
            except queue.Empty:
                continue
            before = child_process.PLACE.set(place)
            try:
                yield True
            finally:
                child_process.PLACE.reset(before)
                self._free.put(place)
            return
        yield False


SPARE = 0.5
"""Seconds after which a place that is free is waited for by no cell."""


@contextmanager
def held(jobs: int, machine: Machine, note: Note) -> Iterator[Places]:
    """Places for `jobs` workers, GPUs where there are any; other runs see that they are taken.

    A card that others use is passed over, and `note` is called with a line that says so; with
    fewer free cards than `jobs` there are as many places as cards. Raises UserError for more jobs
    than cores on a machine without a GPU.
    """
    if machine.device != "cuda":
        yield Places(_on_cores(jobs, machine.cores))
        return
    with ExitStack() as locks:
        cards = _cards(jobs, machine.gpus, locks, note)
        yield Places([child_process.on_gpu(card) for card in cards])


def _on_cores(jobs: int, cores: int) -> list[Mapping[str, str]]:
    if jobs > cores:
        raise UserError(
            f"--jobs {jobs}: this machine has no GPU and {cores} cores, one for each job at "
            f"least: take --jobs {cores} or less"
        )
    threads = {"OMP_NUM_THREADS": str(cores // jobs)}
    own = jobs == 1 or "OMP_NUM_THREADS" in os.environ
    return [{} if own else threads for _ in range(jobs)]


def _cards(jobs: int, gpus: Sequence[Gpu], locks: ExitStack, note: Note) -> list[Gpu]:
    """At most `jobs` cards, locked: the free ones, or the emptiest where none is free."""
    taken: list[Gpu] = []
    passed: list[str] = []
    for gpu in gpus:
        if len(taken) == jobs:
            break
        run = None if gpu.busy else locks.enter_context(_locked(gpu))
        if gpu.busy:
            passed.append(f"{_name(gpu)} is busy ({(gpu.free_bytes or 0) / 2**30:.1f} GiB free)")
        elif run:
            passed.append(f"{_name(gpu)} has {run}")
        else:
            taken.append(gpu)
    if not taken:
        emptiest = max(gpus, key=lambda gpu: gpu.free_bytes or 0)
        note(
            f"Note: {'; '.join(passed)}: this run shares {_name(emptiest)}, and so memory and "
            "time; wait, or choose another card with CUDA_VISIBLE_DEVICES"
        )
        return [emptiest]
    why = f" ({'; '.join(passed)})" if passed else ""
    if len(taken) < jobs:
        note(f"Note: --jobs {jobs}: {len(taken)} of {len(gpus)} GPUs are free{why}: one job each")
    elif passed:
        note(f"Note: passed over: {'; '.join(passed)}")
    return taken


def _name(gpu: Gpu) -> str:
    return f"{gpu.name} ({gpu.id})" if gpu.id else gpu.name


@contextmanager
def _locked(gpu: Gpu) -> Iterator[str | None]:
    """Hold a card; what holds it already, in words, or None.

    The system lets go of it when this process ends. Windows and some file systems lock nothing.
    """
    file = hub.cache_dir() / "gpus" / f"{(gpu.id or 'gpu').replace('/', '-')}.lock"
    descriptor = _opened(file)
    if descriptor is None:
        yield None
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _opened(file: Path) -> int | None:
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    return None


def _lock(descriptor: int) -> str | None:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        return f"another run of the harness (process {holder or 'unknown'})"
    except (ImportError, OSError):
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return None
