"""The process of which workers are forked: it has imported what most of them need.

`python -m harness.runner.worker_server` with a socket as its standard input
(`system.workers.fork_server`). No module of a plugin is imported: plugins are each worker's own.
"""

from __future__ import annotations

import sys

from harness.results import schema
from harness.runner import libraries, worker
from harness.system.child_process import one_gpu, quiet_libraries
from harness.system.workers import fork_server


def main() -> int:
    """Serve until the run is over; in a worker run its cell and return its exit code."""
    one_gpu()
    quiet_libraries()
    for _ in libraries.importing([*libraries.TRAINING, *libraries.SUITES]):
        if fork_server.abandoned():
            return 0
    schema.prepare("record")
    arguments = fork_server.forked()
    return 0 if arguments is None else worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
