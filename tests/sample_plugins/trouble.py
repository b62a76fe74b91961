"""A method that breaks in the way that its option names, a scorer that kills, and a command."""

import os
import signal
import sys
from pathlib import Path
from typing import Literal

import click

from harness import CellFailed, Method, MethodOptions, hookimpl, scorer

TOKEN = "planted-value-of-a-token"
ADDRESS = "https://me:planted-password@example.org/v1?api_key=planted-key"
HEAVY = ["torch", "bitsandbytes", "transformers", "datasets", "peft", "trl.trainer.sft_trainer"]


class TroubleOptions(MethodOptions):
    how: Literal["error", "memory", "diverged", "killed", "exit", "stopped", "leaks", "tells"] = (
        "error"
    )
    """What goes wrong."""


class Trouble(Method):
    name, Options = "trouble", TroubleOptions

    def train(self, job):
        if job.options.how == "tells":
            raise ValueError(f"imported: {[name for name in HEAVY if name in sys.modules]}")
        if job.options.how == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        with job.phase("train"):
            if job.options.how == "memory":
                raise MemoryError("out of memory: tried to allocate 9 GiB")
            if job.options.how == "diverged":
                raise CellFailed("loss is not finite at step 1", status="diverged")
            if job.options.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if job.options.how == "exit":
                os._exit(3)
            if job.options.how == "leaks":
                os.environ["SOME_SERVICE_TOKEN"] = TOKEN
                print(f"asking with {TOKEN}")
                job.warn(f"{ADDRESS} was slow")
                raise ValueError(f"401 from {ADDRESS}: {TOKEN} is not known")
            raise ValueError("this method always breaks")


@scorer("stumble")
def stumble(text, sample):
    """Ends the process as long as the file is there that the sample names."""
    if Path(sample.extra["stone"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return float(len(text))


@hookimpl
def register_methods(register):
    register(Trouble())


@hookimpl
def register_scorers(register):
    register(stumble)


@hookimpl
def register_commands(cli):
    @cli.command()
    def shout():
        """Say something."""
        click.echo("TROUBLE")
