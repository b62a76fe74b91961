"""`harness judge rank`: rows ranked by their stored answers, and nothing asked twice."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from harness.cli.commands.judge import command
from harness.evaluation.judging.rows import rank
from harness.evaluation.judging.rows.contestants import contestants
from harness.evaluation.suite import Where, load_suite
from harness.manager import plugins
from harness.record import new_record
from harness.results import store
from harness.stats.metric_summary import summarise
from harness.system.endpoint import client
from harness.types import Metric, ModelRef
from tests.conftest import write_jsonl
from tests.endpoint_server import MODEL, Served, chat, error
from tests.evaluation.judging.planted import loving

QUESTIONS = 24
ANSWERS = re.compile(r"Answer ([AB]):\n```\n(.*?)\n```", re.DOTALL)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def worth(text: str) -> int:
    """How good a planted answer is: it says so."""
    return int(text.split()[-1])


def fair(request, nth=0):
    """Prefers the better answer wherever it stands; of equally good ones whatever is first."""
    told = dict(ANSWERS.findall(request.text))
    better = "B" if worth(told["B"]) > worth(told["A"]) else "A"
    return chat(better, top=[[(better, 0.9), ("AB".replace(better, ""), 0.1)]])


@pytest.fixture
def served():
    with Served(fair).running() as server:
        yield server


def add(out: Path, id: str, label: str, answers: list[str], *, suite="talk", **changes) -> None:
    """A record with these answers, as a run writes it."""
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"Question {i}?",
            "reference": "Yes.",
            "output": text,
            "tokens": 3,
            "capped": False,
            "scores": {"length": float(len(text))},
        }
        for i, text in enumerate(answers)
    ]
    section = {
        "hash": changes.pop("hash", "5" * 64),
        "metrics": summarise([Metric("length", True)], rows, None),
        "samples": store.write_samples(out, id, suite, rows),
    }
    plan = {
        "model": {"name": "tiny", "content_hash": "c"},
        "method": label,
        "label": label,
        "options": {},
        "seed": changes.pop("seed", 0),
        "suites": [suite],
    }
    evaluation = {"phases": {}, "suites": {suite: section}, "base": None}
    record = new_record(
        id=id, status="ok", plan=plan, training=None, evaluation=evaluation, environment={}
    )
    store.write_record(out, record)


def said(label: str, quality: np.ndarray) -> list[str]:
    return [f"{label} says {round(100 * value)}" for value in quality]


def planted(out: Path, means: dict[str, float], seeds=(0,)) -> None:
    """Rows whose answers are so much better on average, each with luck of its own."""
    for label, seed in itertools.product(means, seeds):
        rng = np.random.default_rng([*label.encode(), seed])
        quality = means[label] + rng.normal(0, 1, QUESTIONS) + 9
        add(out, f"{label}-{seed}", label, said(f"{label}{seed}", quality), seed=seed)


@pytest.fixture
def judge(tmp_path, served):
    """A suite whose judge compares by the server."""
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "Question?", "reference": "Yes."}])

    def write(**changes) -> Path:
        suite = {
            "name": "which",
            "version": 1,
            "ask": "generate",
            "data": "rows.jsonl",
            "judge": {
                "name": "pairwise",
                "rubric": "The better one.",
                "endpoint": {"url": served.url, "model": MODEL, "key": None},
                **changes,
            },
        }
        (tmp_path / "which.yaml").write_text(yaml.safe_dump(suite))
        return tmp_path / "which.yaml"

    return write


def ranked(out: Path, judge: Path, *more: str, suite="talk"):
    arguments = ["rank", str(out), "--suite", suite, "--judge", str(judge), *more]
    return CliRunner().invoke(command, arguments)


def found(out: Path, judge: Path, suite="talk"):
    done = ranked(out, judge, "--json", suite=suite)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_planted_better_row_is_found_and_nothing_is_asked_twice(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1, "full": 3.0})
    first = found(out, judge())
    best, *rest = first["rows"]
    assert best["label"] == "full"
    assert (best["ranks"], [row["ranks"] for row in rest]) == ([1, 1], [[2, 3], [2, 3]])
    assert best["strength"]["ci_low"] > max(row["strength"]["ci_high"] for row in rest)
    assert sum(row["strength"]["value"] for row in first["rows"]) == pytest.approx(0)
    assert first["questions"] == QUESTIONS
    for row in first["rows"]:
        assert row["wins"] + row["ties"] + row["losses"] == 2 * QUESTIONS
    assert first["judge"]["position_consistency"] > 0.9
    assert len(served.requests) == first["judge"]["backend"]["requests"] == 2 * 3 * QUESTIONS

    again = found(out, judge())
    assert len(served.requests) == 2 * 3 * QUESTIONS, "every verdict is kept"
    assert again["judge"]["backend"]["kept"] == 2 * 3 * QUESTIONS
    assert (again["rows"], again["pairs"]) == (first["rows"], first["pairs"])

    add(out, "more-0", "more", said("more", np.full(QUESTIONS, 9.0)))
    wider = found(out, judge())
    assert len(wider["rows"]) == 4
    assert wider["judge"]["backend"]["requests"] == 2 * 3 * QUESTIONS, "of the new row alone"


def test_the_table_is_for_people(tmp_path, served, judge):
    planted(tmp_path / "results", {"base": 0.0, "lora": 0.1, "full": 3.0})
    done = ranked(tmp_path / "results", judge())
    assert done.exit_code == 0, done.output
    assert re.search(r"1 +\S +full +\S +\+\d\.\d+ \[\+", done.stdout)
    assert re.search(r"2-3 +\S +(base|lora)", done.stdout)
    assert "The judge is not certified" in done.stdout


def test_the_same_row_three_times_is_equally_strong_and_nobody_is_asked(tmp_path, served, judge):
    out = tmp_path / "results"
    for label in ("one", "two", "three"):
        add(out, f"{label}-0", label, [f"same {i}" for i in range(9)])
    result = found(out, judge())
    for row in result["rows"]:
        assert row["ranks"] == [1, 3]
        assert (row["strength"]["value"], row["win_rate"]["value"]) == (0.0, 0.5)
        assert (row["wins"], row["ties"], row["losses"]) == (0, 18, 0)
    assert not served.requests


def test_a_judge_that_takes_what_stands_first_tells_nobody_apart(tmp_path, served, judge):
    served.told = lambda request, nth: chat("A", top=[[("A", 0.9), ("B", 0.1)]])
    planted(tmp_path / "results", {"base": 0.0, "lora": 0.1, "full": 3.0})
    result = found(tmp_path / "results", judge())
    assert [row["ranks"] for row in result["rows"]] == [[1, 3]] * 3
    assert {row["strength"]["value"] for row in result["rows"]} == {0.0}
    assert result["judge"]["position_consistency"] == 0.0


def test_a_row_that_never_lost_has_a_strength_all_the_same(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1})
    add(out, "best-0", "best", said("best", np.full(QUESTIONS, 99.0)))
    result = found(out, judge())
    assert result["unbeaten"] == ["best"]
    assert (result["rows"][0]["label"], result["rows"][0]["ranks"]) == ("best", [1, 1])
    assert result["rows"][0]["losses"] == result["rows"][0]["ties"] == 0
    assert "best never lost or tied" in ranked(out, judge()).stdout


def test_seeds_are_one_row_and_each_of_them_counts(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"lora": 0.0, "full": 2.0}, seeds=(0, 1))
    planted(out, {"base": 0.0})
    result = found(out, judge())
    counts = {row["label"]: row["wins"] + row["ties"] + row["losses"] for row in result["rows"]}
    # the base's one seed has the same number in both
    assert counts == {"lora": 3 * QUESTIONS, "full": 3 * QUESTIONS, "base": 2 * QUESTIONS}
    assert result["questions"] == QUESTIONS


def test_what_was_cut_off_goes_on_where_it_was(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1, "full": 3.0})
    served.told = lambda request, nth: fair(request) if len(served.requests) <= 50 else error(402)
    done = ranked(out, judge())
    assert done.exception.exit_code == 2
    assert re.search(r"gave no answer to \d+ of 144 questions", str(done.exception))
    asked = len(served.requests)
    served.told = fair
    result = found(out, judge())
    assert result["judge"]["backend"]["kept"] == 50
    assert len(served.requests) - asked == 144 - 50


def test_verdicts_of_a_model_in_this_process_are_kept_too(tmp_path, judging_model, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1, "full": 3.0})
    biased = loving(judging_model, tmp_path / "biased", " A")
    file = judge(model=str(biased), endpoint=None)
    suite = load_suite(
        file, {}, plugins=plugins(), base_model=ModelRef("tiny", "tiny"), where=Where()
    )
    request = rank.Request(str(out), "talk", suite)
    once, again = rank.run(request), rank.run(request)
    assert [row["ranks"] for row in once["rows"]] == [[1, 3]] * 3, "it says A whatever it reads"
    assert once["judge"]["backend"]["kept"] == 0
    assert again["judge"]["backend"]["kept"] == once["judge"]["backend"]["asked"] == 144
    assert again["judge"]["backend"]["asked"] == 0
    assert again["rows"] == once["rows"]


def test_a_panel_ranks_rows_and_asks_each_of_its_judges_once(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1, "full": 3.0})
    served.models = ["one", "two"]
    file = judge()
    suite = yaml.safe_load(file.read_text())
    one = suite["judge"]
    panel = [{**one, "endpoint": {**one["endpoint"], "model": name}} for name in served.models]
    file.write_text(yaml.safe_dump({**suite, "judge": {"panel": panel}}))
    result = found(out, file)
    assert (result["rows"][0]["label"], result["rows"][0]["ranks"]) == ("full", [1, 1])
    assert result["judge"]["agreement"]["krippendorff_alpha"]["value"] == 1.0
    assert len(served.requests) == 2 * 144
    assert found(out, file)["rows"] == result["rows"]
    assert len(served.requests) == 2 * 144


# ---- refused -------------------------------------------------------------------------------------


def refusal(out: Path, judge: Path, suite="talk") -> tuple[int, str]:
    done = ranked(out, judge, suite=suite)
    message = str(done.exception)
    assert "\n" not in message
    return done.exception.exit_code, message


def test_fewer_than_three_rows_are_refused(tmp_path, served, judge):
    planted(tmp_path / "results", {"base": 0.0, "lora": 0.1})
    code, message = refusal(tmp_path / "results", judge())
    assert code == 2
    assert "2 rows have answers to suite 'talk' (base and lora), and 3 make a ranking" in message


def test_rows_of_another_suite_are_refused(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1})
    add(out, "full-0", "full", said("full", np.ones(QUESTIONS)), hash="6" * 64)
    code, message = refusal(out, judge())
    assert code == 4
    assert "suite 'talk' is not the same for full and base" in message


@pytest.mark.parametrize("more", [-1, 1])
def test_a_sample_that_a_row_lacks_is_named(tmp_path, served, judge, more):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1})
    add(out, "zero-0", "zero", said("zero", np.ones(QUESTIONS + more)))
    code, message = refusal(out, judge())
    name, row = ("q23", "zero") if more < 0 else ("q24", "base")
    assert code == 2
    assert f"not every row has sample '{name}', such as {row}" in message


def test_a_sample_file_that_is_gone_is_named(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1, "full": 1.0})
    (out / "samples/lora-0/talk.jsonl.gz").unlink()
    assert "samples/lora-0/talk.jsonl.gz: cannot be read" in refusal(out, judge())[1]


def test_a_suite_that_is_not_there_and_a_judge_that_compares_nothing(tmp_path, served, judge):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1, "full": 1.0})
    assert "no record has suite 'walk': did you mean 'talk'?" in refusal(out, judge(), "walk")[1]
    levels = {"1": "bad", "2": "good"}
    alone = judge(name="rubric", criteria=[{"name": "tone", "levels": levels}])
    assert "judge 'rubric' compares no two answers" in refusal(out, alone)[1]
    assert not served.requests


def test_rows_are_told_apart_that_share_a_label(tmp_path):
    out = tmp_path / "results"
    planted(out, {"base": 0.0, "lora": 0.1})
    add(out, "other", "lora", said("other", np.ones(QUESTIONS)))
    labels = [row.label for row in contestants(out, "talk")]
    assert labels == ["base", "lora (lora-0)", "lora (other)"]
