"""Big suites, block by block: a killed worker loses one block, whatever asked for it."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.results import store
from harness.runner.run import run_plan
from tests.conftest import Experiment, write_experiment, write_jsonl
from tests.warm import Several, Warm

WORDS = ("kettle", "lamp", "tent", "bell", "pump", "map", "stove", "rope", "red", "green", "coin")


def big(folder: Path, model: Path) -> Experiment:
    """The base and two suites of two or three blocks each: questions with choices, and answers."""
    small = write_experiment(folder, model).write(suites=["questions", "talks"])
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

    def __init__(self, small: Experiment, warm: Warm | Several) -> None:
        self.small, self.warm = small, warm

    def go(self, kill: str | None = None, workers: int = 1) -> Any:
        plan = make_plan(load_experiment(self.small.file), Plugins(), Settings())
        over = threading.Event()
        if kill:
            threading.Thread(target=self._kill, args=(kill, over)).start()
        try:
            return run_plan(
                plan,
                self.small.out,
                self.warm,  # type: ignore[arg-type]
                lambda cell, event: None,
                workers=workers,
            )
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, warm: Warm) -> Experiment:
    """A run that nobody interrupted."""
    small = big(tmp_path_factory.mktemp("whole"), tiny_model)
    assert not Run(small, warm).go().failed
    assert "resumed" not in evaluation(small)
    assert not (small.out / "blocks").exists()
    return small


def test_a_worker_that_is_killed_in_a_suite_computes_the_other_blocks_alone(
    whole: Experiment, tmp_path: Path, tiny_model: Path, warm: Warm
) -> None:
    """Killed after a block of the first suite, then after one of the second."""
    small = big(tmp_path, tiny_model)
    run = Run(small, warm)
    assert run.go(kill="likelihoods").failed
    assert "SIGKILL" in small.records()["base-0"]["error"]["message"]
    first = blocks(small)
    assert first
    assert {block["kind"] for block in first} == {"likelihoods"}
    (at_first,) = (small.out / "blocks").iterdir()

    assert run.go(kill="answers").failed
    second = blocks(small)
    assert first[0] in second
    assert [at_first] == list((small.out / "blocks").iterdir())
    requests = [len(block["keys"]) for block in second if block["kind"] == "answers"]
    assert requests

    assert not run.go().failed
    assert results(small) == results(whole)
    record = evaluation(small)
    assert record["suites"]["questions"]["reused"] == small.records()["base-0"]["id"]
    resumed = record["resumed"]
    assert (resumed["blocks"], resumed["requests"]) == (len(requests), sum(requests))
    assert set(record["phases"]) == {"reload", "generate", "talks"}
    assert record["phases"]["generate"]["seconds"] > resumed["seconds"] > 0
    assert not (small.out / "blocks").exists()


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_share_a_cell_and_its_record_is_the_same(
    whole: Experiment, tmp_path: Path, tiny_model: Path, warm: Warm, workers: int
) -> None:
    small = big(tmp_path, tiny_model)
    several = Several(warm, tmp_path, ready=lambda: bool(blocks(small)))
    outcome = Run(small, several).go(workers=workers)
    assert not outcome.failed
    assert results(small) == results(whole)
    assert several.helpers == workers - 1
    own, record = evaluation(whole), evaluation(small)
    assert record["resumed"]["blocks"] >= 1
    assert set(record["phases"]) == set(own["phases"])
    phases = record["phases"]
    assert phases["loglikelihood"]["seconds"] > record["resumed"]["seconds"] * 0.1 > 0
    assert phases["loglikelihood"]["peak_host_bytes"] > 0
    assert small.records()["base-0"]["warnings"] == whole.records()["base-0"]["warnings"]
    assert not (small.out / "blocks").exists()
    assert not list(small.out.glob("logs/*.job"))
