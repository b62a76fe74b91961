"""Suites whose judge is behind an endpoint: checked early, hashed rightly, and without the key."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext

import pytest
import yaml

from harness.errors import CellFailed, ConfigError, UserError
from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.suite import Where, check_loading, load_suite
from harness.manager import plugins
from harness.planning.memory.evaluation import judge_peaks
from harness.system.endpoint import client
from harness.types import ModelRef
from tests.conftest import ROOT, write_jsonl
from tests.endpoint_server import MODEL, Served, chat, error
from tests.evaluation.suite_files import PLUGINS, load

KEY = "sk-test-0123456789/abcdef"
OTHER_BASE = ModelRef("other", "other", content_hash="1" * 64)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """No long waits, no proxy, a key in the environment, and a cache of the test's own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("HARNESS_KEY_HOSTS", "TEST_KEY@h")


def scored(request, nth=0):
    """A judge that is sure: of 4, with the rest on 5."""
    return chat("4", top=[[("4", 0.75), ("5", 0.25)]])


@pytest.fixture
def served():
    with Served(scored).running() as server:
        yield server


def line_of(folder, word):
    lines = (folder / "judged.yaml").read_text().splitlines()
    return next(at for at, line in enumerate(lines, 1) if line.strip().startswith(word))


# ---- before anything runs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "at", "says"),
    [
        ({"url": "api.host/v1"}, "url", "the endpoint's url is no URL: write one such as https"),
        ({"url": "https://me:pass@h/v1"}, "url", "may hold no user, password"),
        ({"url": "https://h.example/v1"}, "key", "the key in TEST_KEY would be sent to h.example"),
        ({"key": "sk-abcdef"}, "key", "key takes the NAME of an environment variable"),
        ({"key": "NO_SUCH_KEY"}, "key", "NO_SUCH_KEY holds no key: export NO_SUCH_KEY="),
        ({"in_flight": 0}, "in_flight", "must be at least 1"),
        ({"budget": {"dollars": 1.0}}, "dollars", "a budget in dollars needs `price:"),
        ({"budget": {"dollar": 1.0}}, "dollar", "unknown key 'dollar'.*did you mean 'dollars'"),
        ({"modle": "x"}, "modle", "unknown key 'modle' in judge.endpoint.*did you mean 'model'"),
        ({"judge": {"model": "tiny"}}, "model: tiny", "judge.model is of a judge in this process"),
        ({"judge": {"quant_type": "nf4"}}, "quant_type", "judge.quant_type is of a judge"),
    ],
)
def test_what_cannot_work_is_reported_with_its_line(suite_file, served, changes, at, says):
    folder = suite_file(**changes)
    with pytest.raises(ConfigError, match=says) as caught:
        load(folder, "judged")
    message = str(caught.value)
    assert message.startswith(f"{folder / 'judged.yaml'}:{line_of(folder, at)}: ")
    assert "\n" not in message
    assert not re.search("pass@|abcdef", message)
    assert not served.requests


