"""What a server is asked beyond chat completions: how it renders, and our own token ids continued.

llama.cpp has `/props`, `/apply-template` and `/tokenize`, vLLM and SGLang a `/tokenize` that takes
messages, Ollama `/api/show`. Of text completions with token ids llama.cpp and vLLM give the ids and
log-probabilities of the answer. What a server does not know it refuses, and it is done without.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UserError
from harness.parity.seen import Form
from harness.system.endpoint.client import read_key
from harness.types import Message

TOP = 8
"""Likeliest tokens that are asked for at each place."""

Places = tuple[tuple[int, float, tuple[tuple[int, float], ...]], ...]
"""Of each token of an answer: its id, its nats, and the likeliest ids with theirs."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the server reads it; None for what it does not say."""

    ids: tuple[int, ...] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Continued:
    """What a server made of token ids."""

    text: str
    ended: bool
    places: Places | None
    """None where it gives no token ids with log-probabilities."""
    count: int | None
    """Tokens of the prompt, by the server's count."""


@dataclass(frozen=True)
class Reply:
    """A response: its HTTP status and its JSON; None where it is none."""

    status: int
    body: Any

    @property
    def told(self) -> Mapping[str, Any]:
        """The body of a success, empty where it is no JSON object."""
        good = self.status == 200 and isinstance(self.body, dict)
        return self.body if good else {}


class Server:
    """One server's further ways of being asked."""

    def __init__(self, url: str, model: str, key: str | None, timeout: float) -> None:
        """`url` ends in /v1, or is without; `key` names an environment variable."""
        self.root = url.rstrip("/").removesuffix("/v1")
        self.url, self.model, self.timeout = url.rstrip("/"), model, timeout
        self._key = read_key(key)

    def post(self, address: str, body: Mapping[str, object]) -> Reply:
        """The reply to JSON. Raises UserError where the server is gone."""
        return self._reply(address, json.dumps(body).encode())

    def get(self, address: str) -> Reply:
        """The reply to a plain request. Raises UserError where the server is gone."""
        return self._reply(address, None)

    def _reply(self, address: str, body: bytes | None) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(address, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return Reply(response.status, _json(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, _json(error.read()))
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", None) or error
            raise UserError(
                f"{self.url}: no answer ({why}): is the server still up? start it again"
            ) from None

    # what it says of itself

    def described(self, form: Form) -> Form:
        """The form with what the server says of its engine, quantisation and context."""
        props = self.get(f"{self.root}/props").told
        settings = props.get("default_generation_settings")
        if props and isinstance(settings, dict):
            return replace(
                form,
                engine="llama.cpp",
                quantisation=_text(props.get("model_ftype")),
                context=_whole(settings.get("n_ctx")),
            )
        listed = self.get(f"{self.url}/models").told.get("data")
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, dict) and one.get("id") == form.name:
                context = _whole(one.get("max_model_len"))
                owner = _text(one.get("owned_by"))
                shown = self.post(f"{self.root}/api/show", {"model": form.name}).told
                details = shown.get("details")
                level = details.get("quantization_level") if isinstance(details, dict) else None
                engine = "ollama" if details else owner
                return replace(form, engine=engine, quantisation=_text(level), context=context)
        return form

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The prompt that the server makes of a conversation."""
        body: dict[str, object] = {"messages": [dict(message) for message in messages]}
        text = self.post(f"{self.root}/apply-template", body).told.get("prompt")
        if isinstance(text, str):
            asked = {"content": text, "add_special": True, "parse_special": True}
            ids = self.post(f"{self.root}/tokenize", asked).told.get("tokens")
            return Rendered(_ids(ids), text)
        body |= {"model": self.model, "add_generation_prompt": True}
        ids = _ids(self.post(f"{self.root}/tokenize", body).told.get("tokens"))
        return Rendered(ids or None, None)

    def continues(self, prompt: Sequence[int], most: int) -> Continued | None:
        """The server's answer to token ids; None where it takes none."""
        body = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": most,
            "temperature": 0,
            "logprobs": TOP,
        }
        # the first without an earlier prompt's cache, and with ids for tokens, as vLLM words it
        more = {"cache_prompt": False, "return_tokens_as_token_ids": True}
        address = f"{self.url}/completions"
        reply = self.post(address, {**body, **more})
        if reply.status in (400, 422):
            reply = self.post(address, body)
        choices = reply.told.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            return None
        choice, usage = choices[0], reply.told.get("usage")
        return Continued(
            str(choice.get("text") or ""),
            choice.get("finish_reason") == "stop",
            _places(choice.get("logprobs")),
            _whole(usage.get("prompt_tokens")) if isinstance(usage, dict) else None,
        )


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _ids(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
        return None
    return tuple(value)


def _places(logprobs: object) -> Places | None:
    """Those of llama.cpp, objects with ids, or of vLLM, parallel lists of `token_id:7`."""
    if not isinstance(logprobs, dict):
        return None
    try:
        if isinstance(content := logprobs.get("content"), list):
            return tuple(
                (
                    int(place["id"]),
                    float(place["logprob"]),
                    tuple((int(one["id"]), float(one["logprob"])) for one in place["top_logprobs"]),
                )
                for place in content
            )
        lists = (logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"])
        return tuple(
            (_id(token), float(nats), tuple((_id(one), float(its)) for one, its in top.items()))
            for token, nats, top in zip(*lists, strict=True)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _id(token: str) -> int:
    """The 7 of `token_id:7`. Raises ValueError for a token's text, which may be of several."""
    name, _, number = token.partition(":")
    if name != "token_id":
        raise ValueError(token)
    return int(number)
