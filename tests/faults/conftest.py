"""The experiment that faults are injected into, and what an undisturbed run of it gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Experiment, run_warm
from tests.faults.runs import four_methods
from tests.warm import Warm


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, warm: Warm) -> Experiment:
    """Four methods, one seed, two suites, and their results. Read it, no more."""
    small = four_methods(tmp_path_factory.mktemp("reference"), tiny_model)
    outcome = run_warm(small, warm)
    assert not outcome.failed
    return small


@pytest.fixture
def copied(reference: Experiment, tmp_path: Path) -> Callable[[str], Experiment]:
    """`copied("name")` is the finished experiment in a folder of its own, to be damaged."""

    def copy(name: str) -> Experiment:
        folder = tmp_path / name
        shutil.copytree(reference.folder, folder)
        return Experiment(folder, reference.content)

    return copy
