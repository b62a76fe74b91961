"""The client of an OpenAI-compatible endpoint, against a real server that misbehaves."""

from __future__ import annotations

import datetime
import email.utils
import json
import math

import pytest

from harness.errors import EnvironmentLack
from harness.system.endpoint import client as module
from harness.system.endpoint.client import Client, Endpoint, read_key, url_fault
from harness.system.endpoint.completion import ChatRequest, Completion, Failure, parse
from harness.system.endpoint.spending import Budget, Ledger, Price, estimate
from tests.endpoint_server import MODEL, Answer, Served, chat, error, page

KEY = "sk-test-0123456789/abcdef"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No long waits, no proxy, and a key in the environment."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.fixture
def served():
    with Served(lambda request, nth: chat("4")).running() as server:
        yield server


def opened(served, **settings):
    return Client(Endpoint(served.url, MODEL, key="TEST_KEY", **settings))


def asked(text, **how):
    return ChatRequest([{"role": "user", "content": text}], max_tokens=8, **how)


def questions(count):
    return [asked(f"question {i}") for i in range(count)]


# ---- what is sent and what comes back ------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests_and_are_counted(served):
    served.told = lambda request, nth: chat(request.text.upper(), seconds=0.02 * (nth == 0))
    seen = []
    client = opened(served, price=Price(1.0, 10.0))
    answers = client.complete(questions(9), progress=lambda done, total: seen.append((done, total)))
    assert [a.choices[0].text for a in answers] == [f"QUESTION {i}" for i in range(9)]
    assert seen == [(i, 9) for i in range(1, 10)]
    ledger = client.ledger
    assert (ledger.requests, ledger.input_tokens, ledger.output_tokens) == (9, 900, 18)
    assert ledger.dollars == pytest.approx(9 * (100 * 1 + 2 * 10) / 1e6)
    assert not ledger.under_way


def test_a_request_says_model_temperature_length_and_log_probabilities(served):
    client = opened(served)
    client.complete([asked("one", top_logprobs=20), asked("two", temperature=1.0, samples=5)])
    one, two = sorted((r.body for r in served.requests), key=lambda body: body["temperature"])
    messages = [{"role": "user", "content": "one"}]
    assert one == {
        "model": MODEL,
        "messages": messages,
        "temperature": 0.0,
        "max_tokens": 8,
        "logprobs": True,
        "top_logprobs": 20,
    }
    assert (two["n"], two["temperature"]) == (5, 1.0)
    assert "logprobs" not in two
    assert served.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("in_flight", [1, 4])
def test_so_many_requests_are_under_way_and_no_more(served, in_flight):
    served.told = lambda request, nth: chat("4", seconds=0.05)
    opened(served, in_flight=in_flight).complete(questions(12))
    assert served.most_at_once == in_flight


def test_log_probabilities_model_and_usage_are_read(served):
    top = [[(" 4", 0.5), ("4", 0.25), ("five", 0.0)]]
    served.told = lambda request, nth: chat(" 4", top=top, model="other-model")
    (answer,) = opened(served).complete([asked("x", top_logprobs=3)])
    assert answer.model == "other-model"
    assert answer.usage.total == 102
    (position,) = answer.choices[0].positions
    assert position.token == " 4"
    assert dict(position.top) == {
        " 4": pytest.approx(math.log(0.5)),
        "4": pytest.approx(math.log(0.25)),
        "five": -math.inf,
    }


def test_half_of_a_surrogate_pair_can_be_asked(served):
    (answer,) = opened(served).complete([asked("broken \ud83d text")])
    assert isinstance(answer, Completion)
    assert served.requests[0].text == "broken ? text"


def test_a_model_that_knows_another_name_of_the_length_is_asked_by_that(served):
    def told(request, nth):
        if "max_tokens" in request.body:
            return error(400, "Unsupported parameter: use 'max_completion_tokens' instead")
        return chat("4")

    served.told = told
    client = opened(served, in_flight=1)
    assert all(isinstance(answer, Completion) for answer in client.complete(questions(3)))
    assert client.ledger.requests == 4
    assert client.ledger.retried == {"max_tokens": 1}


# ---- misbehaviour --------------------------------------------------------------------------------

WHOLE = chat("4").body

