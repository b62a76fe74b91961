"""What strangers write into labels, outputs and answers is shown as text by every report."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.cli.render import gate_report
from harness.cli.render.tables.escapes import for_latex, for_markdown, for_spreadsheet
from harness.record import new_record
from harness.results import gate, lookup, store
from harness.stats.metric_summary import summarise
from harness.system.console import printable, standard_streams
from harness.types import Metric

RIGHT = Metric("right", True, "share")
PLANTED = {
    "html": "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "null": "a\x00b",
    "escape": "a\x1b[31mred\x1b]0;title\x07\x9b2J",
    "direction": "a\u202egnp\u200f\u2066b\u061c",
    "surrogate": "a\ud83d",
    "formula": "=cmd|' /C calc'!A0",
    "plus": "+1+1",
    "minus": "-2+3",
    "at": "@SUM(1)",
    "tab": "\t=1",
    "return": "\r=1",
    "within": "x;=1+1",
    "command": "a\n::error::forged",
    "markdown": "a|b [c](http://x) ![d](http://y) `e` *f* ~~g~~\n# h",
    "tex": r"\input{/etc/passwd} $x$ 50% a_b #1 {c} ^ ~ & --",
    "mention": "thanks @octocat",
    "megabyte": "long " * 200_000,
}
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal acts on or hides."""


@pytest.fixture(params=PLANTED)
def planted(request: pytest.FixtureRequest) -> str:
    return PLANTED[request.param]


