"""Conformance tests of models: what suites rely on of what the hook `open_model` returns.

    import pytest
    from harness.testing import MODEL_CHECKS, ModelTrial

    @pytest.fixture(scope="module")
    def trial(tmp_path_factory):
        return ModelTrial(open_model, tmp_path_factory.mktemp("model"), engine="mine")

    @pytest.mark.parametrize("check", MODEL_CHECKS, ids=lambda check: check.__name__)
    def test_my_model(trial, check):
        check(trial)

Each check takes a ModelTrial and raises AssertionError with one line that names the violation. The
model is tiny and random and is made here; what it says is held against the passes of this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.model import Model, Request
from harness.errors import UserError
from harness.types import Artifact, ModelRef

if TYPE_CHECKING:
    from harness.models.language_model import LanguageModel

__all__ = ["MODEL_CHECKS", "ModelTrial"]

CAP = 64
"""New tokens: the tiny model ends one of the answers before them."""
ALIKE = 0.9
"""Share of the answers' tokens that are those of this process: other kernels round otherwise."""
CLOSE = 1e-2
"""Nats by which a continuation's log-probability may differ, in float32."""
_TEXTS = ("Do you sell a lamp?", "Where?", "A red kettle", "Name three things.", "Yes.")


class ModelTrial:
    """A tiny model as a plugin opens it, and as this process does.

    `open_model(artifact, batch)` is the plugin's hook; `engine` the one that the artifact names.
    """

    def __init__(
        self,
        open_model: Callable[[Artifact, int | None], Any],
        folder: Path,
        *,
        engine: str | None = None,
    ) -> None:
        self._open, self.folder, self.engine = open_model, folder, engine

    @cached_property
    def artifact(self) -> Artifact:
        """The untouched tiny model, in float32."""
        from harness.models.tiny import NAME, write_tiny_model

        path = self.folder / "model"
        if not path.exists():
            write_tiny_model(path)
        return Artifact("base", ModelRef(NAME, str(path)), engine=self.engine)

    def opened(self) -> Model:
        """What the plugin makes of the artifact."""
        model: Model | None = self._open(self.artifact, None)
        _require(model is not None, "open_model returned None for the artifact")
        assert model is not None
        return model

    @cached_property
    def model(self) -> Model:
        """The plugin's, opened once."""
        return self.opened()

    @cached_property
    def own(self) -> LanguageModel:
        """That of this process."""
        from harness.models.language_model import open_artifact

        return open_artifact(replace(self.artifact, engine=None))

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of a few questions."""
        return [list(self.own.tokenizer(text)["input_ids"]) for text in _TEXTS]

    @cached_property
    def requests(self) -> list[Request]:
        """Continuations of different lengths; two share a context."""
        first, second, third, *_ = self.prompts
        return [(first, second), (first, third[:1]), (second, first[:5]), (third, second)]


# ---- the checks ----------------------------------------------------------------------------------


def check_tokens(trial: ModelTrial) -> None:
    """Name, tokenizer and lengths are those of the artifact's model."""
    model, own = trial.model, trial.own
    _require(model.name == own.name, f"its name is {model.name!r}, not {own.name!r}")
    ids = [model.tokenizer(text)["input_ids"] for text in _TEXTS]
    _require(ids == [own.tokenizer(text)["input_ids"] for text in _TEXTS], "its token ids differ")
    _require(model.text(ids[0]) == _TEXTS[0], "text() does not give back what was tokenized")
    for name in ("max_length", "prefix_token", "end_token", "chat_template"):
        mine, theirs = getattr(own, name), getattr(model, name)
        _require(mine == theirs, f"{name} is {theirs!r}, not {mine!r}")


def check_answers(trial: ModelTrial) -> None:
    """Answers are greedy, in the prompts' order, and no longer than asked."""
    answers = trial.model.generate(trial.prompts, max_new_tokens=CAP)
    expected = trial.own.generate(trial.prompts, max_new_tokens=CAP)
    _require(len(answers) == len(expected), f"{len(answers)} answers to {len(expected)} prompts")
    longest = max(len(answer.ids) for answer in answers)
    _require(longest <= CAP, f"an answer has {longest} tokens, {CAP} were asked for")
    same = [
        answer.ids[i : i + 1] == own.ids[i : i + 1]
        for answer, own in zip(answers, expected, strict=True)
        for i in range(len(own.ids))
    ]
    share = sum(same) / len(same)
    _require(share >= ALIKE, f"{share:.0%} of the tokens are the likeliest ones, in order")


