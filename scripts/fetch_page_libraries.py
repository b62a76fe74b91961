"""Fetches the libraries that the report's page holds, at the versions in libraries.json.

`python scripts/fetch_page_libraries.py` downloads each package from the npm registry, checks it
against the registry's own hash as it is pinned, and writes its files where they are kept; what was
there is replaced. To move a pin, change `version` and `integrity` (`npm view PACKAGE@VERSION
dist.integrity`), run this, and commit the files with the hashes that it writes back. Behind a
mirror set NPM_CONFIG_REGISTRY. The rules that plotly adds at run time are read from a browser, so
that playwright and a Chromium are needed for those.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MANIFESTS = (
    ROOT / "harness/cli/report/vendor/libraries.json",
    ROOT / "tests/cli/report/vendor/libraries.json",
)
REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
RULES = """
() => [...document.getElementById("plotly.js-style-global").sheet.cssRules]
  .map((rule) => rule.cssText).reverse().join("\\n")
"""
HEADER = """\
/* The rules that plotly.js adds at run time (MIT, plotly.LICENSE). The page's policy lets no rule
   be added, so they stand here; scripts/fetch_page_libraries.py reads them from a browser. */
"""


def main() -> None:
    """Fetch all packages of all manifests."""
    for manifest in MANIFESTS:
        libraries = json.loads(manifest.read_text(encoding="utf-8"))
        for library in libraries:
            _fetch(library, manifest.parent)
        manifest.write_text(json.dumps(libraries, indent=2) + "\n", encoding="utf-8")


def _fetch(library: dict[str, Any], folder: Path) -> None:
    package, version = library["package"], library["version"]
    url = f"{REGISTRY}/{package}/-/{package}-{version}.tgz"
    with urllib.request.urlopen(url, timeout=60) as answer:
        content = answer.read()
    kind, _, wanted = library["integrity"].partition("-")
    found = base64.b64encode(hashlib.new(kind, content).digest()).decode()
    if found != wanted:
        raise SystemExit(f"{url}: {kind} is {found}, and {wanted} is pinned: nothing was written")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for file in library["files"]:
            member = archive.extractfile(f"package/{file['from']}")
            assert member is not None, file["from"]
            _keep(file, folder, member.read())
    for file in library.get("made", ()):
        _keep(file, folder, _rules(folder / library["files"][0]["to"]).encode())
    print(f"{package} {version}")


def _keep(file: dict[str, str], folder: Path, content: bytes) -> None:
    compressed = file["to"].endswith(".gz")
    (folder / file["to"]).write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    file["sha256"] = hashlib.sha256(content).hexdigest()


def _rules(library: Path) -> str:
    """The style sheet that plotly makes itself, in a page that has no policy."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.set_content("<div id=picture></div>")
        page.add_script_tag(path=library)
        page.evaluate("Plotly.newPlot('picture', [{x: [1], y: [1]}], {}, {displayModeBar: false})")
        rules: str = page.evaluate(RULES)
        browser.close()
    return HEADER + rules + "\n"


if __name__ == "__main__":
    main()
