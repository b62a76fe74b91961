"""`harness report --watch`: a run's folder grows, and so does the page, on this machine alone."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.cli.report.browser import Opened
from tests.cli.report.conftest import QUICKSTART
from tests.conftest import ROOT


def bring(label, folder):
    """What a run leaves of a cell: its samples, and then its record."""
    (record,) = (QUICKSTART / "cells").glob(f"{label}-*.json")
    samples = folder / "samples" / record.stem
    shutil.copytree(QUICKSTART / "samples" / record.stem, samples)
    (folder / "cells").mkdir(exist_ok=True)
    shutil.copy(record, folder / "cells")


@pytest.fixture
def watching(tmp_path):
    """A command that watches a folder without records, and its port."""
    folder = tmp_path / "run"
    (folder / "logs").mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "report", "--watch", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # what a shell starts in the background ignores it, and so do its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    port = int(re.search(r"127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
    yield process, folder, port
    process.kill()
    process.communicate()


def ask(port, path="/", method="GET", **headers):
    """The status and the text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_it_answers_this_machine_alone(watching):
    """A name that a stranger's server gave to this address is refused, as is all but reading."""
    _, _, port = watching
    status, text = ask(port)
    assert status == 200
    assert "Nothing recorded yet" in text
    assert ask(port, Host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert ask(port, Host=host)[0] == 403
        assert ask(port, "/state.json", Host=host)[0] == 403
    assert ask(port, "/../../etc/passwd")[0] == 404
    assert ask(port, method="POST")[0] == 501


def test_an_interrupt_ends_it(watching):
    process, _, _ = watching
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_the_page_grows_with_the_run(browser, watching):
    expect = pytest.importorskip("playwright.sync_api").expect
    _, folder, port = watching
    one = Opened(browser, f"http://127.0.0.1:{port}/", offline=False)
    expect(one.page.locator("#live")).to_have_text("0 cells recorded")
    (base,) = (QUICKSTART / "cells").glob("base-*.json")
    (folder / "logs" / f"{base.stem}.log").touch()
    expect(one.page.locator("#leaderboard-notes")).to_contain_text(f"{base.stem}: no record")
    bring("base", folder)
    rows = one.page.locator("#leaderboard-grid .row-title strong")
    expect(rows).to_have_text(["base"])
    expect(one.page.locator("#live")).to_have_text("1 cell recorded")
    one.page.locator("#leaderboard-filter").fill("a")
    for label in ("full", "lora", "qlora"):
        bring(label, folder)
    expect(rows).to_have_text(["lora", "qlora", "base"], timeout=20_000)
    assert "quickstart" in one.page.title()
    one.see_all()
    assert (one.refused(), one.errors) == ([], [])
    assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in one.asked_for())
    one.context.close()


def test_options_that_do_not_go_together(harness, tmp_path):
    assert "leave -o out" in harness("report", QUICKSTART, "--watch", "-o", tmp_path / "x").error
    assert "add it, or leave" in harness("report", QUICKSTART, "--port", "80").error
