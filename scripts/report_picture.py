"""Makes docs/images/report.png, the picture in the README, of the quickstart's recorded results.

`python scripts/report_picture.py` needs playwright and a Chromium (`make browser`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from harness.cli.report import page, reading

ROOT = Path(__file__).parent.parent
SIZE = {"width": 1240, "height": 1060}


def main() -> None:
    """Write the page to a file, and a picture of its beginning."""
    from playwright.sync_api import sync_playwright

    results = reading.read([ROOT / "results/reference/quickstart"])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(page.page(results), encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox"],
        )
        opened = browser.new_page(viewport=SIZE, color_scheme="light")
        opened.goto(file.as_uri())
        opened.locator("#tradeoff .picture[data-drawn=yes]").wait_for()
        target = ROOT / "docs/images/report.png"
        target.parent.mkdir(exist_ok=True)
        opened.screenshot(path=target, animations="disabled")
        browser.close()
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
