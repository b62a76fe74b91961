"""Training, and a scorer, in a process whose address space is limited for real."""

import contextlib
import dataclasses
import os
import resource
import signal
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


class NarrowOptions(LowRankOptions):
    room: int = 64
    """MiB of address space that training may add."""
    killed_above: int = 0
    """The system kills it where a pass has more rows; 0: never."""


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
                if 0 < options.killed_above < job.notes["micro_batch"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                with room(options.room):
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
