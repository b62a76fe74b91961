"""What models and strangers wrote is shown as text, and never run: planted, and looked at."""

import gzip
import hashlib
import json

import pytest

from harness.results import store
from tests.cli.report.browser import Opened
from tests.cli.report.conftest import QUICKSTART, write_page

SCRIPT = "</script><script>window.ran = 1</script>"
IMAGE = "<img src=x onerror='window.ran = 2'><svg onload='window.ran = 3'>"
LINK = "<a href='javascript:window.ran=4'>link</a> {{core}} <!-- <script> ${window.ran=5}"
CONTROL = "null \x00 escape \x1b[31m bell \x07 carriage\r end"
TURNED = "price \u202e 001 \u202c \u2066isolated\u2069 \u200f"
SURROGATE = "half \ud83d pair"
LONG = "word " * 200_000 + "END"
PLANTED = {
    "script": SCRIPT,
    "image": IMAGE,
    "link": LINK,
    "control": CONTROL,
    "turned": TURNED,
    "surrogate": SURROGATE,
    "long": LONG,
}


def plant(folder):
    """Two rows of the quickstart with planted texts wherever a record or a sample has text."""
    for label in ("base", "full"):
        file = next((QUICKSTART / "cells").glob(f"{label}-*.json"))
        record = json.loads(file.read_text())
        suite = record["evaluation"]["suites"]["similarity"]
        record["evaluation"]["suites"] = {"similarity": suite}
        record["plan"]["suites"] = ["similarity"]
        (original,) = store.read_records([file])
        rows = store.read_samples(QUICKSTART, original.data, "similarity")
        rows = [dict(row) for row in rows]
        for row, (name, text) in zip(rows, PLANTED.items(), strict=False):
            row |= {"id": f"{name} {SCRIPT}", "output": text, "group": IMAGE}
            row["prompt"] = [{"role": IMAGE, "content": text[:1000]}]
            row["reference"] = SCRIPT
        content = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
        suite["samples"]["sha256"] = hashlib.sha256(content).hexdigest()
        place = folder / suite["samples"]["file"]
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
        record["warnings"] = [SCRIPT, IMAGE, CONTROL]
        record["plan"]["experiment"] = f"name {SCRIPT}"
        record["plan"]["label"] = f"{label} {IMAGE}{SURROGATE}"
        record["plan"]["options"]["note"] = SCRIPT
        record["environment"]["cpu"] = IMAGE
        record["evaluation"]["suites"]["similarity"]["notes"]["label"] = SCRIPT
        (folder / "cells").mkdir(exist_ok=True)
        text = json.dumps(store.seal(record))
        (folder / "cells" / file.name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return write_page(folder, plant(folder / "results"))


@pytest.fixture(scope="module")
def shown(browser, planted):
    """The page with every picture drawn, opened once."""
    one = Opened(browser, planted, "#samples&suite=similarity")
    one.see_all()
    yield one
    one.context.close()


def test_nothing_planted_is_run(shown):
    page = shown.page
    for button in page.locator("#samples-list button").all()[: len(PLANTED)]:
        button.click()
        page.wait_for_selector("#samples-one .card")
    page.locator("#tradeoff .picture").hover()
    assert page.evaluate("window.ran") is None
    assert (shown.asked_for(), shown.refused(), shown.errors) == ([], [], [])
    assert page.locator("main img, main [onerror], main [onload], a[href^=javascript]").count() == 0


@pytest.mark.parametrize("name", [name for name in PLANTED if name != "long"])
def test_what_is_planted_is_shown_as_text(shown, name):
    """Letter for letter; what cannot be seen is written out."""
    number = list(PLANTED).index(name)
    shown.page.locator("#samples-list button").nth(number).click()
    shown.page.locator("#samples-one h3", has_text=name).wait_for()
    card = shown.page.locator(".card", has_text="full").first.locator(".text")
    text = card.evaluate("element => element.textContent")
    written = {
        "\x00": "\\u0000", "\x1b": "\\u001b", "\x07": "\\u0007", "\r": "\\u000d",
        "\u202e": "\\u202e", "\u202c": "\\u202c", "\u2066": "\\u2066", "\u2069": "\\u2069",
        "\u200f": "\\u200f", "\ud83d": "\\ud83d",
    }  # fmt: skip
    assert text == "".join(written.get(letter, letter) for letter in PLANTED[name])


def test_a_megabyte_is_shown_when_it_is_asked_for(shown):
    shown.page.locator("#samples-list button").nth(list(PLANTED).index("long")).click()
    card = shown.page.locator(".card", has_text="full").first
    card.get_by_role("button", name="characters more").click()
    assert card.locator(".text").evaluate("element => element.textContent") == LONG


def test_the_table_without_javascript_shows_it_as_text(opened, planted):
    one = opened(planted, java_script_enabled=False)
    table = one.page.locator("#leaderboard table").inner_text()
    assert "full <img src=x onerror='window.ran = 2'>" in table
    assert "half \\ud83d pair" in table
    assert SCRIPT in one.page.locator("h1").inner_text()
    assert SCRIPT in one.page.locator("#warnings").inner_text()


def test_the_control_would_run(browser):
    """The same texts in a page that trusts them: the tests above can fail."""
    page = browser.new_page()
    page.set_content(f"<p>{IMAGE}</p>")
    page.wait_for_function("window.ran")
    page.close()
