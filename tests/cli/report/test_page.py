"""What stands in the page's file: without a browser, and without JavaScript."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode

import pytest
import yaml

from harness.cli.report import reading, repeat
from harness.results import store
from tests.cli.report.conftest import QUICKSTART, write_page
from tests.conftest import ROOT, run_harness


def block(text, name):
    found = re.search(rf'<script type="[^"]*" id="block-{name}">([^<]*)</script>', text)
    return json.loads(gzip.decompress(b64decode(found[1])))


def test_the_command_writes_one_small_file(tmp_path, harness):
    ran = harness("report", QUICKSTART, "-o", tmp_path / "page.html")
    assert (ran.code, ran.stderr) == (0, "")
    assert "4 rows" in ran.stdout
    assert (tmp_path / "page.html").stat().st_size < 6e6


def test_the_command_imports_no_torch(tmp_path):
    code = (
        "import sys; from harness.cli.main import cli;"
        f"cli.main(['report', {str(QUICKSTART)!r}, '-o', {str(tmp_path / 'page.html')!r}],"
        " standalone_mode=False);"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_same_records_give_the_same_bytes(quickstart, tmp_path):
    assert write_page(tmp_path, QUICKSTART).read_bytes() == quickstart.read_bytes()


def test_figures_are_those_of_the_terminal(quickstart):
    """The same digits, places and verdicts as `harness leaderboard` prints."""
    core = block(quickstart.read_text(), "core")
    rows = {row["title"]: row for row in core["rows"]}
    terminal = run_harness("leaderboard", QUICKSTART).stdout
    for title, row in rows.items():
        figure = row["figures"][core["rankedBy"]]
        (line,) = (x for x in terminal.splitlines() if x.split()[:2] == [row["place"], title])
        assert figure["text"] in line
        assert all(cost["text"] in line for cost in row["costs"].values())
    assert rows["full"]["figures"]["similarity.must_contain"]["verdict"] == "better"
    assert rows["lora"]["tied"] == ["qlora"]


def test_samples_are_those_of_the_files(quickstart):
    text = quickstart.read_text()
    core = block(text, "core")
    number = next(i for i, suite in enumerate(core["suites"]) if suite["name"] == "similarity")
    place = next(i for i, row in enumerate(core["rows"]) if row["title"] == "full")
    (stored,) = [one for one in store.read_records([QUICKSTART]) if one.label == "full"]
    rows = store.read_samples(QUICKSTART, stored.data, "similarity")
    assert block(text, f"ids-{number}") == [row["id"] for row in rows]
    questions = block(text, f"questions-{number}-0")
    assert [question["prompt"] for question in questions] == [row["prompt"] for row in rows]
    answers = block(text, f"answers-{number}-{place}-0")
    assert [answer["output"] for answer in answers] == [row["output"] for row in rows]
    scores = [score["name"] for score in core["suites"][number]["scores"]]
    values = block(text, f"values-{number}-{place}")
    assert [dict(zip(scores, v, strict=True))["cosine"] for v in values] == pytest.approx(
        [row["scores"]["cosine"] for row in rows], rel=1e-5
    )


def test_the_table_stands_in_the_html(quickstart):
    """Of the page as it is written: no script has run."""
    text = quickstart.read_text()
    table = text[text.index("<table") : text.index("</table>")]
    assert re.search(r"1\.98\d \[1\.71\d, 2\.32\d\]", table)
    assert re.search(r"-47\.3\d \[-7\d\.\d\d, -30\.\d\d\] better", table)
    assert "2-3" in table


def test_the_policy_lets_nothing_in(quickstart):
    text = quickstart.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    policy = policy.replace("&#x27;", "'")
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == parts["connect-src"] == "'none'"
    assert all(source.startswith("'sha256-") for source in parts["script-src"].split())
    assert all(source.startswith("'sha256-") for source in parts["style-src"].split())
    assert "unsafe" not in policy
    assert not re.search(
        r"<(?:img|iframe|object|embed)\b|<script[^>]*\bsrc=|style=|\bon\w+=", text[:50_000]
    )


def test_rows_of_several_experiments_are_told_apart(tmp_path):
    """Links and filters name a row by its title."""
    names = ("quickstart", "methods", "mmlu-arc")
    text = write_page(tmp_path, *(QUICKSTART.with_name(name) for name in names)).read_text()
    titles = [row["title"] for row in block(text, "core")["rows"]]
    assert len(set(titles)) == len(titles) == 18
    assert {"full (quickstart)", "full (methods)", "rslora"} <= set(titles)


def test_a_certificate_stands_beside_a_judges_figure(tmp_path):
    """What its record says of the judge; a figure without a certificate says that instead."""
    judged, without = tmp_path / "judged", tmp_path / "without"
    for folder, certificate in ((judged, True), (without, False)):
        (folder / "cells").mkdir(parents=True)
        (file,) = (QUICKSTART / "cells").glob("full-*.json")
        record = json.loads(file.read_text())
        score = record["evaluation"]["suites"]["judge"]["metrics"]["score"]
        del score["estimator"]["judge"], score["correction"]
        if certificate:
            mean = {"value": 0.81, "stderr": 0.03, "ci_low": 0.74, "ci_high": 0.87, "n": 120}
            value, low, high = (score[key] for key in ("value", "ci_low", "ci_high"))
            score["estimator"]["judge"] = {
                "level": "weak",
                "reason": "kappa 0.41 is below 0.6",
                "binary": True,
                "good": mean,
                "bad": {**mean, "value": 0.22, "ci_low": 0.15, "ci_high": 0.30},
                "length": {"delta": 0.12, "ci_low": 0.05, "ci_high": 0.19, "padding": 2.0},
            }
        shutil.copytree(QUICKSTART / "samples" / file.stem, folder / "samples" / file.stem)
        (folder / "cells" / file.name).write_text(json.dumps(store.seal(record)))
    text = sections_of(write_page(tmp_path, judged))["judges"]
    assert "its judge is weak: kappa 0.41 is below 0.6" in text
    assert "0.810 [0.740, 0.870] of 120" in text
    assert "0.220 [0.150, 0.300] of 120" in text
    assert "+0.120 [+0.050, +0.190] at 2.0 times the length" in text
    assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in text
    assert "no certificate" in sections_of(write_page(tmp_path, without))["judges"]


def sections_of(file):
    """The text of each part of the page."""
    parts = re.findall(r'(?s)<section id="(\w+)".*?</section>', file.read_text())
    texts = re.findall(r"(?s)<section id=.*?</section>", file.read_text())
    return {name: re.sub("<[^>]+>", " ", text) for name, text in zip(parts, texts, strict=True)}


# Repeating


def test_the_experiment_file_plans_the_same_cells(tmp_path, harness):
    """Written from the records alone, it names every cell as recorded."""
    records = [one.data for one in store.read_records([QUICKSTART])]
    ((name, text),) = repeat.experiments(records).items()
    assert name == "quickstart"
    (tmp_path / "quickstart.yaml").write_text(text)
    ran = harness("plan", tmp_path / "quickstart.yaml", "--out", QUICKSTART, "--json")
    assert ran.code == 0, ran.stderr
    cells = {cell["id"]: cell["recorded"] for cell in json.loads(ran.stdout)["cells"]}
    assert cells == {record["id"]: True for record in records}


def test_another_option_plans_another_cell(tmp_path, harness):
    """The control of the test above."""
    ((_, text),) = repeat.experiments(one.data for one in store.read_records([QUICKSTART])).items()
    content = yaml.safe_load(text)
    content["methods"][-1]["lr"] = 0.5
    (tmp_path / "quickstart.yaml").write_text(yaml.safe_dump(content))
    ran = harness("plan", tmp_path / "quickstart.yaml", "--out", QUICKSTART, "--json")
    assert sorted(cell["recorded"] for cell in json.loads(ran.stdout)["cells"])[0] is False


# What cannot be read


@pytest.fixture
def results(tmp_path):
    """A copy of the quickstart's results, to spoil."""
    return shutil.copytree(QUICKSTART, tmp_path / "results", ignore=shutil.ignore_patterns("*.md"))