MISBEHAVIOUR = {
    "429": (error(429, Retry_After="0.05"), "rate_limited"),
    "500": (error(500), "server_error"),
    "503 of a proxy": (page(503), "server_error"),
    "time-out": (chat("4", seconds=1.0), "time_out"),
    "half a body": (Answer(WHOLE, cut=len(WHOLE) // 2), "no_connection"),
    "invalid JSON": (Answer(WHOLE[: len(WHOLE) // 2]), "invalid"),
    "an HTML page": (page(200), "invalid"),
    "JSON of something else": (Answer(b'{"error": "overloaded"}'), "invalid"),
    "no choices": (Answer(b'{"choices": []}'), "invalid"),
    "nothing": (Answer(b""), "invalid"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_request_that_went_wrong_once_is_sent_again_and_counted(served, name):
    wrong, kind = MISBEHAVIOUR[name]
    served.told = lambda request, nth: chat("4") if nth else wrong
    client = opened(served, timeout=0.5)
    (answer,) = client.complete([asked("x")])
    assert isinstance(answer, Completion), answer
    assert answer.choices[0].text == "4"
    assert client.ledger.requests == 2
    assert client.ledger.retried == {kind: 1}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_one_that_goes_wrong_each_time_has_no_answer_and_says_why(served, name, monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 1)
    wrong, kind = MISBEHAVIOUR[name]
    served.told = lambda request, nth: wrong
    client = opened(served, timeout=0.3)
    (answer,) = client.complete([asked("x")])
    assert isinstance(answer, Failure)
    assert answer.kind == kind
    assert "\n" not in answer.message
    assert client.ledger.requests == 2
    # what may have been computed is counted as if it had been
    assert bool(client.ledger.guessed) == (answer.status is None)


def test_nobody_answers_at_the_url(monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 0)
    with Served(lambda request, nth: chat("4")).running() as gone:
        url = gone.url
    client = Client(Endpoint(url, MODEL, key="TEST_KEY"))
    (answer,) = client.complete([asked("x")])
    assert answer.kind == "no_connection"
    assert client.ledger.spent.total == 0
    assert client.models().kind == "no_connection"


def test_retry_after_holds_all_requests_back(served):
    def told(request, nth):
        return error(429, Retry_After="0.4") if len(served.requests) == 1 else chat("4")

    served.told = told
    opened(served, in_flight=1).complete(questions(3))
    first, *others = (request.at for request in served.requests)
    assert min(others) - first >= 0.4


def test_an_endpoint_that_asks_for_more_than_minutes_is_not_waited_for(served):
    served.told = lambda request, nth: error(429, Retry_After="86400")
    client = opened(served)
    (answer,) = client.complete([asked("x")])
    assert (answer.kind, client.ledger.requests) == ("rate_limited", 1)
    assert answer.retry_after == 86400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-1"}, 0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read(headers, seconds):
    assert module._retry_after(headers) == seconds


def test_how_long_to_wait_may_be_a_date():
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
    seconds = module._retry_after({"retry-after": email.utils.format_datetime(then)})
    assert 50 < seconds <= 60


@pytest.mark.parametrize(
    "refusal",
    [
        error(401, f"Incorrect API key provided: {KEY}"),
        error(404, f"no such model; you are {KEY}"),
        error(429, "You exceeded your current quota", code="insufficient_quota"),
    ],
)
def test_where_all_would_fail_alike_the_others_are_not_sent(served, refusal):
    served.told = lambda request, nth: refusal
    client = opened(served, in_flight=2)
    answers = client.complete(questions(20))
    assert all(isinstance(answer, Failure) for answer in answers)
    assert len(served.requests) <= 2
    assert KEY not in repr(answers) + repr(client) + repr(vars(client.ledger))


def test_one_that_is_wrong_by_itself_stops_no_other(served):
    served.told = lambda request, nth: error(400) if request.text.endswith("3") else chat("4")
    answers = opened(served).complete(questions(8))
    assert [i for i, answer in enumerate(answers) if isinstance(answer, Failure)] == [3]
    assert answers[3].kind == "rejected"


def test_what_the_providers_filter_holds_back_is_told_apart(served):
    served.told = lambda request, nth: error(400, code="content_filter")
    (answer,) = opened(served).complete([asked("x")])
    assert answer.kind == "filtered"


def test_more_failures_than_tolerated_end_the_asking(served):
    served.told = lambda request, nth: error(400)
    answers = opened(served, in_flight=1).complete(questions(20), tolerated=0.1)
    assert len(served.requests) == 3
    assert [answer.kind for answer in answers].count("given_up") == 17
    assert "3 of 20 had failed (HTTP 400: no)" in answers[-1].message


# ---- budgets -------------------------------------------------------------------------------------


def test_a_budget_of_requests_counts_those_sent_again(served):
    served.told = lambda request, nth: chat("4") if nth else error(500)
    client = opened(served, in_flight=1, budget=Budget(requests=5))
    answers = client.complete(questions(4))
    assert len(served.requests) == client.ledger.requests == 5
    assert [isinstance(answer, Completion) for answer in answers] == [True, True, False, False]
    assert {a.kind for a in answers[2:]} == {"budget"}
    assert answers[3].message == "the budget of 5 requests is spent"
    assert client.complete(questions(1))[0].kind == "budget"
    assert len(served.requests) == 5


@pytest.mark.parametrize("in_flight", [1, 8])
def test_tokens_stay_within_their_budget_although_requests_are_under_way(served, in_flight):
    text = "word " * 60  # 300 bytes: a guess of 108 input tokens and 8 output tokens
    served.told = lambda request, nth: chat("4", usage=(70, 2), seconds=0.02)
    client = opened(served, in_flight=in_flight, budget=Budget(tokens=1000))
    answers = client.complete([asked(f"{text}{i:2}") for i in range(30)])
    answered = sum(isinstance(answer, Completion) for answer in answers)
    assert client.ledger.spent.total == answered * 72
    assert answered == 13  # 12 are 864 tokens, and one more is guessed to end at 980
    assert {a.kind for a in answers if isinstance(a, Failure)} == {"budget"}


def test_dollars_stay_within_their_budget(served):
    served.told = lambda request, nth: chat("4", usage=(30, 2))
    price = Price(input=1000.0, output=2000.0)
    client = opened(served, in_flight=1, budget=Budget(dollars=0.1), price=price)
    answers = client.complete(questions(10))
    answered = sum(isinstance(answer, Completion) for answer in answers)
    assert client.ledger.dollars == pytest.approx(answered * 0.034)
    assert answered == 2
    assert answers[-1].message == "the budget of 0.1 dollars is spent"


def test_usage_that_is_not_reported_is_guessed_and_says_so(served):
    served.told = lambda request, nth: chat("4", usage=None)
    client = opened(served)
    (request,) = questions(1)
    client.complete([request])
    assert client.ledger.guessed == 1
    assert client.ledger.spent == estimate(request)


def test_a_guess_is_held_until_the_request_is_settled():
    ledger, request = Ledger(Budget(tokens=30)), asked("x" * 30)  # 10 + 8 + 8
    assert ledger.exceeded_by(request) is None
    ledger.begin(request)
    assert ledger.exceeded_by(request) == "30 tokens"
    ledger.settle(request, None, billed=False)
    assert ledger.exceeded_by(request) is None
    assert ledger.spent.total == 0


# ---- models, urls, keys --------------------------------------------------------------------------


def test_the_models_that_are_served(served):
    served.models = ["a", "b"]
    assert opened(served).models() == ["a", "b"]
    served.models = page(200)
    assert opened(served).models().kind == "invalid"
    served.models = error(401, f"wrong key {KEY}")
    refused = opened(served).models()
    assert (refused.kind, refused.message) == ("rejected", "HTTP 401: wrong key ***")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("api.openai.com/v1", "is no URL"),
        ("ftp://host/v1", "is no URL"),
        ("http://", "is no URL"),
        ("http://host:99999/v1", "is no URL"),
        ("https://user:secret@host/v1", "may hold no user"),
        ("https://host/v1?api-key=secret", "may hold no user"),
        ("https://host/v1/chat/completions", "leave /chat/completions out"),
        ("https://host/a b", "space"),
    ],
)
def test_what_is_no_base_url_is_refused_without_being_shown(url, says):
    fault = url_fault(url)
    assert says in fault
    assert "secret" not in fault


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "http://[::1]:8080", "http://h/v1/"])
def test_base_urls(url):
    assert url_fault(url) is None


def test_a_key_is_read_from_the_variable_alone(monkeypatch):
    assert read_key("TEST_KEY") == KEY
    assert read_key(None) is None
    monkeypatch.setenv("TEST_KEY", " ")
    with pytest.raises(EnvironmentLack, match="TEST_KEY holds no key: export TEST_KEY="):
        read_key("TEST_KEY")
    monkeypatch.setenv("TEST_KEY", "hush\u00e9hush")
    with pytest.raises(EnvironmentLack) as caught:
        read_key("TEST_KEY")
    assert "hush" not in str(caught.value)


def test_a_key_that_a_server_repeats_is_taken_out_of_its_answers(served):
    said = f"your key is {KEY}, is it not?"
    served.told = lambda request, nth: chat(said)
    (answer,) = opened(served).complete([asked("x")])
    assert answer.choices[0].text == "your key is ***, is it not?"
    slashes = Answer(json.dumps(json.loads(chat(said).body)).replace("/", "\\/").encode())
    served.told = lambda request, nth: slashes
    (answer,) = opened(served).complete([asked("x")])
    assert answer.choices[0].text == "your key is ***, is it not?"


def test_what_is_no_secret_stays_in_answers(served, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "4")
    (answer,) = opened(served).complete([asked("x")])
    assert answer.choices[0].text == "4"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "no chat completion"),
        (b'{"choices": [{"message": {"content": 4}}]}', "choices.0.message.content"),
    ],
)
def test_what_is_no_completion_says_where(body, says):
    with pytest.raises(ValueError, match=r"^no chat completion") as caught:
        parse(body)
    assert says in str(caught.value)
