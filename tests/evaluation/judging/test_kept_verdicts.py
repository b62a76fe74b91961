"""Verdicts that were paid for are not asked again; what is none, or another model's, is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.api.judge import Question
from harness.errors import ConfigError, UserError
from harness.evaluation.evaluate import SuiteFailure
from harness.evaluation.judging.endpoint import EndpointBackend, EndpointSettings
from harness.evaluation.judging.kept_verdicts import Kept, KeptVerdicts
from harness.evaluation.suite import check_loading
from harness.manager import plugins
from harness.system.endpoint import client
from tests.endpoint_server import MODEL, Served, chat, error
from tests.evaluation.judging.test_endpoint_suites import results
from tests.evaluation.suite_files import load

SCORES = ("1", "2", "3", "4", "5")


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(client, "RETRIES", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def sure(request, nth=0):
    return chat("4", top=[[("4", 0.75), ("5", 0.25)]])


@pytest.fixture
def served():
    with Served(sure).running() as server:
        yield server


def backend(served, **settings):
    chosen = {"url": served.url, "model": MODEL, "key": "TEST_KEY", "in_flight": 2, **settings}
    checked = EndpointSettings.model_validate(chosen)
    return EndpointBackend(checked, 0.1, KeptVerdicts(checked.identity))


def questions(count):
    return [Question([{"role": "user", "content": f"question {i}"}], SCORES) for i in range(count)]


def asked(served):
    return Counter(request.text.split("\n")[0] for request in served.requests)


def test_a_second_run_asks_nothing_and_gets_the_same(served):
    first, second = backend(served), backend(served)
    once = first.ask(questions(6))
    assert second.ask(questions(6)) == once
    assert len(served.requests) == 6
    info = second.info()
    assert (info["asked"], info["kept"], info["requests"]) == (6, 6, 0)
    assert info["answered_by"] == {MODEL: 6}
    assert (info["missing"], info["verdicts_by"]) == ({}, {"logprobs": 6})


def test_another_question_model_or_way_of_asking_is_asked(served):
    backend(served).ask(questions(2))
    served.models.append("judge-2")
    for other in (backend(served, model="judge-2"), backend(served, max_tokens=9)):
        other.ask(questions(2))
        assert other.info()["kept"] == 0
    reworded = [Question([{"role": "user", "content": "question 0"}], ("1", "2", "3", "4"))]
    started = [Question(questions(1)[0].messages, SCORES, start="Score:")]
    again = backend(served)
    again.ask([*reworded, *started])
    assert again.info()["kept"] == 0
    assert backend(served, in_flight=7, timeout=9.0).ask(questions(2))
    assert len(served.requests) == 8, "pace and time-out change no verdict"


def test_what_is_no_verdict_is_asked_again(served):
    bad = {
        "question 0": chat("Fine!", top=[[("Fine", 1.0)]]),
        "question 1": error(500),
        "question 2": chat("", top=None),
        "question 3": chat("4", top=[[("the", 0.9), ("4", 0.1)]]),  # it would rather say `the`
        "question 4": chat("4", refusal="I cannot"),
    }
    served.told = lambda request, nth: bad.get(request.text.split("\n")[0], sure(request))
    first = backend(served)
    first.most_missing = 1.0
    assert sum(reply.missing is None for reply in first.ask(questions(8))) == 4
    before = asked(served)
    served.told = sure
    replies = backend(served).ask(questions(8))
    assert all(reply.missing is None for reply in replies)
    assert asked(served) - before == Counter(dict.fromkeys(bad, 1))


def test_samples_are_kept_once_all_of_a_question_are_there(served):
    served.told = lambda request, nth: (
        chat("4") if request.text.startswith("question 0") else error(500)
    )
    first = backend(served, samples=3)
    first.most_missing = 1.0
    kept, lost = first.ask(questions(2))
    assert (kept.weights["4"], lost.missing) == (1.0, "no_reply")
    before = asked(served)
    served.told = lambda request, nth: chat("5")
    again = backend(served, samples=3).ask(questions(2))
    assert [reply.weights["4"] for reply in again] == [1.0, 0.0]
    assert set(asked(served) - before) == {"question 1"}


def test_a_failed_suite_goes_on_where_its_budget_ended(suite_file, served, tiny_artifact):
    folder = suite_file(budget={"requests": 5}, in_flight=1)
    (failed,) = results([load(folder, "judged")], tiny_artifact)
    assert isinstance(failed, SuiteFailure)
    assert len(served.requests) == 5
    (done,) = results([load(folder, "judged")], tiny_artifact)
    info = done.notes["judge"]["backend"]
    assert (info["kept"], info["requests"]) == (5, 3)
    assert len({request.text for request in served.requests}) == len(served.requests) == 8


def test_what_a_killed_process_had_read_is_there_afterwards(served, tmp_path):
    """The process ends itself, without a word, while the third of four questions is under way."""
    served.told = lambda request, nth: (
        error(418, seconds=30.0) if "question 2" in request.text else sure(request)
    )
    program = f"""
