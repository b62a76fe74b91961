"""Serves the page on this machine alone, and makes it anew when a run has recorded more."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.cli.report import page, reading
from harness.errors import UserError

__all__ = ["server"]

HOST = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Watched:
    """Results folders, and the page of what is in them."""

    def __init__(self, folders: Sequence[Path], rank_by: str | None = None) -> None:
        self._folders, self._rank_by = list(folders), rank_by
        self._lock = threading.Lock()
        self._built: tuple[str, bytes] | None = None

    def version(self) -> str:
        """Another one when a file that the page is made of has changed."""
        facts = [
            _facts(file)
            for folder in self._folders
            for pattern in ("cells/*.json", "samples/*/*.json")
            for file in sorted(folder.glob(pattern))
        ]
        # of a log only that it is there: it grows all the time
        logs = [str(log) for folder in self._folders for log in sorted(folder.glob("logs/*.log"))]
        return hashlib.sha256(json.dumps([facts, logs]).encode()).hexdigest()[:16]

    def page(self) -> bytes:
        """The page of what is there now."""
        with self._lock:
            version = self.version()  # before reading: what comes meanwhile is another version
            if self._built is None or self._built[0] != version:
                text = page.page(self._read(), watched=version)
                self._built = (version, text.encode())
            return self._built[1]

    def state(self) -> dict[str, str]:
        """The version, and what a reader is told of the run."""
        recorded = sum(len(list(folder.glob("cells/*.json"))) for folder in self._folders)
        under_way = reading.unfinished(self._folders)
        cells = "1 cell" if recorded == 1 else f"{recorded} cells"
        text = f"{cells} recorded" + (f"; without a record: {len(under_way)}" if under_way else "")
        return {"version": self.version(), "text": text}

    def _read(self) -> reading.Results:
        """An empty page where there is nothing to show yet, with the reason."""
        try:
            return reading.read(self._folders, self._rank_by)
        except UserError as error:
            return reading.nothing(str(error), self._folders)


def _facts(file: Path) -> tuple[str, int, int]:
    """What changes with a file's content; of one that was just removed its name."""
    try:
        found = file.stat()
    except OSError:
        return str(file), 0, 0
    return str(file), found.st_mtime_ns, found.st_size


def server(watched: Watched, port: int) -> ThreadingHTTPServer:
    """A server on the loopback interface; port 0 takes a free one.

    Raises UserError where the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """The page, or its state."""
            if self.headers.get("Host") not in _names(self.server.server_port):  # type: ignore[attr-defined]
                # a name that leads here is a stranger's page that wants to read ours
                self.send_error(403, "This page is served to this machine alone")
            elif self.path == "/":
                self._answer("text/html; charset=utf-8", watched.page())
            elif self.path == "/state.json":
                self._answer("application/json", json.dumps(watched.state()).encode())
            else:
                self.send_error(404)

        def _answer(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            for name, value in {**_HEADERS, "Content-Type": kind}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a line every two seconds is no help."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port}: {error}; name another, or none") from None


def _names(port: int) -> set[str]:
    return {f"{name}:{port}" for name in (HOST, "localhost")}
