"""A method, an executor and a scorer that break as the environment variable FAULT says."""

import os
import sys

from harness import Artifact, Executor, Method, MethodOptions, hookimpl, scorer

FAULT = os.environ.get("FAULT", "")


class FaultyOptions(MethodOptions):
    def check(self, precision):
        print("printed by a plugin")
        if FAULT == "moves":
            os.chdir("/")
        if FAULT == "check raises":
            raise ValueError("no check today")
        if FAULT == "check exits":
            sys.exit(0)

    def fits(self, model):
        if FAULT == "fits raises":
            raise KeyError("width")

    def footprint(self):
        if FAULT == "footprint raises":
            raise ZeroDivisionError("no bytes")


class Faulty(Method):
    name, Options = "faulty", FaultyOptions

    def train(self, job):
        with job.phase("train"):
            if FAULT == "notes":
                job.notes["loss_curve"] = "rubbish"
            if FAULT == "train exits":
                sys.exit(0)
            if FAULT == "stream":
                for number in range(3, 20):  # whichever is the stream of events
                    try:
                        os.write(number, b"not JSON\n[1]\n{}\n\xff\n")
                    except OSError:
                        continue
        if FAULT == "returns nothing":
            return None
        return Artifact("base", job.model)


class FaultyExecutor(Executor):
    name = "faulty"

    def run(self, job_file, log_file):
        if FAULT == "moves":
            os.chdir("/")
        if FAULT == "executor raises":
            raise ConnectionError("no such cluster")
        if FAULT == "executor returns None":
            return None
        if FAULT == "executor exits":
            sys.exit(0)
        return self._events()

    def _events(self):
        if FAULT == "executor raises late":
            yield {"event": "phase", "name": "train"}
            raise ConnectionError("the cluster is gone")
        if FAULT == "no event":
            yield {"event": "phase"}
        if FAULT == "no mapping":
            yield "exit"


@scorer("faulty")
def faulty(text, sample):
    if FAULT == "scorer nan" and sample.id == "tent":
        return float("nan")
    return {"scorer text": "good", "scorer nothing": None}.get(FAULT, 1.0)


@scorer("few", batch=True)
def few(outputs, samples, tools):
    return [1.0] if FAULT == "scorer few" else [1.0] * len(outputs)


@hookimpl
def register_methods(register):
    register(Faulty())


@hookimpl
def register_executors(register):
    register(FaultyExecutor())


@hookimpl
def register_scorers(register):
    register(faulty)
    register(few)


@hookimpl
def register_commands(cli):
    if FAULT == "commands raise":
        raise ValueError("no commands today")

    @cli.command()
    def breaks():
        """End as FAULT says."""
        if FAULT == "command raises":
            raise ValueError("no command today")
        if FAULT == "command says":
            sys.exit("words")
        print("\x1b[1mdone\x1b[0m")
