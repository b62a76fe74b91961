"""What waiting for a judge behind an endpoint costs: 200 verdicts at 100 ms latency, 16 in flight.

    python benchmarks/judge_endpoint.py

The server is the tests' own, in this process, and its verdicts mean nothing. Prints seconds, beside
the 1.3 s that 13 rounds of 100 ms take at least, and those of importing the client library once.
"""

from __future__ import annotations

import importlib

from harness.api.judge import Question
from harness.evaluation.judging.endpoint import EndpointBackend, EndpointSettings
from harness.system.measure import Meter
from tests.endpoint_server import MODEL, Served, chat

VERDICTS, LATENCY, IN_FLIGHT = 200, 0.1, 16


def main() -> None:
    questions = [
        Question([{"role": "user", "content": f"Is answer {i} right?"}], ("1", "2", "3"))
        for i in range(VERDICTS)
    ]
    top = [[("2", 0.75), ("3", 0.25)]]
    with Served(lambda request, nth: chat("2", top=top, seconds=LATENCY)).running() as served:
        settings = EndpointSettings(url=served.url, model=MODEL, key=None, in_flight=IN_FLIGHT)
        backend = EndpointBackend(settings, most_missing=0.0)
        meter = Meter()
        with meter.phase("import"):
            importlib.import_module("openai")
        with meter.phase("verdicts"):
            replies = backend.ask(questions)
    assert all(reply.weights for reply in replies)
    seconds = meter.phases["verdicts"]["seconds"]
    once = meter.phases["import"]["seconds"]
    print(f"{VERDICTS} verdicts, {LATENCY:g} s each, {IN_FLIGHT} in flight: {seconds:.2f} s")
    print(f"importing openai: {once:.2f} s")


if __name__ == "__main__":
    main()
