"""The form that is shipped, as it is asked: behind a server, or a folder opened in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from harness.api.model import Model
from harness.data.tokenization import encode_prompt, render
from harness.errors import UserError
from harness.manager import plugins
from harness.parity.seen import Form
from harness.parity.server import TOP, Continued, Places, Rendered, Server
from harness.system.endpoint.client import Client, Endpoint
from harness.system.endpoint.completion import ChatRequest, Completion, Failure
from harness.types import Artifact, Message, Sample

Given = TypeVar("Given")
Got = TypeVar("Got")
Conversation = Sequence[Message]


@dataclass(frozen=True)
class Said:
    """What became of a conversation."""

    text: str | None
    """Untrimmed; None where there is no answer."""
    ended: bool = False
    count: int | None = None
    """Tokens of the prompt, by the form's count."""
    model: str = ""
    """Who answered, by its own word."""
    failure: str | None = None
    too_long: bool = False


class Shipped(Protocol):
    """A form that can be asked. `None` in an answer: it cannot do that."""

    def render(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """How it reads conversations."""

    def chat(self, asked: Sequence[tuple[Conversation, int]]) -> list[Said]:
        """Greedy answers to conversations, each of so many tokens at most."""

    def continued(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[Continued | None]:
        """Greedy answers to our token ids, with log-probabilities where it gives them."""

    def close(self) -> None:
        """Free what it holds."""


_TOO_LONG = ("context", "too long", "exceed")
"""What servers write of a prompt that their context does not hold."""


class Served:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, form: Form, *, key: str | None, in_flight: int, timeout: float) -> None:
        _ask_loopback_directly(form.where)
        self.form, self.in_flight = form, in_flight
        self.server = Server(form.where, form.name, key, timeout)
        endpoint = Endpoint(form.where, form.name, key=key, in_flight=in_flight, timeout=timeout)
        self.client = Client(endpoint)

    def render(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """By the server's own endpoints, where it has them."""
        first = [self.server.render(one) for one in conversations[:1]]
        if not first or first[0] == Rendered():
            return [Rendered() for _ in conversations]
        return [*first, *self._at_once(self.server.render, conversations[1:])]

    def chat(self, asked: Sequence[tuple[Conversation, int]]) -> list[Said]:
        """By chat completions. Raises UserError where none is answered."""
        requests = [ChatRequest(messages, most) for messages, most in asked]
        answers = self.client.complete(requests)
        failures = [one for one in answers if isinstance(one, Failure)]
        if failures and len(failures) == len(answers) and not any(map(_too_long, failures)):
            raise UserError(f"{self.form.where}: no question was answered: {failures[0].message}")
        return [_said(answer) for answer in answers]

    def continued(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[Continued | None]:
        """By text completions of token ids; what did not take them as they are counts as none."""

        def one(of: tuple[Sequence[int], int]) -> Continued | None:
            found = self.server.continues(*of)
            as_sent = found is not None and found.count in (None, len(of[0]))
            return found if as_sent else None

        first = [one(of) for of in asked[:1]]
        if first == [None] and len(asked[0][0]) > 1:
            second = [one(of) for of in asked[1:2]]
            if second in ([], [None]):
                return [None for _ in asked]
        return [*first, *self._at_once(one, asked[1:])]

    def _at_once(self, ask: Callable[[Given], Got], every: Iterable[Given]) -> list[Got]:
        with ThreadPoolExecutor(self.in_flight) as pool:
            return list(pool.map(ask, every))

    def close(self) -> None:
        """The server goes on."""


def _said(answer: Completion | Failure) -> Said:
    if isinstance(answer, Failure):
        return Said(None, failure=answer.message, too_long=_too_long(answer))
    choice = answer.choices[0]
    count = answer.usage.input if answer.usage else None
    return Said(choice.text, choice.finish_reason == "stop", count or None, answer.model)


def _too_long(failure: Failure) -> bool:
    said = failure.message.lower()
    return failure.status in (400, 413, 422) and any(words in said for words in _TOO_LONG)


def _ask_loopback_directly(url: str) -> None:
    """A proxy of the environment is not asked for this machine's own servers."""
    if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
        for name in ("NO_PROXY", "no_proxy"):
            known = os.environ.get(name)
            os.environ[name] = ",".join(filter(None, [known, "127.0.0.1,localhost,::1"]))


class Folder:
    """A model folder, opened in this process with its own tokenizer and template."""

    def __init__(self, artifact: Artifact, batch: int | None) -> None:
        self.model: Model = plugins().open_model(artifact, batch)

    def render(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """By the folder's tokenizer."""
        tokenizer, template = self.model.tokenizer, self.model.chat_template
        return [
            Rendered(
                tuple(self._ids(messages)),
                render(tokenizer, messages, template, generation_prompt=True),
            )
            for messages in conversations
        ]

    def _ids(self, messages: Conversation) -> list[int]:
        sample = Sample("", messages=tuple(messages))
        return encode_prompt(self.model.tokenizer, sample, self.model.chat_template)

    def chat(self, asked: Sequence[tuple[Conversation, int]]) -> list[Said]:
        """By the model, as a suite asks it."""
        prompts = [(self._ids(messages), most) for messages, most in asked]
        return [
            Said(self.model.text(ids), ended, len(prompt), "")
            for (ids, ended), (prompt, _) in zip(self._generated(prompts), prompts, strict=True)
        ]

    def _generated(
        self, asked: Sequence[tuple[Sequence[int], int]]
    ) -> list[tuple[tuple[int, ...], bool]]:
        """(token ids, whether it ended) of each."""
        found: dict[int, tuple[tuple[int, ...], bool]] = {}
        for most in sorted({most for _, most in asked}):
            places = [i for i, (_, its) in enumerate(asked) if its == most]
            answers = self.model.generate([asked[i][0] for i in places], max_new_tokens=most)
            found |= {i: (a.ids, not a.capped) for i, a in zip(places, answers, strict=True)}
        return [found[i] for i in range(len(asked))]

    def continued(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[Continued | None]:
        """With the likeliest tokens of each place, from one pass over prompt and answer."""
        return [
            Continued(self.model.text(ids), ended, _places(self.model, prompt, ids), len(prompt))
            for (ids, ended), (prompt, _) in zip(self._generated(asked), asked, strict=True)
        ]

    def close(self) -> None:
        """Free the model's memory."""
        self.model.close()


def _places(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Places | None:
    """The likeliest tokens where an answer's tokens stand; None of a model that has no weights."""
    weights = getattr(model, "model", None)
    if weights is None or not answer:
        return None
    import torch

    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *answer]], device=weights.device)
        logits = weights(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        nats = logits.float().log_softmax(-1)
        values, tokens = nats.topk(TOP, dim=-1)
    return tuple(
        (
            token,
            float(nats[i, token]),
            tuple(zip(tokens[i].tolist(), values[i].tolist(), strict=True)),
        )
        for i, token in enumerate(answer)
    )
