"""The suites and the training data that come with the harness."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from harness import hookimpl


@hookimpl
def register_suites(register: Callable[[Path], None]) -> None:
    """Every YAML file of the package `harness.suites`."""
    register(Path(str(files("harness.suites"))))


@hookimpl
def register_datasets(register: Callable[[str, Path], None]) -> None:
    """`support`: customer support of one fictional shop, 288 conversations."""
    register("support", Path(str(files("harness"))) / "bundled" / "support-train.jsonl")
