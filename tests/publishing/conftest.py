"""A cell of the finished experiment, published once, for tests that read it or change a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.export import merge_worker
from harness.manager import Plugins
from harness.publishing import publication
from harness.publishing.publication import Publication
from harness.record import Record
from harness.results import store
from harness.results.store import Rows
from harness.system import child_process
from harness.verification import model_worker
from harness.verification.suites_at_hand import SuitesAtHand


@pytest.fixture(scope="session", autouse=True)
def exports_here() -> Iterator[None]:
    """The child's work in this process: it saves the seconds of importing torch."""

    workers: dict[str, Any] = {worker.__name__: worker for worker in (merge_worker, model_worker)}

    def events(module: str, told: bytes) -> Iterator[dict[str, Any]]:
        from pydantic import TypeAdapter

        said: list[dict[str, Any]] = []
        worker = workers[module]
        task = TypeAdapter(worker.Task).validate_json(told)
        result = worker.carry_out(task, lambda **event: said.append(event))
        yield from [*said, {"result": json.loads(json.dumps(store.plain(result)))}]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(child_process, "events", events)
        yield


@dataclass(frozen=True)
class Published:
    """A published folder, and what is in it."""

    folder: Path
    cell: str

    @property
    def told(self) -> Publication:
        return publication.parsed(publication.content(self.folder), self.folder)

    @property
    def results(self) -> Path:
        return self.folder / publication.RESULTS

    @property
    def record(self) -> Record:
        return store.read_record(self.results / "cells" / f"{self.cell}.json")

    def rows(self) -> dict[str, Rows]:
        return {
            s: store.read_samples(self.results, self.record, s) for s in store.suites(self.record)
        }

    def reseal(self) -> None:
        """Make `publication.json` that of the files as they are now, as anybody could."""
        self.told.write(self.folder)


@pytest.fixture(scope="session")
def publishing(finished: Any) -> Callable[..., Result]:
    """`publishing("lora", "--to", DIR ...)` runs the command on the finished experiment."""

    def run(label: str, *arguments: object, results: Path | None = None) -> Result:
        cell = finished.records()[f"{label}-0"]["id"]
        where = ["--results", str(results or finished.out)]
        command = ["publish", cell, *map(str, arguments), *where]
        return CliRunner().invoke(cli, command, catch_exceptions=True)

    return run


@pytest.fixture(scope="session")
def adapter(
    publishing: Callable[..., Result], finished: Any, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    """LoRA's cell, published. Read it, no more."""
    to = tmp_path_factory.mktemp("published") / "lora"
    result = publishing("lora", "--to", to, "--license", "apache-2.0", "--name", "shop/tiny-lora")
    assert result.exit_code == 0, result.output + repr(result.exception)
    return Published(to, finished.records()["lora-0"]["id"])


@pytest.fixture
def copy(adapter: Published, tmp_path: Path) -> Published:
    """The published cell, to be changed."""
    shutil.copytree(adapter.folder, tmp_path / "published")
    return Published(tmp_path / "published", adapter.cell)


@pytest.fixture(scope="session")
def at_hand(finished: Any) -> SuitesAtHand:
    return SuitesAtHand(Plugins(discover=False), [finished.folder])