def record_of(results, label):
    return next((results / "cells").glob(f"{label}-*.json"))


def test_a_half_written_record_is_listed_and_the_rest_is_shown(results, tmp_path, harness):
    file = record_of(results, "qlora")
    file.write_text(file.read_text()[:5000])
    ran = harness("report", results, "-o", tmp_path / "page.html")
    assert ran.code == 0
    assert "broken JSON" in ran.stderr
    text = (tmp_path / "page.html").read_text()
    assert file.name in text
    assert "broken JSON" in text
    assert [row["title"] for row in block(text, "core")["rows"]] == ["full", "lora", "base"]


def test_a_record_of_another_schema_is_listed(results):
    file = record_of(results, "lora")
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    read = reading.read([results])
    assert len(read.stored) == 3
    assert "schema 99" in read.unread[0]


def test_a_record_without_its_samples_is_listed(results):
    """Its figures are in its sealed record; only ranks need its samples anew."""
    shutil.rmtree(results / "samples" / record_of(results, "lora").stem)
    read = reading.read([results])
    assert [row["label"] for row in read.board["rows"]] == ["full", "lora", "qlora", "base"]
    assert "these answers are not" in read.unread[0]
    (results / "leaderboard.json").unlink()
    read = reading.read([results])
    assert [row["label"] for row in read.board["rows"]] == ["full", "qlora", "base"]
    assert "left out" in read.unread[0]


def test_where_nothing_can_be_read_it_says_why(results, harness, tmp_path):
    for file in (results / "cells").glob("*.json"):
        file.write_text("{")
    ran = harness("report", results, "-o", tmp_path / "page.html")
    assert ran.code == 2
    assert "broken JSON" in ran.error
    assert not (tmp_path / "page.html").exists()


def test_a_folder_of_no_results_is_an_error(tmp_path, harness):
    ran = harness("report", tmp_path, "-o", tmp_path / "page.html")
    assert ran.code == 2
    assert "no records there" in ran.error


def test_a_page_that_cannot_be_written_is_an_error(harness, tmp_path):
    ran = harness("report", QUICKSTART, "-o", "/dev/null/page.html")
    assert (ran.code, ran.stdout) == (2, "")
    assert "-o /dev/null/page.html: cannot be written" in ran.error


def test_a_cell_under_way_is_named(results):
    record_of(results, "lora").unlink()
    assert any("lora" in line for line in reading.read([results]).unfinished)
