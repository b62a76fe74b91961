"""The only writer of results: records, sample files, and any JSON derived from them."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import io
import json
import math
import numbers
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from harness.environment import environment
from harness.errors import HarnessError, UserError, nearest
from harness.types import Record

__all__ = [
    "SCHEMA",
    "Stored",
    "environment",
    "label",
    "plain",
    "read_record",
    "read_records",
    "read_samples",
    "read_section",
    "rows_reader",
    "schema",
    "suites",
    "validate",
    "write_json",
    "write_record",
    "write_samples",
    "write_section",
    "write_text",
]

SCHEMA = 1
"""Version of the record's layout."""

SECTION = 1
"""Version of a finished suite's file; raised too when the same model would get other scores."""

_NON_FINITE = ("was nan", "was inf", "was -inf")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Stored:
    """A record as it was read, and the results folder that it lies in."""

    folder: Path
    data: dict[str, Any]

    @property
    def id(self) -> str:
        """The cell's id."""
        return str(self.data["id"])

    @property
    def label(self) -> str:
        """The label of the cell's method."""
        return label(self.data["plan"])


def label(plan: Mapping[str, Any]) -> str:
    """The label of a plan's method."""
    return str(plan.get("label") or plan["method"])


def suites(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The suites of a record; none where it was not evaluated."""
    return (record["evaluation"] or {}).get("suites") or {}


# Writing


def write_record(out: Path, record: Record) -> Path:
    """Write `<out>/cells/<id>.json` atomically and return its path.

    NaN and infinity become null, each with a line in `warnings`. Raises HarnessError, and writes
    nothing, where the record does not match its JSON Schema.
    """
    found: list[str] = []
    parts = {field.name: getattr(record, field.name) for field in fields(Record)}
    data = {"schema": SCHEMA, **_plain(parts, "", found)}
    data["warnings"] += found
    validate(data, "record")
    return write_json(Path(out) / "cells" / f"{_checked_name(record.id)}.json", data)


def plain(value: Any) -> Any:
    """`value` as JSON types; NaN and infinity become null."""
    return _plain(value, "", [])


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    _write_atomically(Path(path), text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as JSON, atomically; NaN and infinity become null."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    _write_atomically(Path(path), (text + "\n").encode())
    return Path(path)


def write_samples(
    out: Path, cell_id: str, suite: str, rows: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write `<out>/samples/<cell_id>/<suite>.jsonl.gz`, the same bytes for the same rows.

    Returns `file` (relative to `out`), `sha256` (of the file's bytes) and `rows` for the record,
    and `non_finite`, the count of NaN and infinite numbers written as null, where there are any.
    """
    name = f"samples/{_checked_name(cell_id)}/{_checked_name(suite)}.jsonl.gz"
    found: list[str] = []
    lines = [
        json.dumps(_plain(row, "", found), ensure_ascii=False, allow_nan=False) + "\n"
        for row in rows
    ]
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=buffer, mtime=0) as file:
        file.write("".join(lines).encode())
    content = buffer.getvalue()
    _write_atomically(Path(out) / name, content)
    told: dict[str, Any] = {"file": name, "sha256": _sha256(content), "rows": len(lines)}
    lost = sum(line.endswith(_NON_FINITE) for line in found)
    return told | ({"non_finite": lost} if lost else {})


def write_section(out: Path, cell_id: str, suite: str, section: Mapping[str, Any]) -> Path:
    """Write `<out>/samples/<cell_id>/<suite>.json`: a finished suite, before its cell is.

    Written after its sample file, so that it vouches for that. `read_section` reads it.
    """
    kept = _plain({"schema": SECTION, "cell": cell_id, **section}, "", [])
    name = f"{_checked_name(suite)}.json"
    path = Path(out) / "samples" / _checked_name(cell_id) / name
    return write_json(path, {**kept, "sha256": _sealed(kept)})


def _sealed(section: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(section, sort_keys=True).encode())


def _write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old file or the whole new one, after a crash too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600, and results are shared
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _plain(value: Any, path: str, found: list[str]) -> Any:
    """`value` as JSON types; what could not be kept as it was is told in `found`."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isfinite(number):
            return number
        found.append(f"{path} was {number}")
        return None
    if isinstance(value, Mapping):
        prefix = f"{path}." if path else ""
        return {str(key): _plain(item, f"{prefix}{key}", found) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_plain(item, f"{path}[{index}]", found) for index, item in enumerate(items)]
    if isinstance(value, PurePath):
        return str(value)
    if type(value).__module__ == "numpy":
        return _plain(value.tolist(), path, found)
    # a day's training is not thrown away for an odd value in somebody's notes
    found.append(f"{path} was a {type(value).__name__}, written as text")
    return str(value)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise HarnessError(f"'{name}' cannot name a result: use letters, digits, '.', '_' and '-'")
    return name


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Schemas


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema `record` or `leaderboard` that ships in the package."""
    file = importlib.resources.files("harness") / "schemas" / f"{name}.schema.json"
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def validate(value: Mapping[str, Any], name: str) -> None:
    """Raises HarnessError, naming the place in `value`, where it does not match schema `name`."""
    if (problem := _first_problem(value, name)) is not None:
        raise HarnessError(f"{name} {value.get('id', '')} does not match its schema: {problem}")


