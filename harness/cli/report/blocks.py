"""Data of a page as compressed blocks, which a browser opens when it needs them."""

from __future__ import annotations

import base64
import gzip
import json

from harness.cli.report.markup import Markup, element

__all__ = ["block", "json_block"]


def json_block(name: str, value: object) -> Markup:
    """A block of JSON; ASCII alone, so that half a surrogate pair survives as its escape."""
    return block(name, json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii"))


def block(name: str, content: bytes) -> Markup:
    """A script element that no browser runs, of an alphabet that no tag can be written in.

    The same bytes for the same content.
    """
    text = base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode("ascii")
    kind = "application/octet-stream"
    return element("script", Markup(text), type=kind, id=f"block-{name}")