def test_a_server_without_a_key_needs_none(suite_file, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    assert load(suite_file(key=None), "judged").judge_endpoint["key"] is None


def test_a_model_that_is_not_served_is_reported_before_the_first_cell(suite_file):
    check_loading([load(suite_file(), "judged")], plugins())
    folder = suite_file(model="judge-2")
    with pytest.raises(ConfigError) as caught:
        check_loading([load(folder, "judged")], plugins())
    assert str(caught.value) == (
        f"{folder / 'judged.yaml'}:{line_of(folder, 'model')}: the endpoint serves no model "
        f"'judge-2': did you mean '{MODEL}'? (served: {MODEL})"
    )


def test_a_key_that_is_refused_is_reported_and_not_shown(suite_file, served):
    served.models = error(401, f"wrong key: {KEY}")
    folder = suite_file()
    with pytest.raises(ConfigError, match=r"refuses the key in TEST_KEY \(HTTP 401: wrong key: \*"):
        check_loading([load(folder, "judged")], plugins())


def test_a_url_where_nobody_answers_is_reported(suite_file, monkeypatch):
    with Served(scored).running() as gone:
        url = gone.url
    folder = suite_file(url=url)
    with pytest.raises(ConfigError, match=r"no OpenAI-compatible endpoint answers") as caught:
        check_loading([load(folder, "judged")], plugins())
    assert f"judged.yaml:{line_of(folder, 'url')}: " in str(caught.value)


def test_a_server_without_a_list_of_models_is_taken_at_its_word(suite_file, served):
    served.models = error(404)
    check_loading([load(suite_file(), "judged")], plugins())


def test_an_endpoint_that_an_experiment_sets_is_named_as_such(suite_file, served):
    folder = suite_file(url="http://127.0.0.1:1/v1")
    judge = yaml.safe_load((folder / "judged.yaml").read_text())["judge"]
    judge["endpoint"] |= {"url": served.url, "model": "judge-2"}
    suite = load(folder, "judged", {"judge": judge})
    with pytest.raises(ConfigError, match=r"^the experiment's settings of suite 'judged': the end"):
        check_loading([suite], plugins())


def test_a_judge_that_reads_a_model_in_this_process_says_what_to_do(suite_file, tiny_artifact):
    suite = load(suite_file(), "judged")
    with evaluation_of(suite, tiny_artifact) as bench, pytest.raises(UserError) as caught:
        bench.judge_model()
    assert "leave judge.endpoint out" in str(caught.value)


# ---- the hash ------------------------------------------------------------------------------------


def test_the_hash_is_of_what_a_verdict_depends_on(suite_file, served, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "other")

    def hashes(base=None, **changes):
        suite = load(suite_file(**changes), "judged", **({"base": base} if base else {}))
        return suite.hash, suite.content

    plain = hashes()
    price = {"input": 1.0, "output": 2.0}
    same = [
        {"key": "OTHER_KEY"},
        {"in_flight": 2},
        {"timeout": 5.0},
        {"budget": {"requests": 9, "dollars": 1.0}, "price": price},
        {"base": OTHER_BASE},  # which does not judge
        {"url": served.url + "/"},
        {"judge": {"max_missing": 0.5}},
    ]
    assert [hashes(**change) for change in same] == [plain] * len(same)
    others = [{"url": "https://h/v1"}, {"model": "n"}, {"samples": 9}, {"max_tokens": 99}]
    changed = [hashes(**change) for change in others]
    assert not {hash for hash, _ in changed} & {plain[0]}
    assert not {content for _, content in changed} & {plain[1]}


def test_a_record_says_which_part_of_two_judges_differs(suite_file):
    one, other = load(suite_file(), "judged"), load(suite_file(model="n"), "judged")
    assert {key for key in one.parts if one.parts[key] != other.parts[key]} == {"judge"}
    assert KEY not in json.dumps([one.parts, other.parts])


def test_no_memory_is_planned_for_a_judge_elsewhere(suite_file, tiny_model):
    class Cell:
        suites = (load(suite_file(), "judged"),)
        model = ModelRef("tiny", str(tiny_model))

    assert judge_peaks(Cell, "cpu") == {}


# ---- running -------------------------------------------------------------------------------------


def evaluation_of(suite, artifact):
    from harness.evaluation.evaluate import opened

    class Begun:
        def __enter__(self):
            self.context = opened(artifact, lambda name: nullcontext(), lambda **event: None)
            bench = self.context.__enter__()
            bench.begin(suite)
            return bench

        def __exit__(self, *error):
            self.context.__exit__(*error)

    return Begun()


def results(suites, artifact):
    silent = {"phase": lambda name: nullcontext(), "report": lambda **event: None}
    return [measured.result for measured in evaluate(artifact, suites, **silent)]


def test_scores_are_the_endpoints_and_the_record_says_whose(suite_file, served, tiny_artifact):
    suite = load(suite_file(price={"input": 1.0, "output": 2.0}), "judged")
    (result,) = results([suite], tiny_artifact)
    assert [row["scores"]["score"] for row in result.rows] == pytest.approx([4.25] * 8)
    assert len(served.requests) == 8
    judge = result.notes["judge"]
    assert (judge["model"], judge["self_judged"]) == (MODEL, False)
    backend = judge["backend"]
    assert (backend["url"], backend["answered_by"]) == (served.url, {MODEL: 8})
    assert (backend["asked"], backend["requests"], backend["missing"]) == (8, 8, {})
    assert backend["dollars"] == pytest.approx(8 * 104e-6)
    assert KEY not in json.dumps(result.notes)


def test_the_same_suite_twice_has_the_same_scores(suite_file, tiny_artifact):
    suite = load(suite_file(), "judged")
    once, again = (results([suite], tiny_artifact)[0] for _ in range(2))
    assert [row["scores"] for row in once.rows] == [row["scores"] for row in again.rows]


def test_answers_of_another_model_are_a_warning(suite_file, served, tiny_artifact):
    def told(request, nth):
        return chat("4", top=[[("4", 1.0)]], model=f"{MODEL}-2026-11-01")

    suite = load(suite_file(), "judged")
    served.told = told
    (dated,) = results([suite], tiny_artifact)
    assert not [line for line in dated.warnings if "answered" in line]
    served.told = lambda request, nth: chat("4", top=[[("4", 1.0)]], model="cheap-model")
    suite = load(suite_file(max_tokens=9), "judged")  # of the first one verdicts are kept
    (other,) = results([suite], tiny_artifact)
    (warning,) = [line for line in other.warnings if "answered" in line]
    assert warning == "suite 'judged': the judge 'judge-1' was asked, and cheap-model answered"


def test_a_verdict_that_is_none_is_no_score_and_is_counted(suite_file, served, tiny_artifact):
    def told(request, nth):
        return chat("Fine!", top=[[("Fine", 1.0)]]) if "kettle" in request.text else scored(request)

    served.told = told
    suite = load(suite_file(judge={"max_missing": 0.2}), "judged")
    (result,) = results([suite], tiny_artifact)
    assert [row["scores"]["score"] is None for row in result.rows].count(True) == 1
    assert result.notes["judge"]["backend"]["missing"] == {"unparseable": 1}


def test_a_budget_spent_half_way_fails_the_suite_and_keeps_the_others(
    suite_file, served, tiny_artifact
):
    folder = suite_file(budget={"requests": 4}, in_flight=2)
    plain, judged = results([load(folder, "answers"), load(folder, "judged")], tiny_artifact)
    assert len(plain.rows) == 8
    assert isinstance(judged, SuiteFailure)
    assert isinstance(judged.error, CellFailed)
    assert "no answer to 4 of 8 questions (the budget of 4 requests is spent)" in str(judged.error)
    assert len(served.requests) == 4


def test_how_the_base_is_opened_does_not_matter_to_a_judge_elsewhere(suite_file):
    where = [Where(), Where(base_quantization={"load_in_8bit": True})]
    hashes = {
        load_suite(
            suite_file() / "judged.yaml", {}, plugins=PLUGINS, base_model=OTHER_BASE, where=each
        ).hash
        for each in where
    }
    assert len(hashes) == 1


def test_an_answer_is_compared_with_the_bases_by_an_endpoint(suite_file, served, tiny_artifact):
    judge = {"name": "pairwise", "against": "base", "rubric": "Which is better?"}
    folder = suite_file(judge=judge)
    one, other = load(folder, "judged"), load(folder, "judged", base=OTHER_BASE)
    assert one.hash != other.hash  # whose answers are compared with
    (result,) = results([one], tiny_artifact)
    assert [row["scores"]["win_rate"] for row in result.rows] == [0.5] * 8  # of the base itself
    assert not served.requests


def test_criteria_are_asked_of_an_endpoint_one_by_one(suite_file, served, tiny_artifact):
    def told(request, nth):
        word = "1" if "criterion 'tone'" in request.text else "3"
        return chat(word, top=[[(word, 0.9), ("2", 0.1)]])

    served.told = told
    levels = {"1": "bad", "2": "fair", "3": "good"}
    criteria = [{"name": name, "levels": levels} for name in ("accuracy", "tone")]
    judge = {"name": "rubric", "criteria": criteria}
    (result,) = results([load(suite_file(judge=judge), "judged")], tiny_artifact)
    for row in result.rows:
        scores = {"score": 2.0, "accuracy": 2.9, "tone": 1.1}
        assert row["scores"] == pytest.approx(scores)
    assert len(served.requests) == 16


# ---- the command ---------------------------------------------------------------------------------


def test_the_key_is_in_nothing_that_a_run_writes(suite_file, served, experiment, harness):
    """A server that repeats the key everywhere, for one suite that is judged and one that fails."""
    folder = suite_file()
    text = (folder / "judged.yaml").read_text().replace("name: judged", "name: failing")
    (folder / "failing.yaml").write_text(text.replace("Rate it.", "Fail it."))

    def told(request, nth):
        if "Fail it." in request.text:
            return error(401, f"Incorrect API key: {KEY}")
        if not nth:
            return error(500, f"internal error for {KEY}")
        return chat(f"4 {KEY}", top=[[("4", 0.75), (KEY, 0.25)]], model=f"{MODEL}-{KEY}")

    served.told = told
    small = experiment(suites=["judged", "failing"])
    env = {"TEST_KEY": KEY, "NO_PROXY": "127.0.0.1", "OPENAI_LOG": "debug"}
    done = harness("run", small.file, "--out", small.out, env=env)

    assert done.code == 5, done.stderr
    assert "Incorrect API key: ***" in done.stderr
    (record,) = small.records().values()
    judged = record["evaluation"]["suites"]["judged"]
    assert judged["metrics"]["score"]["value"] == 4.0
    assert judged["notes"]["judge"]["backend"]["retried"] == {"server_error": 8}
    assert judged["notes"]["judge"]["backend"]["answered_by"] == {f"{MODEL}-***": 8}
    assert "failing" not in record["evaluation"]["suites"]

    written = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    everything = [*written, done.stdout.encode(), done.stderr.encode()]
    assert not [text for text in everything if KEY[:18].encode() in text]
    # the search finds what is there
    assert len(written) > 8
    assert any(b"TEST_KEY" in text for text in written)


def test_without_a_key_a_run_ends_at_once_with_one_line(suite_file, experiment, harness):
    suite_file(key="NO_SUCH_KEY")
    small = experiment(suites=["judged"])
    done = harness("run", small.file, "--out", small.out)
    assert done.code == 2
    assert re.search(r"judged\.yaml:\d+: judge\.endpoint: the environment variable", done.error)
    assert not small.out.exists()


def test_the_suite_of_the_documentation_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    page = (ROOT / "docs/judge-endpoint.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "hosted-judge.yaml").write_text(block)
    write_jsonl(tmp_path / "answers.jsonl", [{"prompt": "Two and two?", "reference": "four"}])
    suite = load(tmp_path, "hosted-judge")
    assert suite.judge_endpoint["budget"] == {"requests": 2000, "tokens": 1000000, "dollars": 1.0}