def training_problem(training: Mapping[str, Any]) -> str | None:
    """What keeps a record from holding this `training` section; None where nothing does."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    whole = schema("record")
    part = {**whole["properties"]["training"], "$defs": whole.get("$defs", {})}
    error = best_match(Draft202012Validator(part).iter_errors(plain(training)))
    return None if error is None else f"{error.json_path}: {error.message[:200]}"


def _first_problem(value: Any, name: str) -> str | None:
    from jsonschema.exceptions import best_match

    error = best_match(_validator(name).iter_errors(value))
    if error is None:
        return None
    message = error.message if len(error.message) < 200 else f"{error.message[:200]} ..."
    return f"{error.json_path}: {message}"


@lru_cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))


# Reading


class _NotFinite(Exception):
    """NaN or infinity, which are no JSON and are never written."""


def _no_number(constant: str) -> None:
    raise _NotFinite(constant)


_STRICT = json.JSONDecoder(parse_constant=_no_number)


def read_record(path: Path) -> dict[str, Any]:
    """A record file's content. Raises UserError where it is no record of this schema version."""
    again = "delete it and run the experiment again"
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg}); {again}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; {again}") from None
    except _NotFinite as error:
        raise UserError(f"{path}: holds {error}, which no record does; {again}") from None
    if not isinstance(data, dict) or "schema" not in data:
        raise UserError(f"{path}: not a record (it has no 'schema'); name a file under cells/")
    if (version := data["schema"]) != SCHEMA:
        raise UserError(
            f"{path}: schema {version!r}, this harness reads {SCHEMA}; "
            "install the finetune-harness that wrote it, or run the experiment again"
        )
    if (problem := _first_problem(data, "record")) is not None:
        raise UserError(f"{path}: not a valid record ({problem}); {again}")
    return data


def read_records(folders: Iterable[Path]) -> list[Stored]:
    """Every record of some results folders (a folder with `cells/`) or record files.

    A cell met twice is kept once, also where an untrained model was measured twice with the same
    figures. Raises UserError where a folder has no records, a record is broken, or one cell id
    has two different results.
    """
    found: dict[str, Stored] = {}
    for place in map(Path, folders):
        for stored in _stored_in(place):
            known = found.setdefault(stored.id, stored)
            if known.data != stored.data and not _agree(known.data, stored.data):
                raise UserError(
                    f"cell {stored.id} has different results in {known.folder} and "
                    f"{stored.folder}; leave one of them out"
                )
    return list(found.values())


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two measurements of one untrained model differ in their cost alone.

    Each results folder has the base of its cells, so several folders have the same base.
    """
    both = (one, other)
    if any(record["status"] != "ok" or record["training"] for record in both):
        return False
    figures, others = (
        {name: [suite["hash"], suite["metrics"]] for name, suite in suites(record).items()}
        for record in both
    )
    return bool(figures) and figures == others


def _stored_in(place: Path) -> Iterator[Stored]:
    if place.is_file():
        folder = place.parent.parent if place.parent.name == "cells" else place.parent
        yield Stored(folder, read_record(place))
        return
    files = sorted((place / "cells").glob("*.json"))
    if not files:
        inside = [str(cells.parent) for cells in sorted(place.glob("*/cells"))]
        mend = f"did you mean {' or '.join(inside)}?" if inside else "run an experiment first"
        raise UserError(f"{place}: no records there (cells/*.json); {mend}")
    for file in files:
        yield Stored(place, read_record(file))


def read_samples(out: Path, record: Mapping[str, Any], suite: str) -> list[dict[str, Any]]:
    """The sample rows of one suite of a record that lies in the results folder `out`.

    Raises UserError where the record has no such suite, or its file is missing or was changed.
    """
    known = suites(record)
    if suite not in known:
        raise UserError(f"cell {record['id']} has no suite '{suite}': {nearest(suite, known)}")
    told = known[suite].get("samples")
    if told is None:
        raise UserError(f"cell {record['id']} has no sample file for '{suite}'; run it again")
    return _read_rows(Path(out) / told["file"], told["sha256"], record["id"])


def _read_rows(path: Path, sha256: str, cell_id: str) -> list[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); keep samples/ beside cells/"
        ) from None
    if _sha256(content) != sha256:
        raise UserError(
            f"{path}: changed since it was recorded (sha256 differs); restore it, or delete "
            f"cells/{cell_id}.json and run the experiment again"
        )
    lines = gzip.decompress(content).decode().rstrip("\n").replace("\n", ",")
    # one call: lines one by one take twice
    rows: list[dict[str, Any]] = _STRICT.decode(f"[{lines}]")
    return rows


def read_section(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `write_section` wrote, and the rows of the sample file beside it.

    Raises UserError where either is broken or was changed since.
    """
    try:
        section = json.loads(Path(path).read_text(encoding="utf-8"))
        told = section.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a finished suite ({type(error).__name__})") from None
    if told != _sealed(section):
        raise UserError(f"{path}: changed since it was written (sha256 differs)")
    samples = Path(path).with_name(Path(section["samples"]["file"]).name)
    return section, _read_rows(samples, section["samples"]["sha256"], section["cell"])


def rows_reader(
    records: Iterable[Stored],
) -> Callable[[Mapping[str, Any], str], list[dict[str, Any]]]:
    """`read_rows(record, suite) -> rows` for records from `read_records`; reads a file once."""
    folders = {stored.id: stored.folder for stored in records}
    known: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def read_rows(record: Mapping[str, Any], suite: str) -> list[dict[str, Any]]:
        key = (record["id"], suite)
        if key not in known:
            known[key] = read_samples(folders[record["id"]], record, suite)
        return known[key]

    return read_rows
