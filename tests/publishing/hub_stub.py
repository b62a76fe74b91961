"""The parts of the Hub's HTTP API that an upload asks, on loopback: what it was sent is kept."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """A stub, and what it was sent."""

    url: str = ""
    tokens: set[str] = field(default_factory=set)
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """By path: those of a commit, and those of large file storage."""
    objects: dict[str, bytes] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    refuses: int = 0
    """Status of every commit; 0: it is taken."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        self.hub.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        self.hub.paths.append(self.path)
        self._answer({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body, hub = self._body(), self.hub
        hub.paths.append(self.path)
        hub.tokens.add(self.headers.get("Authorization", ""))
        repo = f"{hub.url}/shop/tiny"
        if self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self._answer({"url": repo, "name": "shop/tiny"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            told = [
                {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                for f in asked
            ]
            self._answer({"files": told})
        elif self.path.endswith("/objects/batch"):
            self._answer(
                {"transfer": "basic", "objects": [self._upload(o) for o in _objects(body)]}
            )
        elif "/commit/" in self.path and hub.refuses:
            self._answer({"error": f"no, {self.headers['Authorization']}"}, hub.refuses)
        elif "/commit/" in self.path:
            self._commit(body)
            self._answer({"commitUrl": f"{repo}/commit/{'a' * 40}", "commitOid": "a" * 40})
        else:
            self._answer({"error": "unknown"}, 404)

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.hub.url}/put/{asked['oid']}"}
        return {**asked, "authenticated": True, "actions": {"upload": upload}}

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.objects[value["oid"]]


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".gz")) else "regular"


def _objects(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["objects"]
    return found


@contextmanager
def serving() -> Iterator[Hub]:
    """A stub on a free port of loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
