"""The conformance tests of models: the built-in model passes, and each fault is found out."""

from dataclasses import replace

import pytest

from harness.models.language_model import open_artifact
from harness.testing import MODEL_CHECKS, ModelTrial
from harness.testing import models as checks


def own(artifact, batch):
    return open_artifact(replace(artifact, engine=None), batch)


class Wrapped:
    """The built-in model, with one thing otherwise."""

    def __init__(self, model, **changed):
        self._model, self._changed = model, changed

    def __getattr__(self, name):
        changed = self._changed.get(name)
        value = getattr(self._model, name)
        return value if changed is None else changed(value)


FAULTS = {
    checks.check_tokens: {"max_length": lambda most: most + 1},
    checks.check_answers: {"generate": lambda run: lambda p, **k: run(p, **k)[::-1]},
    checks.check_ends: {
        "generate": lambda run: (
            lambda p, **k: [
                replace(one, ids=one.ids if one.capped else (*one.ids, 2)) for one in run(p, **k)
            ]
        )
    },
    checks.check_stops: {"generate": lambda run: lambda p, stops=(), **k: run(p, **k)},
    checks.check_long_prompts: {
        "generate": lambda run: lambda p, **k: [replace(one, cut=False) for one in run(p, **k)]
    },
    checks.check_loglikelihoods: {
        "loglikelihood": lambda run: lambda requests, progress=None: run(requests)[::-1]
    },
    checks.check_closed: {"info": lambda told: lambda: {**told(), "batch": {1}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trial")


@pytest.fixture(scope="module")
def trial(folder):
    return ModelTrial(own, folder)


@pytest.mark.parametrize("check", MODEL_CHECKS, ids=lambda check: check.__name__)
def test_the_model_of_this_process_conforms(trial, check):
    check(trial)


@pytest.mark.parametrize("check", FAULTS, ids=lambda check: check.__name__)
def test_a_fault_is_found_out(folder, check):
    faulty = ModelTrial(lambda *given: Wrapped(own(*given), **FAULTS[check]), folder)
    with pytest.raises(AssertionError):
        check(faulty)


def test_answers_that_depend_on_what_came_before_are_found_out(folder):
    turns = iter((1, 2))

    def drifting(run):
        return lambda prompts, **given: run(prompts, max_new_tokens=next(turns))

    faulty = ModelTrial(lambda *given: Wrapped(own(*given), generate=drifting), folder)
    with pytest.raises(AssertionError, match="otherwise the second time"):
        checks.check_turns(faulty)


def test_a_hook_that_opens_nothing_is_found_out(folder):
    with pytest.raises(AssertionError, match="open_model returned None"):
        checks.check_tokens(ModelTrial(lambda *given: None, folder))
