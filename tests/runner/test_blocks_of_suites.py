"""Big suites, block by block: a killed worker loses one block, whatever asked for it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.results import store
from harness.runner.run import run_plan
from tests.conftest import Experiment, write_jsonl
from tests.warm import Warm

WORDS = ("kettle", "lamp", "tent", "bell", "pump", "map", "stove", "rope", "red", "green", "coin")


def big(experiment: Callable[..., Experiment], *names: str) -> Experiment:
    """The base and two suites of two or three blocks each: questions with choices, and answers."""
    small = experiment(suites=list(names))
    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(words))

    picks = [
        {"question": f"{text(40)}?", "choices": ["red", "green", "blue"], "answer": i % 3}
        for i in range(450)
    ]
    asked = [{"prompt": f"{text(6)}?", "reference": text(2)} for _ in range(1300)]
    for name, ask, rows, more in (
        ("questions", "choice", picks, {}),
        ("talks", "generate", asked, {"scorers": ["exact_match"], "max_new_tokens": 4}),
    ):
        write_jsonl(small.folder / f"{name}.jsonl", rows)
        suite = {"name": name, "version": 1, "ask": ask, "data": f"{name}.jsonl", **more}
        (small.folder / f"{name}.yaml").write_text(yaml.safe_dump(suite))
    return small


class Run:
    """A run whose worker is killed as soon as it kept a block of a kind; its events stay."""

    def __init__(self, small: Experiment, warm: Warm) -> None:
        self.small, self.warm = small, warm

    def go(self, kill: str | None = None) -> Any:
        plan = make_plan(load_experiment(self.small.file), Plugins(), Settings())
        over = threading.Event()
        if kill:
            threading.Thread(target=self._kill, args=(kill, over)).start()
        try:
            return run_plan(plan, self.small.out, self.warm, lambda cell, event: None)  # type: ignore[arg-type]
        finally:
            over.set()

    def _kill(self, kind: str, over: threading.Event) -> None:
        while not over.wait(0.005):
            if kind in {block["kind"] for block in blocks(self.small)}:
                for child in psutil.Process(self.warm.process.pid).children():
                    child.kill()
                return


def blocks(small: Experiment) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in small.out.glob("blocks/*/*.json")]


def results(small: Experiment) -> dict[str, tuple[Any, Any]]:
    """Suite -> its figures and the hash of its samples, as the base's record has them."""
    (file,) = (small.out / "cells").glob("*.json")
    record = store.read_record(file)
    store.validate(record, "record")
    assert record["status"] == "ok"
    return {
        name: (section["metrics"], section["samples"]["sha256"])
        for name, section in store.suites(record).items()
    }


def evaluation(small: Experiment) -> dict[str, Any]:
    return dict(small.records()["base-0"]["evaluation"])


def test_a_worker_that_is_killed_in_a_suite_computes_the_other_blocks_alone(
    experiment: Callable[..., Experiment], warm: Warm, tmp_path: Path
) -> None:
    """Killed after a block of the first suite, then after one of the second."""
    small = big(experiment, "questions", "talks")
    run = Run(small, warm)
    assert not run.go().failed
    whole, phases = results(small), evaluation(small)["phases"]
    assert "resumed" not in evaluation(small)
    assert not (small.out / "blocks").exists()
    small.out.rename(tmp_path / "uninterrupted")

    assert run.go(kill="likelihoods").failed
    assert "SIGKILL" in small.records()["base-0"]["error"]["message"]
    first = blocks(small)
    assert first
    (at_first,) = (file for file in (small.out / "blocks").iterdir())

    assert run.go(kill="answers").failed
    assert {block["kind"] for block in first} == {"likelihoods"}
    second = blocks(small)
    assert first[0] in second
    assert [at_first] == list((small.out / "blocks").iterdir())
    requests = [len(block["keys"]) for block in second if block["kind"] == "answers"]
    assert requests

    assert not run.go().failed
    assert results(small) == whole
    record = evaluation(small)
    assert record["suites"]["questions"]["reused"] == small.records()["base-0"]["id"]
    resumed = record["resumed"]
    assert (resumed["blocks"], resumed["requests"]) == (len(requests), sum(requests))
    assert set(record["phases"]) == set(phases) - {"loglikelihood", "questions"}
    assert record["phases"]["generate"]["seconds"] > resumed["seconds"] > 0
    assert not (small.out / "blocks").exists()
