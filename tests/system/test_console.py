"""What is printed: escapes made visible, encodings that lack a character, outputs that are lost."""

import io
import json
import os
import subprocess
import sys

import pytest

from harness.system.console import console, printable, standard_streams
from tests.conftest import ROOT, conversations, write_jsonl


def shell(command, **env):
    """A shell's exit code, standard output and standard error as bytes."""
    command = command.replace("harness", f"{sys.executable} -m harness.cli")
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        ["bash", "-c", command], env=env, cwd=ROOT, capture_output=True, check=False, timeout=120
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


# ---- outputs that are lost


@pytest.mark.parametrize("command", ["harness plugins", "harness suites", "harness schema record"])
def test_a_full_output_is_one_line_and_exit_2(command):
    ran = shell(f"{command} > /dev/full")
    assert ran.returncode == 2
    assert ran.stderr.decode().splitlines() == [
        "Error: standard output: No space left on device; free space, or send it elsewhere"
    ]


def test_a_reader_that_goes_away_ends_the_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "harness.cli", "plugins"]
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("command", ["harness plugins >&-", "harness suites >&- 2>&-"])
def test_a_closed_output_is_a_place_where_nothing_goes(command):
    ran = shell(command)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_an_error_that_cannot_be_said_keeps_its_exit_code():
    assert shell("harness suites --no-such-option 2>/dev/full").returncode == 2


# ---- encodings


def test_what_an_encoding_lacks_is_escaped():
    ran = shell("harness suites", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert ran.stdout.isascii()
    assert b"perplexity" in ran.stdout


def test_json_keeps_its_meaning_in_ascii(tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    value = {"label": "ü → 😀 \ud83d \u202e", "n": [1]}
    before = sys.stdout
    sys.stdout = stream
    try:
        with standard_streams():
            print(json.dumps(value, ensure_ascii=False))
            sys.stdout.flush()
    finally:
        sys.stdout = before
    assert json.loads(stream.buffer.getvalue().decode("ascii")) == value


# ---- escapes


def test_control_characters_and_overrides_are_made_visible():
    told = "a\x1b[31m\x07\x9b2J\r\x7f\u202eb\u2066"
    assert printable(told) == r"a\u001b[31m\u0007\u009b2J\u000d\u007f\u202eb\u2066"
    kept = "a\tb\nü é 日本語 עברית 👩\u200d👧"
    assert printable(kept) == kept


def test_a_table_shows_texts_as_they_are(capsys):
    from rich.table import Table

    grid = Table("[bold]head[/bold]", title="[/red] front")
    grid.add_row("[/red] :smile: \x1b]52;c;aGk=\x07")
    console().print(grid)
    shown = capsys.readouterr().out
    assert "[bold]head[/bold]" in shown
    assert r"[/red] :smile: \u001b]52;c;aGk=\u0007" in shown
    assert "\x1b" not in shown


def test_an_escape_in_an_error_reaches_no_terminal(harness, tmp_path):
    ran = harness("plan", "\x1b]0;title\x07no.yaml", cwd=tmp_path)
    assert ran.code == 2
    assert "\x1b" not in ran.stderr
    assert r"\u001b]0;title\u0007no.yaml" in ran.error


def test_escapes_and_markup_in_a_plan(harness, experiment):
    small = experiment(methods=["base", {"name": "lora", "label": "[/red] \u202elora"}])
    ran = harness("plan", small.file, "--show-tokens", "--rows", "1")
    assert ran.code == 0, ran.stderr
    assert "[/red]" in ran.stdout
    assert "\u202e" not in ran.stdout
    rows = conversations()
    for row in rows:
        row["messages"][1]["content"] += " \x1b[2J\x9b"
    write_jsonl(small.folder / "train.jsonl", rows)
    ran = harness("plan", small.file, "--show-tokens", "--rows", "1")
    assert ran.code == 0, ran.stderr
    assert "\x1b" not in ran.stdout
    assert r"\u001b[2J" in ran.stdout


# ---- what nobody foresaw


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("ValueError('deep down')", 70, "ValueError: deep down"),
        ("RecursionError('deep down')", 70, "RecursionError: deep down"),
        ("FileNotFoundError(2, 'No such file', 'x')", 70, "FileNotFoundError"),
        ("PermissionError(13, 'Permission denied', 'out/x')", 2, "Error: out/x: Permission denied"),
        ("OSError(28, 'No space left on device')", 2, "Error: No space left on device"),
        ("SystemExit('words')", 2, "Error: words"),
        ("SystemExit(3)", 3, ""),
        ("KeyboardInterrupt()", 130, "Interrupted"),
    ],
)
def test_what_is_raised_decides_the_exit_code(monkeypatch, capsys, error, code, message):
    from harness.cli import main

    def fails(*_, **__):
        raise eval(error)

    monkeypatch.setattr(main.cli, "main", fails)
    monkeypatch.setattr(sys, "argv", ["harness", "suites"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert message in shown
    assert ("Traceback" in shown) == (code == 70)


def test_a_bar_shows_a_label_as_it_is(monkeypatch):
    from types import SimpleNamespace

    from harness.cli.render.progress import Live

    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    cell = SimpleNamespace(label="[/red]\x1b]0;x\x07", seed=0, id="cell")
    with Live() as screen:
        screen.begin(1)
        screen.observe(cell, {"event": "phase", "name": "[bold]train"})
        screen.observe(cell, {"event": "warning", "message": "look: \x1b]0;y\x07 [/blue]"})
        screen.observe(cell, {"event": "recorded", "status": "ok"})
    shown = stream.getvalue()
    assert "[/red]" in shown
    assert r"look: \u001b]0;y\u0007 [/blue]" in shown
    assert "\x1b]0;" not in shown
