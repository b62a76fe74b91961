"""llama.cpp's native interface over HTTP: how it renders, tokenises, answers and ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError

__all__ = ["Answer", "Client", "Refused"]

_SECONDS = 3600.0
"""For one request: a large model on a few cores is slow."""
_FORCED = 1e4
"""Added to a logit, it makes a token the likeliest."""


class Refused(UserError):
    """llama.cpp does not take a request; the message is its reason."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer."""

    ids: tuple[int, ...]
    """Its tokens, the end token among them where it ended."""
    logprobs: tuple[float | None, ...]
    """Nats, one a token; None for a token that ends within a character, for which it gives none."""


class Client:
    """A running server, by its address. Methods raise Refused with what the server says."""

    def __init__(self, address: str) -> None:
        self.address = address
        # a proxy of the environment is not for this machine
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def rendered(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation by the file's own chat template, ready for an answer."""
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that is sent to it, with the BOS that the file says to add."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return tuple(self._post("/tokenize", body)["tokens"])

    def answer(self, prompt: Sequence[int], most: int) -> Answer:
        """The greedy answer of at most `most` tokens to a prompt of token ids."""
        told = self._completion(prompt, most)
        ids = tuple(int(token) for token in told["tokens"])
        return Answer(ids, _aligned(ids, told["completion_probabilities"]))

    def ends_at(self, prompt: Sequence[int], token: int) -> bool:
        """Whether an answer ends where the model chooses this token: it is made to."""
        told = self._completion(prompt, 2, logit_bias=[[token, _FORCED]])
        return told["stop_type"] == "eos"

    def _completion(self, prompt: Sequence[int], most: int, **more: object) -> Any:
        asked = {
            "prompt": list(prompt),
            "n_predict": most,
            "temperature": 0,
            "n_probs": 1,
            "return_tokens": True,
            "cache_prompt": False,
            **more,
        }
        return self._post("/completion", asked)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            self.address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(_reason(error.read())) from None
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"llama.cpp's server does not answer: {error}") from None


def _aligned(ids: Sequence[int], places: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...]:
    """Log-probabilities by token: llama.cpp leaves out tokens that end within a character."""
    left = list(places)
    found: list[float | None] = []
    for token in ids:
        given = bool(left) and int(left[0]["id"]) == token
        found.append(float(left.pop(0)["logprob"]) if given else None)
    return tuple(found)


def _reason(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"]["message"])
    return " ".join(text.split())[:200]
