"""Answers of finished blocks on disk, so that a worker that is killed loses one block at most.

A block is a file of its own in `<out>/blocks/`, sealed, in a folder for all that its answers depend
on beside the requests: the artifact's bytes, the engine and the arithmetic. Each of its requests is
known by its own hash. The files go once the suites that asked are stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from harness.record import Phase
from harness.results import store
from harness.system.paths import in_folder

FOLDER = "blocks"
SCHEMA = 1


class Block(TypedDict):
    """The content of a file, beside its seal."""

    schema: int
    of: Mapping[str, object]
    """What the answers depend on beside the requests."""
    kind: str
    """Whether they are answers or log-likelihoods."""
    keys: Sequence[str]
    """Hashes of the requests."""
    answers: Sequence[Any]
    """What the model gave to each, as JSON."""
    cost: Phase
    """Of computing them."""


def key(kind: str, *parts: bytes) -> str:
    """The hash by which a request is known; `kind` has the settings that it was asked with."""
    found = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


class KeptAnswers:
    """The answers that are kept of one artifact.

    What is damaged, or of another artifact, is not used, with a warning.
    """

    def __init__(
        self,
        out: Path,
        artifact: str,
        of: Mapping[str, object],
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """`artifact` is its hash, and `of` what answers depend on beside it and the requests."""
        self.of = store.plain({**of, "artifact": artifact})
        self.folder = Path(out) / FOLDER / f"{_start(artifact)}{store.digest(self.of)[:8]}"
        self.taken: dict[Path, Block] = {}
        """Files of others, or of an earlier run, that answers were taken from; without these."""
        self._warn = warn or (lambda line: None)
        self._places: dict[str, tuple[Path, int]] = {}
        """Hash of a request -> the file that has its answer, and where."""
        self._seen: set[Path] = set()
        self._own: set[Path] = set()
        self._last: tuple[Path, Block] | None = None
        """The file that was read last."""
        self.look()

    def look(self) -> bool:
        """Find the files that came since, by other workers too; whether there are any."""
        new = sorted({*self.folder.glob("*.json")} - self._seen)
        for file in new:
            self._seen.add(file)
            block = self._read(file)
            for place, name in enumerate(block["keys"] if block else ()):
                self._places.setdefault(name, (file, place))
        return bool(new)

    def __len__(self) -> int:
        return len(self._places)

    def find(self, keys: Sequence[str]) -> list[Any]:
        """The answer to each request; None where none is kept."""
        found: list[Any] = [None] * len(keys)
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for number, name in enumerate(keys):
            if name in self._places:
                file, place = self._places[name]
                wanted.setdefault(file, []).append((number, place))
        for file, places in wanted.items():
            block = self._read(file)
            if block is None:
                continue
            if file not in self._own:
                self.taken[file] = {**block, "answers": ()}
            for number, place in places:
                found[number] = block["answers"][place]
        return found

    def keep(self, kind: str, keys: Sequence[str], answers: Sequence[Any], cost: Phase) -> None:
        """Write a block. Where nothing can be written nothing is kept, with a warning."""
        block = Block(
            schema=SCHEMA, of=self.of, kind=kind, keys=list(keys), answers=list(answers), cost=cost
        )
        file = self.folder / f"{name_of(keys)}.json"
        try:
            store.write_block(file, block)
        except OSError as error:
            self._warn(
                f"the answers to {len(keys)} requests are not kept ({error.strerror}): a run that "
                "is cut off asks them again"
            )
            return
        self._seen.add(file)
        self._own.add(file)
        self._places.update({name: (file, place) for place, name in enumerate(keys)})

    def clear(self) -> None:
        """Remove the files that were written or taken from here: their suites are stored."""
        _remove({*self._own, *self.taken}, self.folder)

    def _read(self, file: Path) -> Block | None:
        if self._last is not None and self._last[0] == file:
            return self._last[1]
        try:
            block = json.loads(file.read_text(encoding="utf-8"))
            wrong = self._wrong(block)
        except FileNotFoundError:  # another worker has stored their suite
            return None
        except (OSError, ValueError, RecursionError) as error:
            wrong = type(error).__name__
        if wrong is not None:
            place = f"{FOLDER}/{self.folder.name}/{file.name}"
            self._warn(f"{place} is not used ({wrong}): what it answered is asked again")
            return None
        self._last = (file, block)
        return self._last[1]

    def _wrong(self, block: Any) -> str | None:
        """Why this is no block of this artifact; None where it is one."""
        if not isinstance(block, dict) or not store.is_sealed(block):
            return "it changed since it was written"
        if block["schema"] != SCHEMA:
            return f"schema {block['schema']}, this harness reads {SCHEMA}"
        if block["of"] != self.of:
            return "it is of another model or device"
        return None


class Sharing:
    """Whose blocks several workers compute: a file that is there while the cell's own worker asks.

    A worker claims a block before it computes it, so that each takes what no other is at.
    """

    def __init__(self, out: Path, token: str) -> None:
        """`token` is of one attempt at one cell: claims of an earlier one count for nothing."""
        self.token = token
        self.file = Path(out) / FOLDER / f"{token}.shared"

    def begin(self) -> None:
        """Let others help from now on."""
        in_folder(self.file.parent, self.file.touch)

    @property
    def goes_on(self) -> bool:
        """Whether there is anything to help with."""
        return self.file.exists()

    def end(self) -> None:
        """Let the others end after the block that they are at."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
            self.file.parent.rmdir()

    def claim(self, folder: Path, block: str) -> bool:
        """Whether no other worker is at this block; then this one is."""
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{block}.{self.token}.claim").touch(exist_ok=False)
            return True
        return False


def clear(out: Path, artifact: str) -> None:
    """Remove whatever is kept of an artifact, by its hash: all its suites are stored."""
    for folder in (Path(out) / FOLDER).glob(f"{_start(artifact)}*"):
        _remove(folder.iterdir(), folder)


def count(out: Path, artifact: str) -> tuple[int, int]:
    """How many blocks are kept of an artifact, by its hash, and how many requests they answer.

    None of them is checked.
    """
    blocks = requests = 0
    for file in (Path(out) / FOLDER).glob(f"{_start(artifact)}*/*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            requests += len(json.loads(file.read_text(encoding="utf-8"))["keys"])
            blocks += 1
    return blocks, requests


def _start(artifact: str) -> str:
    """What the names of an artifact's folders begin with."""
    return f"{artifact[:16]}-"


def _remove(files: Iterable[Path], folder: Path) -> None:
    with suppress(OSError):
        for file in files:
            file.unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()  # where others are in it, it stays


def name_of(keys: Iterable[str]) -> str:
    """The name of a block of these requests."""
    return hashlib.blake2b("".join(keys).encode(), digest_size=16).hexdigest()
