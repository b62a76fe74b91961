"""A model behind a server gives the figures of the same model in this process, or says why not."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from harness.config.served_settings import ServedSettings
from harness.errors import CellFailed, UserError
from harness.evaluation.served.check import check_up, named
from harness.evaluation.served.model import ServedModel as Measured
from harness.evaluation.served.model import warnings
from harness.models.language_model import open_artifact
from harness.models.served import stand_in
from harness.system.endpoint import client as client_module
from harness.types import Artifact, ModelRef
from tests.endpoint_server import MODEL, Answer, Served, chat, completion, error
from tests.model_server import ServedModel

CONVERSATION = [
    {"role": "system", "content": "You answer for a small shop."},
    {"role": "user", "content": "Do you sell a red kettle?\n  Or {{ two }} <b>lamps</b>? 日本"},
]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(client_module, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tiny_artifact):
    return open_artifact(tiny_artifact)


def found(model_folder):
    return lambda name: ModelRef("tiny", str(model_folder), "its-hash")


def opened(server, **settings):
    given = named(ServedSettings(served=server.url, **settings))
    reference = stand_in.resolve(given, found(settings.get("tokenizer")))
    return Measured(Artifact("base", reference))


def by_ids(server, folder, **more):
    return opened(server, form="completions", tokenizer=str(folder), **more)


def ids(tokenizer, messages):
    from harness.data.tokenization import render

    text = render(tokenizer, messages, generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def tokenized(measured, text):
    return measured.tokenizer(text)["input_ids"]


def test_a_conversation_reaches_the_server_as_it_is():
    with Served(lambda request, nth: chat("  Yes, 日本.\n")).running() as server:
        measured = opened(server)
        (answer,) = measured.generate([ids(measured.tokenizer, CONVERSATION)], max_new_tokens=7)
        body = server.requests[0].body
    assert body["messages"] == CONVERSATION
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.0, 7, MODEL)
    assert measured.text(answer.ids) == "  Yes, 日本.\n"
    assert answer.tokens == 2  # by the server's count, not in bytes


def test_a_plain_prompt_is_a_users_turn_in_chat_and_itself_in_completions():
    def told(request, nth):
        return chat("a") if "messages" in request.body else completion("a")

    with Served(told).running() as server:
        for form in ("chat", "completions"):
            measured = opened(server, form=form)
            prompt = measured.tokenizer("Is it red?\n")["input_ids"]
            measured.generate([prompt], max_new_tokens=1)
            sent = [request.body for request in server.requests][-1]
            if form == "chat":
                assert sent["messages"] == [{"role": "user", "content": "Is it red?\n"}]
            else:
                assert sent["prompt"] == "Is it red?\n"


def test_answers_to_token_ids_are_those_of_this_process(model, tiny_model, tokenizer):
    prompts = [ids(tokenizer, [{"role": "user", "content": f"A {t}?"}]) for t in ("lamp", "bell")]
    own = model.generate(prompts, max_new_tokens=9)
    with ServedModel(model).running() as server:
        measured = by_ids(server, tiny_model)
        answers = measured.generate(prompts, max_new_tokens=9)
        assert server.requests[0].body["prompt"] in prompts
    assert [measured.text(a.ids) for a in answers] == [model.text(a.ids) for a in own]
    assert [a.capped for a in answers] == [a.capped for a in own]
    told = measured.info()["served"]
    assert told["requests"] == 4  # two, and two for the time to the first token
    assert told["tokens"]["output"] >= sum(len(a.ids) for a in own)
    assert told["seconds_to_first_token"] > 0
    assert told["tokens_per_second"] > 0


def test_log_probabilities_of_prompts_are_those_of_this_process(model, tiny_model, tokenizer):
    requests = [
        (tokenizer("Question: which?\nAnswer:")["input_ids"], tokenizer(" red")["input_ids"]),
        ([model.prefix_token], tokenizer("The tent stood by the door.")["input_ids"]),
    ]
    own = model.loglikelihood(requests)
    with ServedModel(model).running() as server:
        scored = by_ids(server, tiny_model, prompt_logprobs=True).loglikelihood(requests)
    for one, other in zip(own, scored, strict=True):
        assert other.token_logprobs == pytest.approx(one.token_logprobs, abs=1e-4)
        assert other.logprob == pytest.approx(one.logprob, abs=1e-4)
        assert other.greedy == one.greedy


def test_letters_are_read_off_the_likeliest_tokens():
    def told(request, nth):
        return chat("B", top=[[("B", 0.6), (" A", 0.2), ("b", 0.1), ("C", 0.05)]])

    with Served(told).running() as server:
        measured = opened(server)
        context = tokenized(measured, "Question: Which colour?\nAnswer:")
        pairs = [
            (context, tokenized(measured, f" {colour}"))
            for colour in ("red", "green", "blue", "grey")
        ]
        scores = measured.loglikelihood(pairs)
        asked = server.requests[0].text
    assert asked.startswith(
        "Question: Which colour?\nAnswer:\nA. red\nB. green\nC. blue\nD. grey\n"
    )
    weights = [math.exp(score.logprob) for score in scores]
    assert weights == pytest.approx([0.2, 0.6, 0.05, 1e-10])
    assert [score.greedy for score in scores] == [False, True, False, False]


def test_choices_that_are_letters_are_not_listed_again():
    with Served(lambda request, nth: chat("C", top=[[("C", 1.0)]])).running() as server:
        measured = opened(server)
        context = tokenized(measured, "Which?\nA. red\nB. green\nC. blue\nAnswer:")
        measured.loglikelihood([(context, tokenized(measured, f" {letter}")) for letter in "ABC"])
        asked = server.requests[0].text
    assert asked.count("A. red") == 1


def test_without_log_probabilities_a_letter_is_generated():
    with Served(lambda request, nth: chat("B.")).running() as server:
        measured = opened(server)
        context = tokenized(measured, "Which?")
        scores = measured.loglikelihood(
            [(context, tokenized(measured, f" {w}")) for w in ("red", "blue")]
        )
        assert all(request.body["temperature"] == 0 for request in server.requests)
    assert scores[1].logprob == pytest.approx(0.0)
    assert scores[0].logprob < -20


def test_a_text_that_is_no_choice_is_refused_before_it_is_sent():
    with Served(lambda request, nth: chat("x")).running() as server:
        measured = opened(server)
        pair = measured.tokenizer("The tent")["input_ids"], measured.tokenizer(" is")["input_ids"]
        with pytest.raises(UserError, match="no log-probabilities of texts"):
            measured.loglikelihood([pair])
        assert not server.requests


def test_too_many_lost_answers_fail_and_a_few_are_missing_values(tokenizer):
    prompts = [[{"role": "user", "content": f"Question {i}"}] for i in range(40)]

    def told(request, nth):
        return error(400, "no such thing") if request.text == "Question 7" else chat("yes")

    with Served(told).running() as server:
        measured = opened(server)
        asked = [ids(measured.tokenizer, prompt) for prompt in prompts]
        answers = measured.generate(asked, max_new_tokens=3)
        assert [i for i, answer in enumerate(answers) if not answer.finite] == [7]
        assert measured.info()["served"]["failed"] == {"rejected": 1}
        server.told = lambda request, nth: error(400, "maximum context length is 8 tokens")
        with pytest.raises(CellFailed, match="longer context"):
            measured.generate(asked, max_new_tokens=3)


def test_a_prompt_that_the_server_cuts_in_silence_is_told(tiny_model, tokenizer):
    with Served(lambda request, nth: completion("yes", usage=(3, 1))).running() as server:
        measured = by_ids(server, tiny_model)
        short, long = tokenizer("Is it?")["input_ids"][:3], ids(tokenizer, CONVERSATION)
        answers = measured.generate([short, long], max_new_tokens=3)
    assert [answer.cut for answer in answers] == [False, True]


def test_a_lost_server_is_told_with_what_to_do(tokenizer):
    with Served(lambda request, nth: error(503, "overloaded")).running() as server:
        measured = opened(server)
        with pytest.raises(CellFailed, match=r"overloaded.*run it again"):
            measured.generate([ids(measured.tokenizer, CONVERSATION)], max_new_tokens=3)
        assert measured.info()["served"]["retried"] == {"server_error": client_module.RETRIES}


def test_another_name_that_answers_is_told():
    with Served(lambda request, nth: chat("x", model="other")).running() as server:
        measured = opened(server)
        measured.generate([ids(measured.tokenizer, CONVERSATION)], max_new_tokens=1)
    told = measured.info()["served"]
    (line,) = warnings(told)
    assert MODEL in line
    assert "'other' answered" in line
    assert not warnings({**told, "answered_by": {MODEL: 3}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.models.clear(), "say which"),
        (lambda s: s.models.append("second"), "say which"),
        (lambda s: setattr(s, "models", error(401)), "asks for a key"),
        (lambda s: setattr(s, "models", error(500)), "no OpenAI-compatible server"),
    ],
)
def test_a_server_that_cannot_be_asked_is_told_in_one_line(change, says):
    with Served(lambda request, nth: chat("x")).running() as server:
        change(server)
        with pytest.raises(UserError, match=says) as caught:
            named(ServedSettings(served=server.url))
    assert "\n" not in str(caught.value)


def test_the_only_model_of_a_server_needs_no_name():
    with Served(lambda request, nth: chat("x")).running() as server:
        assert named(ServedSettings(served=server.url)).model == MODEL


def test_a_server_is_checked_before_it_is_asked(model, tiny_model):
    def reference(server, **settings):
        given = ServedSettings(served=server.url, **{"model": MODEL, **settings})
        return stand_in.resolve(given, found(tiny_model))

    ids_sent = {"form": "completions", "tokenizer": str(tiny_model), "prompt_logprobs": True}
    with ServedModel(model).running() as server:
        check_up([reference(server), reference(server, **ids_sent)])
        with pytest.raises(UserError, match=f"did you mean '{MODEL}'"):
            check_up([reference(server, model=f"{MODEL}x")])
        server.models = [f"{MODEL}:latest"]  # as Ollama lists it
        check_up([reference(server)])
        down = server.url
    with (
        ServedModel(model, echo=False).running() as server,
        pytest.raises(UserError, match="leave prompt_logprobs out"),
    ):
        check_up([reference(server, **ids_sent)])
    with pytest.raises(UserError, match="start it, or correct the URL"):
        check_up([stand_in.resolve(ServedSettings(served=down, model=MODEL), found(tiny_model))])


def test_what_a_served_model_is_known_by(tiny_model):
    def reference(**settings):
        given = {"served": "http://127.0.0.1:9/v1", "model": "m", **settings}
        return stand_in.resolve(ServedSettings(**given), found(tiny_model))

    one = reference()
    assert stand_in.is_served(one)
    assert not stand_in.is_served(ModelRef("tiny", str(tiny_model)))
    assert one.identity == reference(in_flight=3, timeout=9, key="OTHER_KEY").identity
    assert stand_in.settings_of(one).key == "OTHER_KEY"  # how it is asked next
    others = [
        reference(model="n"),
        reference(served="http://127.0.0.1:10/v1"),
        reference(form="completions"),
        reference(form="completions", tokenizer=str(tiny_model)),
    ]
    assert len({other.identity for other in others} | {one.identity}) == 5
    assert "OTHER_KEY" not in json.dumps([one.name, one.content_hash])
    assert reference(model="/srv/models/mine").name == "mine at http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "served: URL"),
        ({"served": "http://x/v1", "gguf": "a.gguf"}, "not both"),
        ({"served": "http://x/v1", "tokenizer": "m"}, "form: completions"),
        ({"served": "http://x/v1", "form": "completions", "prompt_logprobs": True}, "tokenizer"),
        ({"served": "http://x/v1", "key": "sk-abc"}, "never the key itself"),
        ({"served": "http://me:secret@x/v1"}, "no user, password"),
        ({"served": "http://x/v1", "budget": {"dollars": 1}}, "price"),
    ],
)
def test_settings_that_do_not_go_together(settings, says):
    with pytest.raises(ValueError, match=says) as caught:
        ServedSettings.model_validate(settings)
    assert "secret" not in str(caught.value.errors()[0]["msg"])


def test_the_record_holds_no_key(monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-0123456789abcdef")

    def told(request, nth):
        return error(400, "bad key sk-0123456789abcdef")

    with Served(told).running() as server:
        measured = opened(server, model=MODEL, key="A_KEY")
        with pytest.raises(CellFailed) as caught:
            measured.generate([ids(measured.tokenizer, CONVERSATION)], max_new_tokens=1)
    assert "sk-0123456789" not in f"{caught.value}{measured.info()}"


def test_an_answer_is_cut_at_every_stop():
    with Served(lambda request, nth: chat("one\n\ntwo END three")).running() as server:
        measured = opened(server)
        stops = ["a", "b", "c", "d", "END", "\n\n"]
        (answer,) = measured.generate(
            [ids(measured.tokenizer, CONVERSATION)], max_new_tokens=9, stops=stops
        )
        assert server.requests[0].body["stop"] == stops[:4]
    assert measured.text(answer.ids) == "one"
    assert replace(answer, counted=None).tokens == 3


def test_tools_and_calls_reach_the_server_and_its_own_calls_are_read():
    from harness import parse_tool_calls
    from harness.data.tokenization import render

    tools = [
        {
            "type": "function",
            "function": {
                "name": "price",
                "description": "What a thing costs",
                "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}},
            },
        }
    ]
    call = {"type": "function", "function": {"name": "price", "arguments": {"thing": "lämp"}}}
    messages = [
        {"role": "user", "content": "How much is the lamp?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "18"},
        {"role": "user", "content": "And the tent?"},
    ]

    def told(request, nth):
        body = json.loads(chat("").body)
        function = {"name": "price", "arguments": '{"thing": "tent"}'}
        body["choices"][0]["message"] = {
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": function}],
        }
        return Answer(json.dumps(body).encode())

    with Served(told).running() as server:
        measured = opened(server)
        text = render(measured.tokenizer, messages, generation_prompt=True, tools=tools)
        prompt = measured.tokenizer(text, add_special_tokens=False)["input_ids"]
        (answer,) = measured.generate([prompt], max_new_tokens=9)
        body = server.requests[0].body
    assert body["tools"] == tools
    asked, answered = body["messages"][1], body["messages"][2]
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"thing": "lämp"}
    assert answered["tool_call_id"] == asked["tool_calls"][0]["id"]
    assert [m["content"] for m in body["messages"]] == [m["content"] for m in messages]
    (found,) = parse_tool_calls(measured.text(answer.ids))
    assert (found.name, found.arguments) == ("price", {"thing": "tent"})
