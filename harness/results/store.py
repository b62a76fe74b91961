"""The only writer of results: records, sample files, and any JSON derived from them."""

from __future__ import annotations

import glob
import gzip
import io
import json
import math
import numbers
import os
import platform
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, cast

from harness.errors import HarnessError, UserError, nearest
from harness.record import VERSION, Plan, Record, SampleFile, SuiteSection
from harness.results.schema import first_problem, schema, validate
from harness.results.seals import digest, is_intact, is_sealed, keep_checked
from harness.results.seals import sha256 as sha256_of
from harness.system.console import JSON_ESCAPES
from harness.system.environment import environment
from harness.system.paths import in_folder
from harness.system.security.secrets import masked, masked_values

__all__ = [
    "CLOCK_TICK",
    "TEMPORARY",
    "InvalidRecord",
    "Stored",
    "check_samples",
    "digest",
    "environment",
    "inside",
    "invalidity",
    "is_abandoned",
    "is_sealed",
    "keep_checked",
    "label",
    "plain",
    "put_aside",
    "read_record",
    "read_records",
    "read_samples",
    "read_section",
    "read_usable",
    "receive",
    "rows_reader",
    "schema",
    "seal",
    "set_aside",
    "stored",
    "suites",
    "unsealed",
    "validate",
    "with_samples",
    "write_block",
    "write_json",
    "write_record",
    "write_samples",
    "write_section",
    "write_text",
]

Rows = list[dict[str, Any]]
"""The rows of a sample file, as JSON."""

SECTION = 1
"""Version of a finished suite's file; raised too when the same model would get other scores."""

LONGEST = 20_000
"""Characters of a text in a record: an error's message may hold a whole file."""

MOST_BYTES = 2**31
"""Of a sample file when it is unpacked, which may be a stranger's: a few kilobytes of packed
zeros can stand for any size."""

_NON_FINITE = ("was nan", "was inf", "was -inf")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class InvalidRecord(UserError):
    """A record file that is not what the harness wrote, or is of another layout."""


@dataclass(frozen=True)
class Stored:
    """A record as it was read, and the results folder that it lies in."""

    folder: Path
    data: Record

    @property
    def id(self) -> str:
        """The cell's id."""
        return self.data["id"]

    @property
    def label(self) -> str:
        """The label of the cell's method."""
        return label(self.data["plan"])


def label(plan: Plan) -> str:
    """The label of a plan's method."""
    return plan.get("label") or plan["method"]


def suites(record: Record) -> Mapping[str, SuiteSection]:
    """The suites of a record; none where it was not evaluated."""
    evaluation = record["evaluation"]
    return evaluation["suites"] if evaluation else {}


# Writing


def write_record(out: Path, record: Record) -> Path:
    """Write `<out>/cells/<id>.json` atomically and return its path.

    NaN and infinity become null, each with a line in `warnings`; errors and warnings longer than
    `LONGEST` lose their middle. Secrets of the environment are masked. The record ends with a seal:
    `sha256` over all the rest. Raises HarnessError, and writes nothing, where the record does not
    match its JSON Schema.
    """
    changes: list[str] = []
    data = _without_secrets(_plain(record, "", changes))
    data["warnings"] += changes
    data |= {part: _shortened(data[part]) for part in ("training", "warnings", "error")}
    validate(data, "record")
    return write_json(Path(out) / "cells" / f"{_checked_name(data['id'])}.json", seal(data))


def seal(value: Mapping[str, object]) -> dict[str, Any]:
    """`value`, as JSON types, with `sha256` over everything else in it, as its last key."""
    parts = {key: plain(part) for key, part in value.items() if key != "sha256"}
    return {**parts, "sha256": digest(parts)}


