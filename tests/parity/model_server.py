"""A small model behind HTTP that speaks as llama.cpp or vLLM does, with faults to be planted."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from harness.data.tokenization import encode_prompt
from harness.data.tokenization import render as rendered
from harness.manager import plugins
from harness.parity.forms import _places
from harness.types import Artifact, Sample

NAME = "shop"
_OPEN: list[Artifact] = []
_MODELS: list[Any] = []
"""Of the artifacts: opened once."""


@dataclass
class ModelServer:
    """Answers for an artifact that it opens; one request at a time."""

    artifact: Artifact
    speaks: Literal["llama.cpp", "vllm", "chat alone"] = "llama.cpp"
    template: str | None = None
    """In place of the model's own."""
    more_bos: int = 0
    context: int = 256
    """Tokens; a longer prompt loses its beginning, or is refused."""
    refuses: bool = False
    runs_on: bool = False
    """Whether no token ends an answer."""
    random: random.Random | None = None
    """Draws the first token of each answer among the likely ones."""
    answers_as: str = NAME
    stated: str = "F16"
    down: bool = False
    asked: list[str] = field(default_factory=list)
    """Paths that were asked."""

    def __post_init__(self) -> None:
        if self.artifact not in _OPEN:
            _OPEN.append(self.artifact)
            _MODELS.append(plugins().open_model(self.artifact))
        self.model: Any = _MODELS[_OPEN.index(self.artifact)]
        self.ends, self.model.end_ids = (
            self.model.end_ids,
            [] if self.runs_on else self.model.end_ids,
        )
        self.lock = threading.Lock()

    @property
    def own_template(self) -> str | None:
        return self.template or self.artifact.chat_template

    # ---- what it makes of requests

    def text(self, messages: Any) -> str:
        return rendered(self.model.tokenizer, messages, self.own_template, generation_prompt=True)

    def ids(self, messages: Any) -> list[int]:
        tokenizer = self.model.tokenizer
        ids = encode_prompt(tokenizer, Sample("", messages=tuple(messages)), self.own_template)
        return [tokenizer.bos_token_id] * self.more_bos + ids

    def answer(self, ids: list[int], most: int) -> tuple[list[int], bool, Any]:
        """(token ids, whether it ended, places)."""
        first: list[int] = []
        if self.random is not None:
            ((_, _, top),) = _places(self.model, ids, [0]) or ()
            first = [self.random.choice(top)[0]]
        said = self.model.generate([[*ids, *first]], max_new_tokens=max(1, most - len(first)))[0]
        answer = [*first, *said.ids]
        return answer, not said.capped, _places(self.model, ids, answer)

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, object]:
        if path == "/v1/chat/completions":
            return self.chat(body)
        if path == "/v1/completions" and self.speaks != "chat alone":
            return self.completion(body)
        if self.speaks == "llama.cpp":
            if path == "/apply-template":
                return 200, {"prompt": self.text(body["messages"])}
            if path == "/tokenize":
                encoded = self.model.tokenizer(body["content"], add_special_tokens=False)
                bos = [self.model.tokenizer.bos_token_id] * self.more_bos
                return 200, {"tokens": [*bos, *encoded["input_ids"]]}
        if self.speaks == "vllm" and path == "/tokenize":
            return 200, {"tokens": self.ids(body["messages"])}
        return 404, {"error": {"message": "no such path"}}

    def chat(self, body: Mapping[str, Any]) -> tuple[int, object]:
        ids = self.ids(body["messages"])
        if len(ids) > self.context:
            if self.refuses:
                message = f"the request exceeds the available context size ({self.context} tokens)"
                return 400, {"error": {"message": message, "type": "exceed_context_size_error"}}
            ids = ids[-self.context :]
        answer, ended, _ = self.answer(ids, body["max_tokens"])
        message = {"role": "assistant", "content": self.model.text(answer)}
        choice = {"index": 0, "message": message, "finish_reason": "stop" if ended else "length"}
        return 200, {
            "object": "chat.completion",
            "model": self.answers_as,
            "choices": [choice],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(answer)},
        }

    def completion(self, body: Mapping[str, Any]) -> tuple[int, object]:
        ids = list(body["prompt"])
        answer, ended, places = self.answer(ids, body["max_tokens"])
        return 200, {
            "model": self.answers_as,
            "choices": [
                {
                    "text": self.model.text(answer),
                    "finish_reason": "stop" if ended else "length",
                    "logprobs": self.logprobs(places or ()),
                }
            ],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(answer)},
        }

    def logprobs(self, places: Any) -> object:
        """As either of the two writes them."""
        if self.speaks == "llama.cpp":

            def one(token: int, nats: float) -> dict[str, Any]:
                return {"id": token, "token": self.model.text([token]), "logprob": nats}

            return {
                "content": [
                    {**one(token, nats), "top_logprobs": [one(*of) for of in top]}
                    for token, nats, top in places
                ]
            }
        return {
            "tokens": [f"token_id:{token}" for token, _, _ in places],
            "token_logprobs": [nats for _, nats, _ in places],
            "top_logprobs": [{f"token_id:{t}": nats for t, nats in top} for _, _, top in places],
        }

    def get(self, path: str) -> tuple[int, object]:
        if path == "/v1/models":
            listed = {"id": NAME, "object": "model", "owned_by": self.speaks}
            more = {"max_model_len": self.context} if self.speaks == "vllm" else {}
            return 200, {"object": "list", "data": [{**listed, **more}]}
        if path == "/props" and self.speaks == "llama.cpp":
            settings = {"n_ctx": self.context}
            return 200, {"default_generation_settings": settings, "model_ftype": self.stated}
        return 404, {"error": {"message": "no such path"}}

    # ---- HTTP

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its base URL, while the block runs."""
        told = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(*told.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with told.lock:
                    told.asked.append(self.path)
                    status, answer = (500, {}) if told.down else told.post(self.path, body)
                self.reply(status, answer)

            def reply(self, status: int, answer: object) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
            self.model.end_ids = self.ends
