"""A browser for all tests of the page, and the page of the quickstart's records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli.report import page, reading
from tests.cli.report.browser import Opened, executable
from tests.conftest import ROOT

QUICKSTART = ROOT / "results/reference/quickstart"


def write_page(folder: Path, *results: Path) -> Path:
    """The page of some results folders."""
    file = folder / "report.html"
    file.write_text(page.page(reading.read(results)), encoding="utf-8")
    return file


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """For these tests alone: while it runs, playwright's event loop is this thread's, and other
    tests could start none."""
    playwright_api = pytest.importorskip("playwright.sync_api", reason="no playwright: make test")
    with playwright_api.sync_playwright() as playwright:
        try:
            # without its sandbox, which a container's root cannot have
            started = playwright.chromium.launch(
                executable_path=executable(), args=["--no-sandbox"]
            )
        except playwright_api.Error as error:
            pytest.skip(f"no Chromium (.ci/browser installs one): {error.message.splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """`opened(file, "#samples&suite=judge", viewport=...)` opens a page."""
    every: list[Opened] = []

    def open_page(file: Path, fragment: str = "", **context: Any) -> Opened:
        every.append(Opened(browser, file, fragment, **context))
        return every[-1]

    yield open_page
    for one in every:
        one.context.close()


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the quickstart's records."""
    return write_page(tmp_path_factory.mktemp("report"), QUICKSTART)