import os, threading
from tests.evaluation.judging.test_kept_verdicts import KeptVerdicts, asked, backend, questions
class Served: url = {served.url!r}
judge = backend(Served, in_flight=1)
def watch():
    while len(list(judge.kept.folder.glob("*.json"))) < 2: pass
    os._exit(9)
threading.Thread(target=watch).start()
judge.ask(questions(4))
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=False, timeout=60)
    assert done.returncode == 9
    served.told = sure
    before = asked(served)
    assert backend(served).ask(questions(4))[3].weights
    assert set(asked(served) - before) == {"question 2", "question 3"}


def test_a_broken_file_is_no_verdict(served, tmp_path):
    judge = backend(served)
    (question,) = questions(1)
    judge.ask([question])
    (file,) = judge.kept.folder.glob("*.json")
    whole = file.read_text()
    for broken in (
        whole[:20],
        "{}",
        "[]",
        whole.replace("0.75", "NaN"),
        whole.replace('"4"', '"9"'),
    ):
        file.write_text(broken)
        assert judge.kept.find(question) is None
    file.write_text(whole)
    assert judge.kept.find(question).weights["4"] == pytest.approx(0.75)


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    kept = KeptVerdicts({"model": "m"})
    (question,) = questions(1)
    kept.keep(question, Kept(dict.fromkeys(SCORES, 0.2)))
    assert kept.find(question) is None


# ---- the model that answers ----------------------------------------------------------------------


def named(model):
    return lambda request, nth=0: chat("4", top=[[("4", 1.0)]], model=model)


def test_a_pinned_model_that_answers_is_right(served):
    served.told = named("judge-1-2026-05-01")
    judge = backend(served, model_answered="judge-1-2026-05-01")
    assert all(reply.weights for reply in judge.ask(questions(3)))


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (
            "judge-1-2026-08-01",
            "the model 'judge-1-2026-08-01' answered, and model_answered is 'ju",
        ),
        ("", "the endpoint does not say which model answered, and model_answered is 'judge-1-2026"),
    ],
)
def test_another_model_than_the_pinned_one_is_an_error_after_one_request(served, answers, says):
    served.told = named(answers)
    with pytest.raises(UserError, match=says):
        backend(served, model_answered="judge-1-2026-05-01").ask(questions(9))
    assert len(served.requests) == 1
    served.told = named("judge-1-2026-05-01")
    judge = backend(served, model_answered="judge-1-2026-05-01")
    judge.ask(questions(9))
    assert judge.info()["kept"] == 0, "the other's verdict is not kept for it"


def test_a_pinned_model_is_part_of_the_hash_and_checked_before_the_first_cell(suite_file, served):
    plain = load(suite_file(), "judged").hash
    folder = suite_file(model_answered="judge-1-2026-05-01")
    suite = load(folder, "judged")
    assert suite.hash != plain
    served.told = named("judge-1-2026-05-01")
    check_loading([suite], plugins())
    served.told = named("cheap")
    with pytest.raises(
        ConfigError, match=r"judged.yaml:\d+: the model 'cheap' answered, and model_"
    ):
        check_loading([suite], plugins())
    text = yaml.safe_load((folder / "judged.yaml").read_text())
    assert text["judge"]["endpoint"]["model_answered"] == "judge-1-2026-05-01"


def test_two_models_that_answer_one_suite_are_a_warning(suite_file, served, tiny_artifact):
    names = iter(["judge-1-a", "judge-1-b"] * 8)
    served.told = lambda request, nth: named(next(names))(request)
    (result,) = results([load(suite_file(), "judged")], tiny_artifact)
    (warning,) = [line for line in result.warnings if "answered" in line]
    assert warning.endswith("was asked, and judge-1-a and judge-1-b answered")
    assert result.notes["judge"]["backend"]["answered_by"] == {"judge-1-a": 4, "judge-1-b": 4}