def check_ends(trial: ModelTrial) -> None:
    """An answer leaves its end token out; one that was cut says so."""
    answers = trial.model.generate(trial.prompts, max_new_tokens=CAP)
    for answer in answers:
        _require(not {*answer.ids} & {*trial.own.end_ids}, "an answer holds the token that ends it")
        _require(
            answer.capped == (len(answer.ids) == CAP),
            f"an answer of {len(answer.ids)} tokens, of {CAP} at most, says capped={answer.capped}",
        )
    _require(any(not answer.capped for answer in answers), "no answer ends at an end token")


def check_stops(trial: ModelTrial) -> None:
    """An answer ends after a text of `stops`, which it keeps."""
    prompt = trial.prompts[0]
    (whole,) = trial.own.generate([prompt], max_new_tokens=8)
    stop = trial.own.text(whole.ids[2:4])
    (answer,) = trial.model.generate([prompt], max_new_tokens=CAP, stops=[stop])
    said = trial.model.text(answer.ids)
    _require(said.endswith(stop), f"an answer with stops [{stop!r}] ends in {said[-6:]!r}")
    _require(not answer.capped, "an answer that a stop ended says capped")


def check_long_prompts(trial: ModelTrial) -> None:
    """A prompt without room loses its beginning and says so; without any room it is refused."""
    longest = trial.own.max_length
    prompt = (trial.prompts[0] * longest)[: longest + 20]
    (answer,) = trial.model.generate([prompt], max_new_tokens=2)
    (own,) = trial.own.generate([prompt], max_new_tokens=2)
    _require(answer.cut, "a prompt longer than the model lost its beginning and does not say `cut`")
    _require(answer.ids[:1] == own.ids[:1], "a long prompt loses something else than its beginning")
    try:
        trial.model.generate([prompt], max_new_tokens=longest)
    except UserError:
        return
    raise AssertionError("an answer as long as the model's context was not refused (UserError)")


def check_loglikelihoods(trial: ModelTrial) -> None:
    """Sums over each continuation's tokens, in the requests' order."""
    found = trial.model.loglikelihood(trial.requests)
    expected = trial.own.loglikelihood(trial.requests)
    _require(len(found) == len(expected), f"{len(found)} results of {len(expected)} requests")
    for (_, tokens), one, own in zip(trial.requests, found, expected, strict=True):
        _require(
            len(one.token_logprobs) == len(tokens),
            f"{len(one.token_logprobs)} log-probabilities of {len(tokens)} tokens",
        )
        off = abs(one.logprob - sum(one.token_logprobs))
        _require(off <= CLOSE, f"a log-probability is not the sum of its tokens', by {off:.3g}")
        off = abs(one.logprob - own.logprob)
        _require(off <= CLOSE, f"a log-probability differs by {off:.3g} nats")


def check_turns(trial: ModelTrial) -> None:
    """Answers and log-likelihoods may be asked for by turns."""
    model, prompt = trial.model, trial.prompts[:1]
    first = model.generate(prompt, max_new_tokens=4), model.loglikelihood(trial.requests[:1])
    again = model.generate(prompt, max_new_tokens=4), model.loglikelihood(trial.requests[:1])
    _require(first == again, "the same requests are answered otherwise the second time")


def check_closed(trial: ModelTrial) -> None:
    """`text` and `info` work after `close`; `info` is JSON."""
    model = trial.opened()
    model.generate(trial.prompts[:1], max_new_tokens=1)
    model.close()
    _require(model.text(trial.prompts[0]) == _TEXTS[0], "text() fails after close()")
    facts = model.info()
    try:
        json.dumps(dict(facts))
    except TypeError as error:
        raise AssertionError(f"info() is no JSON: {error}") from None
    _require("batch" in facts, "info() does not say `batch`")


MODEL_CHECKS: Sequence[Callable[[ModelTrial], None]] = (
    check_tokens,
    check_answers,
    check_ends,
    check_stops,
    check_long_prompts,
    check_loglikelihoods,
    check_turns,
    check_closed,
)
"""All checks of a model, for `pytest.mark.parametrize`."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
