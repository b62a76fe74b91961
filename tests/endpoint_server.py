"""A real OpenAI-compatible HTTP server for tests: it answers, or misbehaves, as a test tells it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "judge-1"


@dataclass
class Answer:
    """One HTTP response."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    seconds: float = 0.0
    """Before it begins."""
    cut: int = 0
    """So many of its last bytes are never sent, although they were announced."""


@dataclass
class Request:
    """What a client sent, and when on the monotonic clock."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    at: float
    path: str = "/v1/chat/completions"

    @property
    def text(self) -> str:
        """The last message, or the prompt of a text completion."""
        if "messages" in self.body:
            return str(self.body["messages"][-1]["content"])
        return str(self.body["prompt"])


Told = Callable[[Request, int], Answer]
"""`told(request, nth)`: the response to a conversation that came `nth` times before."""


def chat(
    *texts: str,
    top: Sequence[Sequence[tuple[str, float]]] | None = None,
    model: str = MODEL,
    finish: str = "stop",
    refusal: str | None = None,
    usage: tuple[int, int] | None = (100, 2),
    **how: Any,
) -> Answer:
    """A chat completion; `top` has (token, probability) pairs for each place of the first answer.

    The first pair of a place is the token that was chosen.
    """
    choices: list[dict[str, Any]] = [
        {
            "index": i,
            "message": {"role": "assistant", "content": text, "refusal": refusal},
            "finish_reason": finish,
            "logprobs": None,
        }
        for i, text in enumerate(texts)
    ]
    if top is not None:
        choices[0]["logprobs"] = {"content": [_place(place) for place in top]}
    body: dict[str, Any] = {"object": "chat.completion", "model": model, "choices": choices}
    if usage is not None:
        body["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    return Answer(json.dumps(body).encode(), **how)


def _place(place: Sequence[tuple[str, float]]) -> dict[str, Any]:
    import math

    tokens = [
        {"token": token, "logprob": math.log(probability) if probability > 0 else None}
        for token, probability in place
    ]
    return {**tokens[0], "top_logprobs": tokens}


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    """An error in OpenAI's form; `Retry_After="1"` becomes a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps({"error": {"message": message, "code": code, "type": "error"}}).encode()
    return Answer(body, status, {"Content-Type": "application/json", **named})


def page(status: int = 200) -> Answer:
    """The HTML page that a proxy writes."""
    html = b"<!DOCTYPE html><html><head><title>Bad gateway</title></head></html>"
    return Answer(html, status, {"Content-Type": "text/html"})


def completion(
    text: str,
    *,
    logprobs: Mapping[str, Any] | None = None,
    model: str = MODEL,
    finish: str = "stop",
    usage: tuple[int, int] = (10, 2),
    **how: Any,
) -> Answer:
    """A text completion; `logprobs` are OpenAI's parallel lists."""
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}
    counted = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    body = {"object": "text_completion", "model": model, "choices": [choice], "usage": counted}
    return Answer(json.dumps(body).encode(), **how)


def _streamed(answer: Answer) -> Answer:
    """The same answer as server-sent events, its text in one piece."""
    if answer.status != 200:
        return answer
    choice = json.loads(answer.body)["choices"][0]
    message = choice.get("message")
    part = {"delta": {"content": message["content"]}} if message else {"text": choice["text"]}
    body = {"choices": [{"index": 0, "finish_reason": None, **part}]}
    text = f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n"
    return Answer(text.encode(), 200, {"Content-Type": "text/event-stream"})


class Served:
    """A server in this process; `told` may be exchanged at any time."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.models: list[str] | Answer = [MODEL]
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._at_once = 0
        self._seen: Counter[str] = Counter()
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                listed = served.models
                if not isinstance(listed, Answer):
                    data = [{"id": name, "object": "model"} for name in listed]
                    listed = Answer(json.dumps({"object": "list", "data": data}).encode())
                self._write(listed)

            def do_POST(self) -> None:
                read = self.rfile.read(int(self.headers["Content-Length"]))
                with served._counted(
                    Request(
                        json.loads(read),
                        {k.lower(): v for k, v in self.headers.items()},
                        time.monotonic(),
                        self.path,
                    )
                ) as told:
                    time.sleep(told.seconds)
                self._write(_streamed(told) if json.loads(read).get("stream") else told)

            def _write(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body[: len(answer.body) - answer.cut])
                self.close_connection = bool(answer.cut)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """A client that hangs up is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @contextmanager
    def _counted(self, request: Request) -> Iterator[Answer]:
        with self._lock:
            self.requests.append(request)
            nth = self._seen[request.text]
            self._seen[request.text] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield self.told(request, nth)
        finally:
            with self._lock:
                self._at_once -= 1

    @contextmanager
    def running(self) -> Iterator[Served]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
