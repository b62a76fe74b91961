"""A page in a browser without a network: what it asked for, and what its policy refused."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

AXE = Path(__file__).parent / "vendor/axe.min.js.gz"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WATCHING = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.refused.push(event.violatedDirective + " " + event.blockedURI + " " + event.sample);
});
"""


def executable() -> str | None:
    """The system's Chromium; None where playwright has to have one of its own."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Opened:
    """A page of `harness report`, opened from its file in a context of its own."""

    def __init__(self, browser: Any, place: Path | str, fragment: str = "", **context: Any) -> None:
        self.context = browser.new_context(**{"offline": True, **context})
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.add_init_script(WATCHING)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda line: self.errors.append(line.text) if line.type == "error" else None,
        )
        address = place if isinstance(place, str) else place.resolve().as_uri()
        self.page.goto(address + fragment)
        if context.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-ready]")

    def see(self, section: str) -> Any:
        """Scroll to a part of the page; its locator."""
        part = self.page.locator(f"#{section}")
        part.scroll_into_view_if_needed()
        return part

    def see_all(self) -> None:
        """Have every picture drawn."""
        shown = self.page.locator(".picture:not([hidden])")
        for number, picture in enumerate(shown.all()):
            picture.scroll_into_view_if_needed()
            # not wait_for_function, which evaluates a text: the policy refuses that
            shown.nth(number).and_(self.page.locator("[data-drawn=yes]")).wait_for()
        self.see("samples")
        self.page.wait_for_selector("#samples-one h3")

    def refused(self) -> list[str]:
        """What the page's policy refused."""
        found: list[str] = self.page.evaluate("window.refused")
        return found

    def asked_for(self) -> list[str]:
        """Every request beside the page itself."""
        return [url for url in self.requests[1:] if not url.startswith("data:")]

    def axe(self, within: str = "body") -> list[str]:
        """The serious and critical findings of axe-core, an element each."""
        self.page.evaluate(gzip.decompress(AXE.read_bytes()).decode())
        found = self.page.evaluate(f"axe.run('{within}', {{resultTypes: ['violations']}})")
        return [
            f"{one['id']}: {json.dumps(node['target'])} {node['html'][:200]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def count(self) -> int:
        """Samples that the filters let through, once they are listed."""
        self.page.wait_for_selector("#samples-list:not([aria-busy]) #samples-count")
        text: str = self.page.locator("#samples-count").inner_text()
        return int(text.split()[0])
