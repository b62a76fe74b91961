"""The form that options name, found and checked before anything is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.errors import UserError
from harness.models import packaged
from harness.parity.check import identity_of
from harness.parity.observing import LONG, PAST, Prompt
from harness.parity.seen import Form
from harness.system import hub, llama_server
from harness.system.endpoint.client import Client, Endpoint, check_installed, url_fault
from harness.system.endpoint.completion import Failure
from harness.system.endpoint.listed_models import listed_as, nearest_listed
from harness.types import Artifact, ModelRef, Precision

SLOTS = 2
"""Requests at once to a server that is started here."""
_ROOM = 256
"""Tokens beside a prompt's characters that a template may write."""
_LEAST, _MOST = 1024, 32768
"""Tokens of a started server's context."""
_LISTED = 8
"""Models of a list that are named."""


def served(url: str, model: str | None, key: str | None) -> Form:
    """A model behind a server. Raises UserError where that is down or serves no such model."""
    url = url.rstrip("/")
    if fault := url_fault(url):
        raise UserError(f"--served {url}: {fault}")
    check_installed("--served")
    listed = Client(Endpoint(url, model or "", key=key)).models()
    if isinstance(listed, Failure):
        if listed.status != 404 or model is None:
            raise UserError(
                f"--served {url}: no OpenAI-compatible server answers ({listed.message}): start "
                "it, or correct the URL, which often ends in /v1"
            )
        return Form("served", model, url, identity=identity_of(url, model))
    name = _listed(url, model, listed)
    return Form("served", name, url, identity=identity_of(url, name))


def _listed(url: str, model: str | None, listed: Sequence[str]) -> str:
    """The name of the model that is asked for, as the server lists it."""
    if model is None:
        if len(listed) == 1:
            return listed[0]
        names = ", ".join(listed[:_LISTED]) or "no model"
        raise UserError(f"--served {url} lists {names}: name one with --model")
    name = listed_as(model, listed)
    if name is None:
        raise UserError(
            f"--served {url} serves no model '{model}': {nearest_listed(model, listed)}: correct "
            "--model, or have the server load it"
        )
    return name


@contextmanager
def gguf(file: Path, prompts: Sequence[Prompt]) -> Iterator[Form]:
    """A GGUF file behind llama.cpp, which serves it while the block runs.

    Raises UserError for a file that it cannot serve, EnvironmentLack without llama.cpp.
    """
    llama_server.check_installed()
    check_installed("--gguf")
    known = llama_server.check_file(file)
    identity = hub.file_sha256(file)
    with llama_server.running(file, context=_context(prompts), slots=SLOTS) as address:
        form = served(f"{address}/v1", None, None)
        yield replace(
            form,
            kind="gguf",
            name=form.name,
            quantisation=known.quantization,
            identity=identity,
        )


def _context(prompts: Sequence[Prompt]) -> int:
    """Tokens that any of the prompts takes with its answer: a token has a character or more."""
    longest = max(len(_characters(prompt)) for prompt in prompts)
    answer = max(prompt.most for prompt in prompts)
    return min(_MOST, max(_LEAST, longest + max(answer, LONG + PAST) + _ROOM))


def _characters(prompt: Prompt) -> str:
    if prompt.messages is None:
        return prompt.text or ""
    return "".join(f"{message['role']}{message['content']}" for message in prompt.messages)


def folder(name: str, mirror: Path | None) -> tuple[Form, Artifact]:
    """A model opened here: a folder, an alias or a Hub id, in the precision of its files."""
    model = packaged.resolve_model(name, mirror=mirror, pull_missing=False, kind=packaged.CAUSAL)
    precision = _precision(model)
    form = Form(
        "folder",
        name,
        model.path,
        quantisation=precision,
        engine="transformers",
        identity=model.content_hash or identity_of(model.identity),
    )
    return form, Artifact("base", model, precision=precision)


def _precision(model: ModelRef) -> Precision:
    """The number format that the files say; float32 where they do not."""
    formats: dict[str, Precision] = {"float32": "float32", "bfloat16": "bf16", "float16": "fp16"}
    place = hub.cached_folder(model)
    try:
        config = json.loads(((place or Path(model.path)) / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return "float32"
    stated = config.get("dtype") or config.get("torch_dtype")
    return formats.get(str(stated), "float32")
