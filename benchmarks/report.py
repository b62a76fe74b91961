"""How long `harness report` takes, how large its page is, and when a browser can use it.

`python benchmarks/report.py` measures the quickstart's page and one of 50 rows with 10,000 samples
each, made of the quickstart's records with other answers. "Interactive" is when the table sorts and
all other parts listen, in Chromium, from the start of the navigation.
"""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.results import store

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "results/reference/quickstart"
ROWS, SAMPLES = 50, 10_000
WORDS = (
    *("the", "bag", "comes", "back", "within", "days", "of", "delivery", "and", "costs"),
    *("euros", "more", "than", "a", "lamp", "on", "hill"),
)


def main() -> None:
    """Print both measurements."""
    with tempfile.TemporaryDirectory() as folder:
        for name, results in (
            ("quickstart", QUICKSTART),
            (f"{ROWS} rows of {SAMPLES} samples", large(Path(folder) / "large")),
        ):
            measure(name, results, Path(folder) / "report.html")


def measure(name: str, results: Path, file: Path) -> None:
    command = [sys.executable, "-m", "harness.cli", "report", str(results), "-o", str(file)]
    for attempt in ("first", "again"):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        print(f"{name}: written ({attempt}) in {time.perf_counter() - start:.1f} s")
    print(f"{name}: {file.stat().st_size / 1e6:.1f} MB; {in_browser(file)}")


def in_browser(file: Path) -> str:
    from playwright.sync_api import sync_playwright

    from tests.cli.report.browser import executable

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        ready = []
        for _ in range(3):
            page = browser.new_page()
            page.goto(file.resolve().as_uri())
            ready.append(int(page.locator("html[data-ready]").get_attribute("data-ready") or 0))
            page.close()
        page = browser.new_page()
        page.goto(file.resolve().as_uri() + "#samples&changed=worse")
        start = time.perf_counter()
        page.wait_for_selector("#samples-one .card", timeout=120_000)
        seconds = time.perf_counter() - start
        browser.close()
    return f"interactive after {', '.join(map(str, sorted(ready)))} ms; 'got worse' {seconds:.1f} s"


def large(folder: Path) -> Path:
    """50 rows: the base, and 49 of `full` with labels and learning rates of their own."""
    random.seed(0)
    ids = [f"question-{number:05d}" for number in range(SAMPLES)]
    texts = [" ".join(random.choices(WORDS, k=12)) for _ in ids]
    base = _record("base")
    for number in range(ROWS):
        record = copy.deepcopy(base if number == 0 else _record("full"))
        if number:
            record["plan"]["label"] = f"full-{number}"
            record["plan"]["options"]["lr"] = number * 1e-5
            record["id"] = f"full-{number}-s0-0000000000"
        suite = record["evaluation"]["suites"]["similarity"]
        record["evaluation"]["suites"] = {"similarity": suite}
        record["plan"]["suites"] = ["similarity"]
        names = [metric["estimator"]["score"] for metric in suite["metrics"].values()]
        rows: list[dict[str, Any]] = [
            {
                "id": key,
                "prompt": [{"role": "user", "content": text}],
                "reference": text[: len(text) // 2],
                "output": " ".join(random.choices(WORDS, k=14)),
                "scores": {name: float(random.random() < 0.3 + number / 100) for name in names},
            }
            for key, text in zip(ids, texts, strict=True)
        ]
        suite["samples"] = store.write_samples(folder, record["id"], "similarity", rows)
        store.write_record(folder, record)
    return folder


def _record(label: str) -> Any:
    (file,) = (QUICKSTART / "cells").glob(f"{label}-*.json")
    record = json.loads(file.read_text())
    del record["sha256"]
    return record


if __name__ == "__main__":
    main()