def _shortened(value: object) -> Any:
    """`value` with the middle of every text beyond `LONGEST` characters left out."""
    if isinstance(value, str) and len(value) > LONGEST:
        left_out = f" ... {len(value) - LONGEST} characters left out ... "
        return value[: LONGEST // 2] + left_out + value[-(LONGEST // 2) :]
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def _without_secrets(value: dict[str, Any]) -> dict[str, Any]:
    """JSON types without secrets: an error's text may hold the request or the address at fault."""
    text = json.dumps(value)
    without = masked(text)
    return value if without == text else dict(json.loads(without))


def plain(value: object) -> Any:
    """`value` as JSON types; NaN and infinity become null."""
    return _plain(value, "", [])


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically and without secrets of the environment."""
    _write_atomically(Path(path), masked(text).encode())


def write_json(path: Path, value: object) -> Path:
    """Write `value` as JSON, atomically; NaN and infinity become null."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    _write_atomically(Path(path), (text + "\n").encode("utf-8", JSON_ESCAPES))
    return Path(path)


def write_samples(
    out: Path, cell_id: str, suite: str, rows: Iterable[Mapping[str, object]]
) -> SampleFile:
    """Write `<out>/samples/<cell_id>/<suite>.jsonl.gz`, the same bytes for the same rows.

    Half of a surrogate pair, which UTF-8 has no bytes for, is written as JSON escapes it. Returns
    `file` (relative to `out`), `sha256` (of the file's bytes) and `rows` for the record,
    and `non_finite`, the count of NaN and infinite numbers written as null, where there are any.
    """
    name = f"samples/{_checked_name(cell_id)}/{_checked_name(suite)}.jsonl.gz"
    changes: list[str] = []
    lines = [
        json.dumps(_plain(row, "", changes), ensure_ascii=False, allow_nan=False) + "\n"
        for row in rows
    ]
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=buffer, mtime=0) as file:
        file.write(masked_values("".join(lines)).encode("utf-8", JSON_ESCAPES))
    content = buffer.getvalue()
    _write_atomically(Path(out) / name, content)
    samples: SampleFile = {"file": name, "sha256": sha256_of(content), "rows": len(lines)}
    if lost := sum(line.endswith(_NON_FINITE) for line in changes):
        samples["non_finite"] = lost
    return samples


def write_section(out: Path, cell_id: str, suite: str, section: Mapping[str, object]) -> Path:
    """Write `<out>/samples/<cell_id>/<suite>.json`: a finished suite, before its cell is.

    Written after its sample file, so that it vouches for that. `read_section` reads it.
    """
    kept = _without_secrets(_plain({"schema": SECTION, "cell": cell_id, **section}, "", []))
    name = f"{_checked_name(suite)}.json"
    path = Path(out) / "samples" / _checked_name(cell_id) / name
    return write_json(path, seal(kept))


def write_block(path: Path, block: Mapping[str, object]) -> None:
    """Write a block of answers, sealed, on one line; unlike in all else NaN stays what it is."""
    text = json.dumps({**block, "sha256": digest(block)})
    _write_atomically(Path(path), text.encode())


def unsealed(records: Iterable[Stored]) -> str | None:
    """A sentence on the records without a seal, which anybody may have changed; None without."""
    ids = sorted(stored.id for stored in records if "sha256" not in stored.data)
    if not ids:
        return None
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return (
        f"without a seal, as an older version wrote it: {ids[0]}{more}; scores are computed anew "
        "from the samples, all else stands unchecked"
    )


def receive(out: Path, name: str, chunks: Iterable[bytes]) -> Path:
    """Write a file that another machine made, such as a trained artifact's, atomically.

    Raises HarnessError, and writes nothing, for a name that leads out of the folder.
    """
    path = Path(out) / inside(name)
    _write_atomically(path, chunks)
    return path


def inside(name: str) -> PurePosixPath:
    """A relative name of a file in a folder. Raises HarnessError for one that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise HarnessError(f"'{name}' is no name of a file in a folder")
    return path


def _write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Readers see the old file or the whole new one, after a crash too.

    What a process that was killed while writing the same file has left is removed.
    """
    name = path.name[:100]
    for left in path.parent.glob(f".{glob.escape(name)}.*{TEMPORARY}"):
        if is_abandoned(left):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{name}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        # tempfile's are 0600 whatever the umask, and shared
        with in_folder(path.parent, lambda: temporary.open("xb")) as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # there may be no folder
            temporary.unlink(missing_ok=True)
        # a write on a full disk names no file, and a folder that cannot be made itself
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


