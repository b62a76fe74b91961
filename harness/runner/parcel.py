"""A cell's job for a machine that may not see the results folder: what goes along, what comes back.

Either way it is a tar archive in chunks of bytes, made and read while it is sent: an artifact is
never held in memory. Names in an archive are relative, and nothing is written outside its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from harness.errors import CellFailed
from harness.results import store
from harness.system.hub import file_sha256

CHUNK = 4 * 2**20
"""Bytes of a chunk at most."""
SECONDS_TO_SEE = 90.0
"""That a network file system may take until a file of another machine is seen."""

_JOB, _LOG, _GONE = "job.json", "log", "gone.json"
_OUT, _INPUTS = "out", "inputs"


class Parcel:
    """A job, where the results folder is."""

    def __init__(self, job_file: Path, log_file: Path) -> None:
        self._job: dict[str, Any] = json.loads(job_file.read_text(encoding="utf-8"))
        self._out = Path(self._job["out"])
        self._log = log_file

    @property
    def cell(self) -> str:
        """The cell's id."""
        return str(self._job["cell"]["id"])

    @property
    def record(self) -> Path:
        """Where the record is to be."""
        return self._out / "cells" / f"{self.cell}.json"

    @property
    def record_digest(self) -> str | None:
        """sha256 of the record's bytes; None where there is none."""
        return _digest(self.record)

    def wait_for_record(self, digest: str | None, seconds: float = SECONDS_TO_SEE) -> None:
        """Wait until the record that another machine wrote here is seen, by its digest.

        Raises CellFailed where it is not.
        """
        until = time.monotonic() + seconds
        while digest is not None:
            with contextlib.suppress(OSError, StopIteration):
                next(self.record.parent.iterdir())  # a network file system looks again
            if self.record_digest == digest:
                return
            if time.monotonic() > until:
                raise CellFailed(
                    f"{self.record} was written where the cell ran, and is not seen here: is that "
                    "folder on a disk that both machines share?"
                )
            time.sleep(0.2)

    def warn(self, message: str) -> None:
        """Have the record say this."""
        self._job["warnings"].append(message)

    @property
    def inputs(self) -> dict[str, int]:
        """Files and folders outside the results folder that the cell reads -> their bytes."""
        named = {text for text in _texts({**self._job, "shared": None}) if self._is_input(text)}
        return {text: sum(f.stat().st_size for f in self._carried(text)) for text in sorted(named)}

    def _is_input(self, text: str) -> bool:
        if not text.startswith("/") or len(text) > 4096 or "\0" in text or "\n" in text:
            return False
        path = Path(text)
        return path.exists() and not path.is_relative_to(self._out)

    def chunks(self, *, results: bool, inputs: Collection[str]) -> Iterator[bytes]:
        """The archive: the job, those `inputs` that its machine lacks, and with `results` what the
        cell reads of the results folder, which that machine does not see."""
        moved = {text: f"{_INPUTS}/{text.strip('/')}" for text in inputs}
        job = {**self._job, "shared": None} if results else self._job
        content = {"job": job, "moved": moved, "log": None if results else str(self._log)}
        members: list[tuple[str, Path | bytes]] = [(_JOB, json.dumps(content).encode())]
        for text, name in moved.items():
            files = self._carried(text)
            members += [(f"{name}{_below(file, Path(text))}", file) for file in files]
        if results:
            members += [(f"{_OUT}{_below(file, self._out)}", file) for file in self._read()]
        return _archive(members)

    def _carried(self, text: str) -> list[Path]:
        """The files of an input; a folder may hold the results, which are none of it."""
        return [file for file in _files(Path(text)) if not file.is_relative_to(self._out)]

    def _read(self) -> list[Path]:
        """Files of the results folder that the cell reads, or goes on from."""
        job, cell = self._job, self.cell
        others = [job["base"]] if job["base"] else []
        others += [one["cell"] for one in job["opponents"].values() if one["folder"] == job["out"]]
        found = [self._out / "cells" / f"{other}.json" for other in others]
        places = [self._out / "samples" / other for other in others if other != cell]
        places += (place for place in self._out.glob(f"*/{cell}") if place.is_dir())
        below = (Path(text) for text in _texts(job) if text.startswith("/"))
        places += [path for path in below if path != self._out and path.is_relative_to(self._out)]
        found += [file for place in places for file in _files(place)]
        return [file for file in dict.fromkeys(found) if file.is_file()]

    def receive(self, chunks: Iterable[bytes]) -> None:
        """Write what a worker made into the results folder; the record comes last."""
        for name, content in _members(chunks):
            if name == _LOG:
                with self._log.open("ab") as log:
                    log.writelines(content)
            elif name == _GONE:
                for gone in json.loads(b"".join(content)):
                    (self._out / store.inside(gone)).unlink(missing_ok=True)
            else:
                store.receive(self._out, name, content)


