"""A real model behind the test server: what vLLM and others do with it, in a few lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.data.tokenization import render
from tests.endpoint_server import MODEL, Answer, Request, Served, chat, completion, error


@dataclass
class ServedModel:
    """Answers with a `LanguageModel`; what it gives can be taken away from it."""

    model: Any
    logprobs: bool = True
    """Whether it gives log-probabilities of what it generates."""
    echo: bool = True
    """Whether it gives those of prompts."""
    context: int | None = None
    """Tokens of a prompt above which it answers 400."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[Served]:
        with Served(self.told).running() as server:
            yield server

    def told(self, request: Request, nth: int) -> Answer:
        with self._lock:
            return self._chat(request.body) if "messages" in request.body else self._text(request)

    def _chat(self, body: Mapping[str, Any]) -> Answer:
        tokenizer = self.model.tokenizer
        text = render(tokenizer, body["messages"], generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._too_long(prompt):
            return self._refused(prompt)
        answer, ids, capped = self._answer(prompt, body["max_tokens"])
        top = None
        if self.logprobs and body.get("logprobs"):
            top = [self._likeliest([*prompt, *ids[:at]], body["top_logprobs"]) for at in (0,)]
        finish = "length" if capped else "stop"
        return chat(answer, top=top, finish=finish, usage=(len(prompt), len(ids)))

    def _text(self, request: Request) -> Answer:
        body, tokenizer = request.body, self.model.tokenizer
        given = body["prompt"]
        prompt = tokenizer(given)["input_ids"] if isinstance(given, str) else list(given)
        if self._too_long(prompt):
            return self._refused(prompt)
        answer, ids, capped = self._answer(prompt, body["max_tokens"])
        told = None
        if body.get("logprobs") is not None and self.logprobs:
            scored = [*prompt, *ids] if body.get("echo") and self.echo else list(ids)
            told = self._places(prompt, scored, body["logprobs"])
        finish = "length" if capped else "stop"
        return completion(answer, logprobs=told, finish=finish, usage=(len(prompt), len(ids)))

    def _too_long(self, prompt: Sequence[int]) -> bool:
        return self.context is not None and len(prompt) > self.context

    def _refused(self, prompt: Sequence[int]) -> Answer:
        return error(
            400,
            f"This model's maximum context length is {self.context} tokens. However, your request "
            f"has {len(prompt)} input tokens.",
        )

    def _answer(self, prompt: Sequence[int], cap: int) -> tuple[str, Sequence[int], bool]:
        (found,) = self.model.generate([prompt], max_new_tokens=cap)
        return self.model.text(found.ids), found.ids, found.capped

    def _logprobs(self, ids: Sequence[int]) -> Any:
        import torch

        with torch.no_grad():
            return torch.log_softmax(self.model.model(torch.tensor([ids])).logits[0].float(), -1)

    def _likeliest(self, ids: Sequence[int], count: int) -> list[tuple[str, float]]:
        """With the letters among them, as a model has it that knows what it is asked."""
        table, decode = self._logprobs(ids)[-1], self.model.tokenizer.decode
        letters = [self.model.tokenizer(letter)["input_ids"][0] for letter in "ABC"]
        tokens = dict.fromkeys([*table.topk(count - 3).indices.tolist(), *letters])
        return [(decode([token]), float(table[token].exp())) for token in tokens]

    def _places(self, prompt: Sequence[int], scored: Sequence[int], count: int) -> dict[str, Any]:
        whole = [*prompt, *scored] if len(scored) < len(prompt) or not self.echo else list(scored)
        table, first = self._logprobs(whole), len(whole) - len(scored)
        decode = self.model.tokenizer.decode
        own: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for at in range(first, len(whole)):
            if at == 0:
                own, tops = [None], [None]
                continue
            values, tokens = table[at - 1].topk(count)
            own.append(float(table[at - 1, whole[at]]))
            tops.append({decode([t]): float(v) for t, v in zip(tokens, values, strict=True)})
        return {
            "tokens": [decode([token]) for token in scored],
            "token_logprobs": own,
            "top_logprobs": tops,
        }


__all__ = ["MODEL", "ServedModel"]