TEMPORARY = ".tmp"
"""End of the name of a file that is being written."""
_WRITER = re.compile(rf"\.([A-Za-z0-9_]+)-(\d+)-[0-9a-f]{{8}}{re.escape(TEMPORARY)}")


def is_abandoned(temporary: Path) -> bool:
    """Whether the process of this machine that was writing a temporary file is gone."""
    writer = _WRITER.search(temporary.name)
    if writer is None or writer[1] != _host():
        return False
    import psutil

    return not psutil.pid_exists(int(writer[2]))


def _host() -> str:
    return re.sub(r"\W", "_", platform.node(), flags=re.ASCII)[:40] or "_"


def _plain(value: Any, path: str, changes: list[str]) -> Any:
    """`value` as JSON types; each value that could not be kept adds a line to `changes`."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isfinite(number):
            return number
        changes.append(f"{path} was {number}")
        return None
    if isinstance(value, Mapping):
        prefix = f"{path}." if path else ""
        return {str(key): _plain(item, f"{prefix}{key}", changes) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_plain(item, f"{path}[{index}]", changes) for index, item in enumerate(items)]
    if isinstance(value, PurePath):
        return str(value)
    if type(value).__module__ == "numpy":
        return _plain(value.tolist(), path, changes)
    # a day's training is not thrown away for an odd value in somebody's notes
    changes.append(f"{path} was a {type(value).__name__}, written as text")
    return str(value)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise HarnessError(f"'{name}' cannot name a result: use letters, digits, '.', '_' and '-'")
    return name


# Reading


class _NotFinite(Exception):
    """NaN or infinity, which are no JSON and are never written."""


def _no_number(constant: str) -> None:
    raise _NotFinite(constant)


_STRICT = json.JSONDecoder(parse_constant=_no_number)


def read_record(path: Path) -> Record:
    """A record file's content; a file that did not change is read once.

    Whatever reads records reads them here, so that all commands agree. Do not change what comes
    back. Raises UserError where the file cannot be read, and InvalidRecord where it is no record of
    this schema version or differs from what was sealed. Records of older versions have no seal.
    """
    path = Path(path)
    try:
        facts = path.stat()
        key = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        known = _records.get(path)
        if known is not None and known[0] == key:
            return known[1]
        data = _checked_record(path, path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if time.time_ns() - facts.st_ctime_ns > CLOCK_TICK:
        _records[path] = (key, data)
    return data


_records: dict[Path, tuple[tuple[int, ...], Record]] = {}
"""File -> (what `stat` said of it, its content); a time of change cannot be set back."""
CLOCK_TICK = 100_000_000
"""Nanoseconds; two changes of a file within one tick of the file system's clock look like one."""

_AGAIN = "run the experiment again: it is set aside and its cell measured anew"


def _checked_record(path: Path, content: bytes) -> Record:
    """A record from a file's bytes. Raises InvalidRecord."""
    try:
        data = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise InvalidRecord(f"{path}:{error.lineno}: broken JSON ({error.msg}); {_AGAIN}") from None
    except UnicodeDecodeError:
        raise InvalidRecord(f"{path}: not a text file in UTF-8; {_AGAIN}") from None
    except _NotFinite as error:
        raise InvalidRecord(f"{path}: holds {error}, which no record does; {_AGAIN}") from None
    except (RecursionError, ValueError) as error:
        reason = f"broken JSON ({type(error).__name__})"
        raise InvalidRecord(f"{path}: {reason}; {_AGAIN}") from None
    if not isinstance(data, dict) or "schema" not in data:
        raise InvalidRecord(f"{path}: not a record (it has no 'schema'); name a file under cells/")
    if (version := data["schema"]) != VERSION:
        raise InvalidRecord(
            f"{path}: schema {version!r}, this harness reads {VERSION}; "
            f"install the finetune-harness that wrote it, or {_AGAIN}"
        )
    if "sha256" in data and not is_intact(path, content, data):
        raise InvalidRecord(
            f"{path}: changed since it was written (sha256 differs); restore it, or {_AGAIN}"
        )
    # what is sealed was held against the schema when it was written
    if "sha256" not in data and (problem := first_problem(data, "record")) is not None:
        raise InvalidRecord(f"{path}: not a valid record ({problem}); {_AGAIN}")
    return cast("Record", data)


