"""`publication.json`: what a published folder was made of, and the hashes of its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.results import store
from harness.system.hub import file_sha256

SCHEMA = 1
NAME = "publication.json"
RESULTS = "evaluation"
"""The folder of the records and samples: a results folder of its own."""
CARD = "README.md"


@dataclass(frozen=True)
class License:
    """Under which terms the model is published."""

    id: str
    """Of the Hub's list, such as `apache-2.0` or `other`."""
    origin: str
    """Who says so, in words."""
    name: str | None = None
    """Where the id is `other`."""
    link: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A metric that is the whole of a benchmark which the Hub keeps a leaderboard of."""

    metric: str
    """suite.metric"""
    dataset: str
    task_id: str


@dataclass(frozen=True)
class Publication:
    """All that the files of a published folder depend on, beside its records."""

    cell: str
    base: str | None
    """The untouched base's cell."""
    name: str
    """`owner/name` on the Hub, or the cell's id."""
    published: int
    """Seconds since 1970."""
    harness: str
    """Version of the harness that published."""
    made: str
    """`adapter`, `weights` or `merged`."""
    merged_into: str | None
    precision: str
    base_hub_id: str | None
    license: License
    artifact: Mapping[str, Any]
    """What the record's artifact hash is of (`artifact_hash.identity`)."""
    samples: bool = True
    evaluated: str | None = None
    """When it was measured, where the publisher says so: an ISO 8601 date."""
    benchmarks: tuple[Benchmark, ...] = ()
    source_url: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Relative name -> sha256, of every file but this one."""
    schema: int = SCHEMA

    def write(self, folder: Path) -> None:
        """Seal the folder's files as they are now."""
        whole = dataclasses.replace(self, files=hashes(folder))
        store.write_json(folder / NAME, store.seal(dataclasses.asdict(whole)))


def hashes(folder: Path) -> dict[str, str]:
    """Relative name -> sha256 of every file in a published folder but `publication.json`.

    A checkout's `.git` and the Hub's `.gitattributes` and `.cache` are none of them.
    """
    return {
        name: file_sha256(folder / name)
        for name in files_of(folder)
        if name not in (NAME, ".gitattributes")
    }


def files_of(folder: Path) -> list[str]:
    """Relative names of a published folder's files, sorted."""
    every = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(f.as_posix() for f in every if f.parts[0] not in (".git", ".cache"))


def is_published(folder: Path) -> bool:
    """Whether a folder holds a publication, whole or not."""
    return (folder / NAME).is_file()


def content(folder: Path) -> dict[str, Any]:
    """What `publication.json` says. Raises UserError where it cannot be read."""
    file = folder / NAME
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}); publish anew") from None
    if not isinstance(read, dict) or read.get("schema") != SCHEMA:
        raise UserError(f"{file}: not of schema {SCHEMA}, which this harness reads; publish anew")
    return read


def parsed(read: Mapping[str, Any], file: Path) -> Publication:
    """A publication from its JSON. Raises UserError where it is none."""
    from pydantic import TypeAdapter, ValidationError

    values = {key: value for key, value in read.items() if key != "sha256"}
    try:
        return TypeAdapter(Publication).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {place}: {first['msg']}; publish anew") from None
