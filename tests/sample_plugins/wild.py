"""A method that does what a method should not, as its option says, and then trains like LoRA."""

import ctypes
import os
import random
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from harness import Artifact, LowRankOptions, Method, hookimpl, train_sft

GIB = 2**30


class WildOptions(LowRankOptions):
    how: Literal[
        "raises",
        "nothing",
        "rubbish",
        "prints",
        "forks",
        "seeds",
        "moves",
        "segfault",
        "memory",
        "hangs",
        "exits",
        "threads",
        "deletes",
    ] = "raises"
    """What it does."""


class Wild(Method):
    name, Options = "wild", WildOptions

    def train(self, job):
        answer = getattr(self, job.options.how)(job)
        if answer is not None:
            return answer[0]
        return train_sft(job, peft=job.options.lora_config(), **job.options.recipe())

    # what ends its cell

    def raises(self, job):
        raise ValueError("this method always breaks")

    def nothing(self, job):
        return [None]

    def rubbish(self, job):
        job.notes["loss_curve"] = object()
        return [Artifact("base", job.model)]

    def segfault(self, job):
        ctypes.string_at(0)

    def memory(self, job):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        used = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + GIB, hard))
        try:
            bytearray(64 * GIB)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    def hangs(self, job):
        while True:
            time.sleep(1)

    def exits(self, job):
        sys.exit(0)

    # what does not

    def prints(self, job):
        print('{"event": "exit", "code": 0}', "\x1b[2J", "x" * 200_000)
        os.write(1, b"not JSON\n[1]\n{}\n\xff\n")
        sys.stderr.write("\x00\xff" * 1000)

    def forks(self, job):
        if not os.fork():
            time.sleep(30)
            os._exit(0)

    def seeds(self, job):
        import numpy
        import torch

        random.seed(99)
        numpy.random.seed(99)
        torch.manual_seed(99)

    def moves(self, job):
        os.chdir("/")
        os.environ.update(HOME="/nonexistent", HARNESS_CACHE="/nonexistent")

    def threads(self, job):
        threading.Thread(target=self.hangs, args=(job,), daemon=True).start()

    def deletes(self, job):
        for file in (job.folder.parent.parent / "logs").glob("*"):
            file.unlink()


@hookimpl
def register_methods(register):
    register(Wild())