def stored(out: Path, cell_id: str) -> Record | None:
    """The record of a cell in a results folder; None where it has none, or an invalid one.

    Raises UserError where its file cannot be read.
    """
    file = _file_of(out, cell_id)
    if not file.is_file():
        return None
    try:
        return _named_as(file, read_record(file))
    except InvalidRecord:
        return None


def set_aside(out: Path, cell_id: str) -> str | None:
    """Move the invalid record of a cell to `cells/<id>.json.invalid`, never onto another file.

    Returns what is wrong with it and where it is now, or None where nothing is wrong.
    """
    problem = invalidity(out, cell_id)
    if problem is None:
        return None
    file = _file_of(out, cell_id)
    target = put_aside(file)
    return f"the record {file.name} is not used ({problem}): it is now cells/{target.name}"


def invalidity(out: Path, cell_id: str) -> str | None:
    """What is wrong with the record of a cell; None where nothing is, or it has none.

    Raises UserError where its file cannot be read.
    """
    file = _file_of(out, cell_id)
    if not file.is_file():
        return None
    try:
        _named_as(file, read_record(file))
    except InvalidRecord as error:
        return str(error).removeprefix(str(file)).partition(";")[0].lstrip(": ")
    return None


def put_aside(file: Path) -> Path:
    """Rename a file to its name and `.invalid`, never onto another file; its new path."""
    names = (f"{file.name}.invalid{end}" for end in ("", *(f"-{n}" for n in range(2, 10_000))))
    target = next(place for name in names if not (place := file.with_name(name)).exists())
    return file.rename(target)


def _file_of(out: Path, cell_id: str) -> Path:
    return Path(out) / "cells" / f"{cell_id}.json"


def _named_as(file: Path, data: Record) -> Record:
    """The record of a file in a results folder. Raises InvalidRecord for another cell's."""
    if data["id"] != file.stem:
        raise InvalidRecord(f"{file}: holds the record of cell {data['id']}; {_AGAIN}")
    return data


def read_records(folders: Iterable[Path]) -> list[Stored]:
    """Every record of some results folders (a folder with `cells/`) or record files.

    A cell met twice is kept once, also where an untrained model was measured twice with the same
    figures. Raises UserError where a folder has no records, a record is broken, or one cell id
    has two different results.
    """
    return _once(
        Stored(folder, _named_as(file, read_record(file)) if named else read_record(file))
        for folder, file, named in _files(folders)
    )


def read_usable(folders: Iterable[Path]) -> tuple[list[Stored], list[str]]:
    """The records of some results folders that can be used, and of each other what is wrong.

    For what shows results; what decides by them takes `read_records`. Raises UserError where a
    folder has no records, none can be used, or one cell id has two different results.
    """
    records: list[Stored] = []
    problems: list[str] = []
    for folder, file, named in _files(folders):
        try:
            data = read_record(file)
            records.append(Stored(folder, _named_as(file, data) if named else data))
        except UserError as error:
            problems.append(str(error))
    if not records:
        raise UserError(problems[0] if problems else "no results folder is named")
    return _once(records), problems


def with_samples(records: Iterable[Stored]) -> tuple[list[Stored], list[str]]:
    """The records whose sample files are all there and as recorded, and what the others lack."""
    whole, problems = [], []
    for one in records:
        try:
            for suite in suites(one.data):
                check_samples(one.folder, one.data, suite)
        except UserError as error:
            problems.append(str(error))
        else:
            whole.append(one)
    return whole, problems


def _once(records: Iterable[Stored]) -> list[Stored]:
    """Each cell once. Raises UserError where one cell id has two different results."""
    by_id: dict[str, Stored] = {}
    for stored in records:
        known = by_id.setdefault(stored.id, stored)
        if known.data != stored.data and not _agree(known.data, stored.data):
            raise UserError(
                f"cell {stored.id} has different results in {known.folder} and "
                f"{stored.folder}; leave one of them out"
            )
    return list(by_id.values())


