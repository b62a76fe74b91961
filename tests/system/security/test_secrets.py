"""Secrets: planted wherever an accident puts them, and looked for in everything that comes out."""

import gzip
import io
import json

import pytest

from harness.system.console import standard_streams
from harness.system.security import secrets
from harness.system.security.secrets import masked
from tests.conftest import run_warm
from tests.endpoint_server import Served, chat, error
from tests.fuzz import harness

PLANTED = "planted-value-of-a-token"

HIDDEN = {
    "https://me:pa55word@host/v1": "https://***@host/v1",
    "git+ssh://token@host:22/x": "git+ssh://***@host:22/x",
    "GET /v1?model=a&api_key=abc123&n=1": "GET /v1?model=a&api_key=***&n=1",
    "{'Authorization': 'Bearer abcdefghijklmnop'}": "{'Authorization': 'Bearer ***'}",
    f"hf_{'a1' * 17} is not valid": "*** is not valid",
    f"key=sk-proj-{'Ab1_' * 10}.": "key=***.",
    f"export GH=ghp_{'a1' * 18}": "export GH=***",
    'a JSON text "postgres://u:p@h/d" ends': 'a JSON text "postgres://***@h/d" ends',
}
KEPT = (
    "mail me@example.org or see https://host/a@b?page=2",
    "hf download org/name --local-dir x",
    "the token is = 3, sk-learn, a basic question, the bearer of it",
    "file:///tmp/a:b@c?tokens=3",
)


@pytest.mark.parametrize("text", HIDDEN)
def test_what_looks_like_a_credential_is_hidden(text):
    assert masked(text) == HIDDEN[text]


@pytest.mark.parametrize("text", KEPT)
def test_other_text_stays_as_it_is(text):
    assert masked(text) == text


@pytest.mark.parametrize("name", ["SOME_TOKEN", "judge_api_key", "DB_PASSWORD", "AWS_SECRET"])
def test_values_of_variables_that_are_named_as_secrets_are_hidden(monkeypatch, name):
    monkeypatch.setenv(name, f"{PLANTED}/1")
    assert masked(f"a {PLANTED}/1 b") == "a *** b"
    assert masked(json.dumps(f"{PLANTED}/1").replace("/", "\\/")) == '"***"'


@pytest.mark.parametrize(
    "name", ["SOME_TOKENS", "TOKENIZERS_PARALLELISM", "MONKEY", "HF_TOKEN_PATH"]
)
def test_values_of_other_variables_are_no_secrets(monkeypatch, name):
    monkeypatch.setenv(name, PLANTED)
    assert masked(PLANTED) == PLANTED


def test_a_word_that_servers_without_keys_are_given_is_no_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert masked("none of them") == "none of them"


def test_what_is_printed_holds_no_secret(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", PLANTED)
    behind = io.StringIO()
    monkeypatch.setattr("sys.stdout", behind)
    with standard_streams():
        print(f"{PLANTED} and https://u:p@h/")
    assert behind.getvalue() == "*** and https://***@h/\n"


def every_text(folder):
    """Every file below a folder, unpacked, as one text."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    contents = (
        gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for file in files
    )
    return "".join(content.decode(errors="replace") for content in contents)


def test_nothing_that_a_run_leaves_holds_a_secret_of_a_method_that_leaks(
    experiment, warm, install_by_hand, monkeypatch
):
    monkeypatch.syspath_prepend(install_by_hand("trouble"))
    small = experiment(methods=["base", {"name": "trouble", "how": "leaks"}], suites=["answers"])
    events = []
    outcome = run_warm(small, warm, told=lambda cell, event: events.append(event))
    assert len(outcome.failed) == 1
    left = every_text(small.out) + json.dumps(events)
    assert "401 from https://***@example.org/v1?api_key=***" in left  # it leaked
    assert "asking with ***" in left
    assert "planted-" not in left
    (failed,) = [r for r in small.records().values() if r["status"] == "error"]
    assert "***" in failed["error"]["message"]


def test_a_key_that_an_endpoint_repeats_is_on_no_screen(tmp_path, monkeypatch):
    """Of a variable whose name does not tell that it is a key."""
    monkeypatch.setenv("MINE", PLANTED)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Served(lambda request, nth: chat("4")).running() as server:
        server.models = error(401, f"wrong key {PLANTED}")
        arguments = ["eval", "--served", server.url, "--key", "MINE", "--out", "out"]
        ran = harness(arguments, tmp_path)
    assert ran.code == 2, ran
    assert "***" in ran.stderr
    assert PLANTED not in ran.stdout + ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What one test adds, the next does not know."""
    monkeypatch.setattr(secrets, "_added", set())