class UnpackedParcel:
    """The same job in an empty folder of the machine that runs it."""

    def __init__(self, folder: Path, chunks: Iterable[bytes]) -> None:
        for name, content in _members(chunks):
            store.receive(folder, name, content)
        sent = json.loads((folder / _JOB).read_text(encoding="utf-8"))
        job, log = sent["job"], sent["log"]
        moved = {text: str(folder / name) for text, name in sent["moved"].items()}
        self._out: Path | None = None
        if log is None:
            self._out = folder / _OUT
            self._out.mkdir(exist_ok=True)
            moved[job["out"]] = str(self._out)
        self.job_file = store.write_json(folder / "work.json", _replaced(job, moved))
        self.log_file = folder / _LOG if log is None else Path(log)
        self._record = Path(moved.get(job["out"], job["out"])) / f"cells/{job['cell']['id']}.json"
        self._before = self._present()

    @property
    def record_digest(self) -> str | None:
        """sha256 of the record's bytes, once it is written."""
        return _digest(self._record)

    def chunks(self) -> Iterator[bytes]:
        """What the worker made, for `Parcel.receive`; nothing where it wrote where it belongs.

        In the order in which it was written, so that what seals other files comes after them.
        """
        if self._out is None:
            return iter(())
        present = self._present()
        gone = [name for name in self._before if name not in present]
        made = [name for name, facts in present.items() if self._before.get(name) != facts]
        made.sort(key=lambda name: (name.startswith("cells/"), present[name][1]))
        members: list[tuple[str, Path | bytes]] = [(_GONE, json.dumps(gone).encode())]
        if self.log_file.is_file():
            members.append((_LOG, self.log_file))
        return _archive([*members, *((name, self._out / name) for name in made)])

    def _present(self) -> dict[str, tuple[int, int]]:
        """Name in the results folder -> its size and its time of change in nanoseconds."""
        if self._out is None:
            return {}
        facts = {_below(file, self._out)[1:]: file.stat() for file in _files(self._out)}
        return {name: (fact.st_size, fact.st_mtime_ns) for name, fact in facts.items()}


def _digest(file: Path) -> str | None:
    with contextlib.suppress(OSError):
        return file_sha256(file)
    return None


def _texts(value: object) -> Iterator[str]:
    """Every text in a JSON value that is no key."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _replaced(value: Any, moved: Mapping[str, str]) -> Any:
    """A JSON value whose paths at or below the keys of `moved` lead to its values."""
    if isinstance(value, dict):
        return {key: _replaced(part, moved) for key, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, moved) for part in value]
    if isinstance(value, str) and value.startswith("/"):
        for old, new in sorted(moved.items(), key=lambda pair: -len(pair[0])):
            if value == old or value.startswith(f"{old}/"):
                return new + value[len(old) :]
    return value


def _files(place: Path) -> list[Path]:
    """A file, or all below a folder; none of what is being written."""
    if not place.is_dir():
        return [place] if place.is_file() else []
    found = (file for file in sorted(place.rglob("*")) if file.is_file())
    return [file for file in found if not file.name.endswith(store.TEMPORARY)]


def _below(file: Path, place: Path) -> str:
    """`/` and the name of a file in a folder; nothing where it is that place itself."""
    return "" if file == place else f"/{file.relative_to(place).as_posix()}"


# ---- the archive ---------------------------------------------------------------------------------


def _archive(members: Iterable[tuple[str, Path | bytes]]) -> Iterator[bytes]:
    """A tar archive of named files and contents, in chunks, written by a thread as it is read."""
    source, sink = os.pipe()
    failed: list[BaseException] = []

    def fill() -> None:
        try:
            with os.fdopen(sink, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as archive:
                for name, content in members:
                    _add(archive, name, content)
        except BrokenPipeError:  # whoever read it has ended
            pass
        except BaseException as error:
            failed.append(error)

    with os.fdopen(source, "rb") as pipe:
        writer = threading.Thread(target=fill, daemon=True)
        writer.start()
        while chunk := pipe.read(CHUNK):
            yield chunk
    writer.join()
    if failed:
        raise failed[0]


def _add(archive: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    import io

    member = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    with content.open("rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        archive.addfile(member, file)


def _members(chunks: Iterable[bytes]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of an archive, each with its content; to be read in order."""
    stream = cast("Any", _Stream(iter(chunks)))
    with tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield str(store.inside(member.name)), _parts(content.read)


def _parts(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while part := read(CHUNK):
        yield part


class _Stream:
    """What tarfile reads from: chunks, one after another."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        parts, missing = [], size
        while missing:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
