"""Training, and a scorer, in a process whose address space is limited for real."""

import contextlib
import dataclasses
import os
import resource
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from harness import LowRankOptions, Method, hookimpl, scorer, train_sft

PAGE = resource.getpagesize()


@contextmanager
def room(mebibytes):
    """So much more memory and none beside it: no more address space, and the free heap filled."""
    kept = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used, kept[1]))
    filled = []
    with contextlib.suppress(MemoryError):
        while True:
            filled.append(bytearray(2**18))
    resource.setrlimit(resource.RLIMIT_AS, (used + mebibytes * 2**20, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)
        filled.clear()


def fill():
    """Use what there is, long enough to be seen."""
    filled = []
    with contextlib.suppress(MemoryError):
        while True:
            filled.append(bytearray(2**18))
    filled[-8:] = []
    time.sleep(0.5)


def die(name):
    """Of a signal."""
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


class NarrowOptions(LowRankOptions):
    room: int = 64
    """MiB of address space that training may add."""
    killed_above: int = 0
    """It dies where a pass has more rows; 0: never."""
    dies_of: str = "SIGKILL"
    full: bool = True
    """Whether all its memory is in use then."""


class Narrow(Method):
    """LoRA under a limit that is set when training starts."""

    name, Options = "narrow", NarrowOptions

    def train(self, job):
        options = job.options
        plain = job.phase

        @contextmanager
        def phase(name):
            with plain(name):
                if name != "train":
                    yield
                    return
                dies = 0 < options.killed_above < job.notes["micro_batch"]
                if dies and not options.full:
                    die(options.dies_of)
                with room(options.room):
                    if dies:
                        fill()
                        die(options.dies_of)
                    yield

        job = dataclasses.replace(job, phase=phase)
        return train_sft(job, peft=options.lora_config(), **options.recipe())


@scorer("swell")
def swell(text, sample):
    """Needs more than there is, as long as the file is there that the sample names."""
    if Path(sample.extra["stone"]).exists():
        with room(64):
            bytearray(2**30)
    return float(len(text))


@hookimpl
def register_methods(register):
    register(Narrow())


@hookimpl
def register_scorers(register):
    register(swell)
