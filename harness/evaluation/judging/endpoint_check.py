"""What is wrong with a judge's endpoint, before anything expensive: by its file, then by asking it.

A suite is checked when it is read (its URL, its key, what does not go together), and once more
before the first cell runs: whether a server answers and lists the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.api.task import Suite
from harness.config import strict_yaml
from harness.config.strict_yaml import KeyPath, Located
from harness.errors import ConfigError, EnvironmentLack
from harness.evaluation.judging.endpoint import EndpointSettings
from harness.evaluation.judging.panels.seats import each
from harness.system.endpoint import key_hosts
from harness.system.endpoint.client import Client, check_installed, read_key
from harness.system.endpoint.completion import ChatRequest, Completion, Failure
from harness.system.endpoint.listed_models import listed_as, nearest_listed

__all__ = ["check_served", "check_settings"]

JUDGE: KeyPath = ("judge",)
"""Where a suite's file names a judge that stands alone."""


def check_settings(
    settings: EndpointSettings, local: Iterable[str], located: Located, path: KeyPath = JUDGE
) -> None:
    """Raise ConfigError with its line for settings that cannot work.

    `local` are keys of the suite's judge that are set and are of a model in this process alone;
    the judge stands at `path`.
    """
    for key in local:
        raise located.error(
            f"judge.{key} is of a judge in this process: leave it out beside `endpoint`",
            (*path, key),
        )
    if settings.budget.dollars is not None and settings.price is None:
        raise located.error(
            "a budget in dollars needs `price: {input: ..., output: ...}`, in dollars for a "
            "million tokens",
            (*path, "endpoint", "budget", "dollars"),
        )
    try:
        check_installed("judge.endpoint")
        read_key(settings.key)
        key_hosts.check(settings.key, settings.url)
    except EnvironmentLack as error:
        raise located.error(f"judge.endpoint: {error}", (*path, "endpoint", "key")) from None


def check_served(suites: Iterable[Suite]) -> None:
    """Raise ConfigError, with the line, where an endpoint does not answer or lists no such model.

    Each endpoint is asked once. One that has no list of models (404) is taken at its word.
    """
    answers: dict[tuple[str, str | None], list[str] | Failure] = {}
    for suite in itertools.chain.from_iterable(map(each, suites)):
        if suite.judge_endpoint is None:
            continue
        settings = EndpointSettings.model_validate(suite.judge_endpoint)
        place = (settings.url, settings.key)
        if place not in answers:
            answers[place] = Client(settings.endpoint()).models()
        problem = _problem(settings, answers[place]) or _other_model(settings)
        if problem is not None:
            raise _error(suite, *problem)


def _problem(settings: EndpointSettings, answer: list[str] | Failure) -> tuple[str, str] | None:
    """The key that is wrong and what is; None where the model is served."""
    if isinstance(answer, list):
        if listed_as(settings.model, answer):
            return None
        return (
            "model",
            f"the endpoint serves no model '{settings.model}': "
            f"{nearest_listed(settings.model, answer)}",
        )
    if answer.status == 404:
        return None
    if answer.status in (401, 403):
        return "key", f"the endpoint refuses the key in {settings.key} ({answer.message})"
    what = f"no OpenAI-compatible endpoint answers at {settings.url}/models ({answer.message})"
    return "url", f"{what}: start the server, or correct the URL, which often ends in /v1"


def _other_model(settings: EndpointSettings) -> tuple[str, str] | None:
    """Where another model answers than is pinned, by one request; a failure is the run's matter."""
    if settings.model_answered is None:
        return None
    asked = ChatRequest([{"role": "user", "content": "Say A."}], max_tokens=settings.max_tokens)
    (answer,) = Client(settings.endpoint()).complete([asked])
    fault = settings.fault_of([answer.model]) if isinstance(answer, Completion) else None
    return ("model_answered", fault) if fault else None


def _error(suite: Suite, key: str, message: str) -> ConfigError:
    """With the line of the suite's file, or the experiment that set the endpoint."""
    located = strict_yaml.load(Path(suite.file))
    judge, own = located.data.get("judge"), suite.judge_endpoint or {}
    judge = judge if isinstance(judge, Mapping) else {}
    panel = judge.get("panel") or ()
    seats = [(JUDGE, judge), *(((*JUDGE, "panel", i), one) for i, one in enumerate(panel))]
    for path, one in seats:
        written = one.get("endpoint") if isinstance(one, Mapping) else None
        if not isinstance(written, Mapping) or written.get("model") != own["model"]:
            continue
        if str(written.get("url")).rstrip("/") == own["url"]:
            return located.error(message, (*path, "endpoint", key))
    return ConfigError(message, file=f"the experiment's settings of suite '{suite.name}'")
