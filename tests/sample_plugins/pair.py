"""An executor of one's own: two cells at once on this machine."""

import json
from subprocess import PIPE, Popen

from harness import Executor, hookimpl, worker_command, worker_environment


class Pair(Executor):
    """Two workers at a time."""

    name, concurrency = "pair", 2

    def run(self, job_file, log_file):
        """The events of one worker."""
        command, settings = worker_command(job_file), {"env": worker_environment(), "text": True}
        with log_file.open("ab") as log, Popen(command, stdout=PIPE, stderr=log, **settings) as one:
            try:
                yield from map(json.loads, one.stdout)
                yield {"event": "exit", "code": one.wait()}
            finally:
                one.terminate()


@hookimpl
def register_executors(register):
    register(Pair())
