"""Whether a server answers and serves the model, before anything is asked of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.config.served_settings import ServedSettings
from harness.errors import UserError
from harness.evaluation.served.model import endpoint_of
from harness.models.served import stand_in
from harness.system import llama_server
from harness.system.endpoint.client import Client
from harness.system.endpoint.completion import Completion, Failure, TextRequest
from harness.system.endpoint.listed_models import listed_as, nearest_listed
from harness.types import ModelRef

__all__ = ["check_up", "named"]


def named(settings: ServedSettings) -> ServedSettings:
    """The settings with the name of the model: the file's, or the only one that a server lists.

    Raises UserError where it lists several, or does not answer.
    """
    if settings.model is not None:
        return settings
    if settings.gguf is not None:
        return settings.model_copy(update={"model": Path(settings.gguf).stem})
    listed = _listed(settings)
    if len(listed) != 1:
        names = ", ".join(sorted(listed)[:8]) or "a model that it does not list"
        raise UserError(
            f"{settings.place} serves {names}: say which with `model` (harness eval: --model NAME)"
        )
    return settings.model_copy(update={"model": listed[0]})


def check_up(models: Iterable[ModelRef]) -> None:
    """Raise UserError where a server of these does not answer, lists no such model, or gives no
    log-probabilities of prompts where it is said to.

    One that has no list of models (404) is taken at its word.
    """
    for model in dict.fromkeys(models):
        if not stand_in.is_served(model):
            continue
        settings = stand_in.settings_of(model)
        if settings.gguf is not None:
            llama_server.check_installed()
            llama_server.check_file(Path(settings.gguf))
            continue
        listed = _listed(settings)
        if listed and listed_as(str(settings.model), listed) is None:
            raise UserError(
                f"{settings.place} serves no model '{settings.model}': "
                f"{nearest_listed(str(settings.model), listed)}"
            )
        if settings.prompt_logprobs:
            _check_logprobs(settings)


def _listed(settings: ServedSettings) -> list[str]:
    """The models that a server lists; none where it has no list."""
    answer = _client(settings).models()
    if not isinstance(answer, Failure):
        return answer
    if answer.status == 404:
        return []
    if answer.status in (401, 403):
        key = f"refuses the key in {settings.key}" if settings.key else "asks for a key"
        raise UserError(
            f"{settings.place} {key} ({answer.message}): name the environment variable that holds "
            "it with `key` (harness eval: --key NAME)"
        )
    raise UserError(
        f"no OpenAI-compatible server answers at {settings.place}/models ({answer.message}): "
        "start it, or correct the URL, which often ends in /v1"
    )


def _check_logprobs(settings: ServedSettings) -> None:
    asked = TextRequest("One two", max_tokens=1, top_logprobs=1, echo=True)
    (answer,) = _client(settings).complete([asked])
    reason = answer.message if isinstance(answer, Failure) else None
    places = answer.choices[0].positions if isinstance(answer, Completion) else None
    # without the prompt's places there is that of the new token alone
    if not places or len(places) < 2:
        raise UserError(
            f"{settings.place} gives no log-probabilities of prompts"
            f"{f' ({reason})' if reason else ''}: leave prompt_logprobs out; perplexity is then "
            "left out, and choices are asked by their letters"
        )


def _client(settings: ServedSettings) -> Client:
    return Client(endpoint_of(settings, str(settings.served)))