@pytest.fixture
def out(tmp_path: Path, planted: str) -> Path:
    """A base and a model whose label, answers and warnings are the planted text."""
    folder = tmp_path / "results"
    write(folder, "base", "base", "right", 0.9)
    write(folder, "planted", planted, planted, 0.5, base="base")
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The same with a plain label."""
    write(tmp_path, "base", "base", "right", 0.9)
    write(tmp_path, "planted", "lora", "wrong", 0.5, base="base")
    return tmp_path


def write(
    folder: Path, id: str, label: str, output: str, share: float, base: str | None = None
) -> None:
    rows = [
        {
            "id": f"q{i}",
            "prompt": output[:2000],
            "reference": output[:2000],
            "output": output if i == 39 else output[:2000],
            "scores": {"right": int(i < 40 * share)},
        }
        for i in range(40)
    ]
    section = {
        "hash": "5" * 64,
        "metrics": summarise([RIGHT], rows),
        "samples": store.write_samples(folder, id, "quiz", rows),
        "notes": {"label": output},
    }
    plan: Any = {
        "model": {"name": "tiny", "content_hash": "c"},
        "method": "lora",
        "label": label,
        "options": {"note": label},
        "seed": 0,
        "suites": ["quiz"],
    }
    store.write_record(
        folder,
        new_record(
            id=id,
            status="ok",
            plan=plan,
            evaluation={"suites": {"quiz": section}, "base": base},
        ),
    )


def shown(*arguments: object, capfd: pytest.CaptureFixture[str]) -> str:
    """Standard output and error of a command, as the terminal gets them."""
    with standard_streams():
        cli.main([str(argument) for argument in arguments], standalone_mode=False)
    return "".join(capfd.readouterr())


def test_the_terminal_gets_nothing_that_it_acts_on(
    out: Path, planted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in (["leaderboard", out], ["leaderboard", out, "--columns", "quiz.*,options.note"]):
        text = shown(*command, capfd=capfd)
        assert not UNSEEN.search(text)
        assert len(text) < 40_000
        start = printable(" ".join(planted.split()))[:4]
        assert start in " ".join(text.split())
    text = shown("compare", out / "planted", out / "base", capfd=capfd)
    assert not UNSEEN.search(text)


def test_csv_holds_the_text_and_no_formula(
    out: Path, planted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = shown("leaderboard", out, "--format", "csv", capfd=capfd)
    lines = list(csv.DictReader(io.StringIO(text.partition("\nNote:")[0])))
    assert len(lines) == 2
    for cell in (cell for line in lines for cell in line.values()):
        assert not UNSEEN.search(cell)
        assert len(cell) < 32_767
        if not re.fullmatch(r"[-+.\de]*", cell):
            assert not re.match(r"\s*[=+\-@]", cell)
            assert not re.search(r";[=+\-@]", cell)
    label = next(line["label"] for line in lines if line["label"] != "base")
    assert label.replace("'", "").startswith(printable(planted).replace("'", "")[:8])


def test_markdown_shows_it_on_one_line_without_markup(
    out: Path, planted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = shown("leaderboard", out, "--format", "markdown", capfd=capfd)
    heads, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = len(re.findall(r"(?<!\\)\|", heads))
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [cells] * 2
    assert "<img" not in text
    assert "<script" not in text
    assert "](http" not in text
    assert "@octocat" not in text
    assert not UNSEEN.search(text)
    assert not [line for line in text.splitlines() if line.startswith(("#", "::"))]
    if planted is not PLANTED["markdown"]:
        return
    assert r"a\|b [c]\(http://x) ![d]\(http://y) \`e\` \*f\* \~\~g\~\~ # h" in text


def test_latex_reads_no_command_and_no_markup_of_it(
    out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = shown("leaderboard", out, "--format", "latex", capfd=capfd)
    own = "usepackage begin end centering toprule midrule bottomrule par smallskip footnotesize "
    own += (
        "uparrow downarrow dag textbackslash textasciitilde textasciicircum textless textgreater "
    )
    own += "textbar textquotedbl textasciigrave"
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= set(own.split())
    plain = re.sub(r"\\[^A-Za-z]", "", text)
    assert plain.count("{") == plain.count("}")
    head, *body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    columns = len(re.search(r"tabular\}\{(\w+)\}", text)[1])  # type: ignore[index]
    for line in (head, *body):
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
        assert not re.search(r"(?<!\\)[%#_^~]", line)


def test_json_is_json_and_keeps_the_text(
    out: Path, planted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    board = json.loads(shown("leaderboard", out, "--format", "json", capfd=capfd))
    assert planted in [row["label"] for row in board["rows"]]


def test_the_gates_reports_hold_it_as_text(out: Path) -> None:
    decision = decided(out)
    assert decision.verdict == "fail"
    root = ElementTree.fromstring(gate_report.junit(decision).encode())
    assert len(list(root.iter("testcase"))) == 1
    for element in root.iter():
        assert not UNSEEN.search("".join([*element.itertext(), *element.attrib.values()]))
    summary = gate_report.markdown(decision)
    summary.encode()
    assert len(summary) < 65_536
    for sign in ("<img", "<script", "](http", "@octocat"):
        assert sign not in summary
    for line in [*gate_report.lines(decision), *summary.splitlines()]:
        assert not line.startswith("::")
        assert not UNSEEN.search(line)
    for text in (gate_report.openmetrics(decision), *gate_report.github_annotations(decision)):
        text.encode()
        assert not UNSEEN.search(text)


def decided(out: Path) -> gate.Decision:
    """The planted model against the base."""
    candidate = lookup.find(str(out / "cells/planted.json"), [])
    return gate.decide(candidate, lookup.find(str(out / "cells/base.json"), []), None)


def test_a_table_of_rules_too_long_for_a_comment_keeps_what_does_not_pass(plain: Path) -> None:
    decision = decided(plain)
    (failing,) = decision.findings
    passing = type(failing)(**{**vars(failing), "verdict": "pass", "title": "p" * 250})
    many = type(decision)(**{**vars(decision), "findings": [*[passing] * 400, failing]})
    summary = gate_report.markdown(many)
    assert len(summary) < 65_536
    assert summary.count("❌ fail") == 1
    assert re.search(r"\| \d+ more rules are in the other reports", summary)


def test_annotations_escape_what_ends_them(plain: Path) -> None:
    decision = decided(plain)
    (finding,) = decision.findings
    named = type(finding)(**{**vars(finding), "title": "50%: a, b\r\n::error::c"})
    odd = type(decision)(
        **{**vars(decision), "findings": [named], "warnings": ["100 %\n::stop-commands::x"]}
    )
    error, warning = gate_report.github_annotations(odd)
    title = "50%25%3A a%2C b%0A%3A%3Aerror%3A%3Ac (quiz.right)"
    assert error.startswith(f"::error title={title}::")
    assert warning == "::warning title=harness gate::100 %25%0A::stop-commands::x"
    assert "\n" not in error + warning


@pytest.mark.parametrize("escape", [for_markdown, for_latex, for_spreadsheet])
def test_plain_words_stay_as_they_are(escape: Any) -> None:
    for text in ("lora", "must contain 0.5", "Größe 日本", "a - b + c", "r=8"):
        assert escape(text) == text
    assert for_spreadsheet(-1.5) == -1.5
    assert for_spreadsheet(None) is None


def test_annotations_are_printed_in_github_actions_alone(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["gate", str(plain / "lora"), "--baseline", str(plain / "base"), "--json"]
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert "::error" not in CliRunner().invoke(cli, command).stderr
    asked = CliRunner().invoke(cli, [*command, "--annotations"])
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    on_github = CliRunner().invoke(cli, command)
    assert on_github.exit_code == asked.exit_code == 1
    assert on_github.stderr == asked.stderr
    assert on_github.stderr.startswith("::error title=quiz.right::0.5 against 0.9")
    assert json.loads(on_github.stdout)["verdict"] == "fail"


def test_records_that_cannot_be_used_are_named_and_the_rest_is_shown(plain: Path) -> None:
    write(plain, "good", "good", "right", 0.9, base="base")
    cells = plain / "cells"
    half = (cells / "good.json").read_text()[:300]
    (cells / "half.json").write_text(half)
    (cells / "other.json").write_text(json.dumps({"schema": 7, "id": "other"}))
    (cells / "list.json").write_text("[]")
    (plain / "samples/good/quiz.jsonl.gz").unlink()
    ran = CliRunner().invoke(cli, ["leaderboard", str(plain), "--format", "json"])
    assert ran.exit_code == 0
    assert [row["label"] for row in json.loads(ran.stdout)["rows"]] == ["base", "lora"]
    lines = [line for line in ran.stderr.splitlines() if line.startswith("Left out: ")]
    assert [next(n for n in ("half", "list", "other", "good") if n in line) for line in lines] == [
        "half", "list", "other", "good",
    ]  # fmt: skip
    assert "broken JSON" in lines[0]
    assert "not a record" in lines[1]
    assert "schema 7" in lines[2]
    assert "keep samples/ beside cells/" in lines[3]
    for name in ("base", "planted", "good"):
        (cells / f"{name}.json").unlink()
    assert CliRunner().invoke(cli, ["leaderboard", str(plain)]).exit_code != 0