def _agree(record: Record, other: Record) -> bool:
    """Whether two measurements of one untrained model differ in their cost alone.

    Each results folder has the base of its cells, so several folders have the same base.
    """
    both = (record, other)
    if any(each["status"] != "ok" or each["training"] for each in both):
        return False
    figures, others = (
        {name: [suite["hash"], suite["metrics"]] for name, suite in suites(each).items()}
        for each in both
    )
    return bool(figures) and figures == others


def _files(places: Iterable[Path]) -> Iterator[tuple[Path, Path, bool]]:
    """(results folder, record file, whether the file is named as its cell) of folders and files."""
    for place in map(Path, places):
        if place.is_file():
            yield (
                (place.parent.parent if place.parent.name == "cells" else place.parent),
                place,
                False,
            )
            continue
        files = sorted((place / "cells").glob("*.json"))
        if not files:
            inside = [str(cells.parent) for cells in sorted(place.glob("*/cells"))]
            advice = f"did you mean {' or '.join(inside)}?" if inside else "run an experiment first"
            raise UserError(f"{place}: no records there (cells/*.json); {advice}")
        yield from ((place, file, True) for file in files)
        keep_checked(place / "cells")


def read_samples(out: Path, record: Record, suite: str) -> Rows:
    """The sample rows of one suite of a record that lies in the results folder `out`.

    Raises UserError where the record has no such suite, or its file is missing or was changed.
    """
    return _rows(*_sample_bytes(out, record, suite), record["id"])


def check_samples(out: Path, record: Record, suite: str) -> None:
    """Raises UserError where `read_samples` would; the rows are not parsed."""
    _sample_bytes(out, record, suite)


def _sample_bytes(out: Path, record: Record, suite: str) -> tuple[Path, bytes]:
    """The sample file of a suite, and its content where it is as recorded."""
    known = suites(record)
    if suite not in known:
        raise UserError(f"cell {record['id']} has no suite '{suite}': {nearest(suite, known)}")
    samples = known[suite].get("samples")
    if samples is None:
        raise UserError(f"cell {record['id']} has no sample file for '{suite}'; run it again")
    path = Path(out) / samples["file"]
    return path, _checked_bytes(path, samples["sha256"], record["id"])


def _checked_bytes(path: Path, sha256: str, cell_id: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); keep samples/ beside cells/, or delete "
            f"cells/{cell_id}.json and run the experiment again"
        ) from None
    if sha256_of(content) != sha256:
        raise UserError(
            f"{path}: changed since it was recorded (sha256 differs); restore it, or delete "
            f"cells/{cell_id}.json and run the experiment again"
        )
    return content


def _rows(path: Path, content: bytes, cell_id: str) -> Rows:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
        text = packed.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise UserError(
            f"{path}: unpacks to more than {MOST_BYTES} bytes: delete cells/{cell_id}.json and run "
            "the experiment again with fewer samples (limit)"
        )
    lines = text.decode().rstrip("\n").replace("\n", ",")
    # one call: lines one by one take twice
    rows: Rows = _STRICT.decode(f"[{lines}]")
    return rows


def read_section(path: Path) -> tuple[dict[str, Any], Rows]:
    """What `write_section` wrote, and the rows of the sample file beside it.

    Raises UserError where either is broken or was changed since.
    """
    try:
        section = json.loads(Path(path).read_text(encoding="utf-8"))
        sha256 = section.pop("sha256")
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a finished suite ({type(error).__name__})") from None
    if sha256 != digest(section):
        raise UserError(f"{path}: changed since it was written (sha256 differs)")
    samples = Path(path).with_name(Path(section["samples"]["file"]).name)
    content = _checked_bytes(samples, section["samples"]["sha256"], section["cell"])
    return section, _rows(samples, content, section["cell"])


def rows_reader(
    records: Iterable[Stored],
) -> Callable[[Record, str], Rows]:
    """`read_rows(record, suite) -> rows` for records from `read_records`; reads a file once."""
    folders = {stored.id: stored.folder for stored in records}
    known: dict[tuple[str, str], Rows] = {}

    def read_rows(record: Record, suite: str) -> Rows:
        key = (record["id"], suite)
        if key not in known:
            known[key] = read_samples(folders[record["id"]], record, suite)
        return known[key]

    return read_rows
