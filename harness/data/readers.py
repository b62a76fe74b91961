"""Files of rows: reads .jsonl, .json, .csv and .parquet, resolves columns, checks texts.

Standard library only; pyarrow is imported when a .parquet is read.
"""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config.columns import COLUMNS, check_columns
from harness.data.tool_calls.given import read_calls, read_tools, without_nulls
from harness.errors import DataError, nearest
from harness.system.paths import no_such_file
from harness.types import Message, ToolDefinitions

__all__ = [
    "EXTENSIONS",
    "Record",
    "read_records",
    "row_error",
]

EXTENSIONS = (".jsonl", ".json", ".csv", ".parquet")


_ROLES = {
    "human": "user",  # ShareGPT's names
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",  # OpenAI's older name
}
_ROLE_NAMES = ("system", "user", "assistant", "tool")


def row_error(file: Path, line: int | None, message: str) -> DataError:
    """An error about a row of a file: with its line, or its number where rows are no lines."""
    if line is None or file.suffix.lower() in _LINED:
        return DataError(message, file=file, line=line)
    return DataError(f"row {line}: {message}", file=file)


@dataclass(frozen=True)
class Record:
    """One row as read: its columns and its line."""

    file: Path
    line: int
    """Line of the file (.jsonl, .csv) or number of the row (.json, .parquet), from 1."""
    unit: Literal["line", "row"]
    values: Mapping[str, object]
    columns: Mapping[str, str]
    """Canonical column name -> the file's, where the user mapped it."""

    def error(self, message: str) -> DataError:
        """An error that names file and line."""
        return row_error(self.file, self.line, message)

    def column(self, ours: str) -> str | None:
        """This row's name of a canonical column; None where it is missing or null."""
        theirs = (self.columns[ours],) if ours in self.columns else COLUMNS[ours]
        return next((name for name in theirs if self.values.get(name) is not None), None)

    def has(self, ours: str) -> bool:
        """Whether the row has a canonical column, even with null."""
        theirs = (self.columns[ours],) if ours in self.columns else COLUMNS[ours]
        return any(name in self.values for name in theirs)

    def text(self, ours: str, *, blank: bool = False) -> str:
        """The text of a column; DataError where it is missing, not text, or blank."""
        name = self.column(ours)
        if name is None:
            raise self.missing(ours)
        value = self.values[name]
        if not isinstance(value, str):
            raise self.error(f"'{name}' must be text, got {shown(value)}")
        if not blank and not value.strip():
            raise self.error(f"'{name}' is empty: fill it in or remove the row")
        return value

    def missing(self, ours: str) -> DataError:
        """The error for a missing column."""
        wanted = self.columns.get(ours) or " or ".join(COLUMNS[ours])
        return self.without(wanted)

    def without(self, name: str, needs: str = "") -> DataError:
        """The error for a value that is not there; `needs` says what such a row must have."""
        there = ", ".join(self.values) or "none"
        explained = f": {needs}" if needs else ""
        return self.error(f"no value for '{name}'{explained} (columns there: {there})")

    def listed(self, ours: str) -> object:
        """A column's value, decoded where it is a JSON list or object in a text."""
        name = self.column(ours)
        value = self.values[name] if name else None
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                return _parsed(value)
            except ValueError as error:
                raise self.error(f"'{name}' is not JSON: {error}") from error
        return value

    def messages(self, value: object, name: str) -> tuple[Message, ...]:
        """Turns as role and content, checked: known roles, texts, system only at the start.

        With their tool calls, each answer to a call after it.
        """
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise self.error(f"'{name}' must be a list of messages, got {shown(value)}")
        turns = tuple(self._message(turn, i, name) for i, turn in enumerate(value))
        waiting = 0
        for i, turn in enumerate(turns):
            waiting = waiting - 1 if turn["role"] == "tool" else len(turn.get("tool_calls", ()))
            if waiting < 0:
                raise self.error(
                    f"message {i + 1} of '{name}' answers a tool call, and none without an answer "
                    "stands before it"
                )
        return turns

    def _message(self, turn: object, i: int, name: str) -> Message:
        where = f"message {i + 1} of '{name}'"
        if not isinstance(turn, Mapping):
            raise self.error(f"{where} must be an object with role and content, got {shown(turn)}")
        given, content = _first(turn, "role", "from"), _first(turn, "content", "value")
        calls = self._calls(turn, given, content, where)
        content = "" if calls and (content is None or given == "function_call") else content
        if given is None or content is None:
            lacks = "role" if given is None else "content"
            there = ", ".join(f"{key}: null" if turn[key] is None else str(key) for key in turn)
            raise self.error(f"{where} has no {lacks} (there: {there or 'nothing'})")
        role = _ROLES.get(given, given) if isinstance(given, str) else given
        if role not in _ROLE_NAMES:
            raise self.error(
                f"{where} has the unknown role {role!r} (known: {', '.join(_ROLE_NAMES)})"
            )
        if calls and role != "assistant":
            raise self.error(f"{where} has tool calls, and only the assistant can call")
        content = self._content(content, role, where)
        if not content.strip():
            if not calls and role != "tool":
                raise self.error(f"the content of {where} is empty")
            content = ""
        if role == "system" and i:
            raise self.error(f"{where} is a system message: only the first may be one")
        answers = ("tool_call_id", "name") if role == "tool" else ()
        more = {key: turn[key] for key in answers if isinstance(turn.get(key), str)}
        called = {"tool_calls": calls} if calls else {}
        return {"role": role, "content": content, **called, **more}

    def _content(self, content: object, role: str, where: str) -> str:
        """A turn's text: as it is, joined from parts, or the JSON of what a tool gave."""
        if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
            return self._joined(content, where)
        if role == "tool" and isinstance(content, Mapping):
            return json.dumps(content, ensure_ascii=False, default=str)
        if not isinstance(content, str):
            raise self.error(f"the content of {where} must be text, got {shown(content)}")
        return content

    def _calls(
        self, turn: Mapping[str, Any], role: object, content: object, where: str
    ) -> list[dict[str, Any]]:
        """The tool calls of a turn."""
        try:
            return list(read_calls(self._without_nulls(turn), role, content))
        except ValueError as error:
            raise self.error(f"{where}: {error}") from None

    def tools(self) -> ToolDefinitions:
        """The functions that the row offers; None where it offers none."""
        name = self.column("tools")
        try:
            return read_tools(self._without_nulls(self.values[name])) if name else None
        except ValueError as error:
            raise self.error(f"'{name}': {error}") from None

    def _without_nulls(self, value: Any) -> Any:
        return without_nulls(value) if self.file.suffix.lower() == ".parquet" else value

    def _joined(self, parts: Sequence[object], where: str) -> str:
        """The text of content that is given in parts, as for vision models."""
        texts = []
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if not isinstance(part, Mapping) or kind != "text":
                raise self.error(
                    f"the content of {where} has a part of type {shown(kind)}: only parts "
                    '{"type": "text", "text": ...} are read'
                )
            if not isinstance(part.get("text"), str):
                raise self.error(f"a part of the content of {where} has no text")
            texts.append(part["text"])
        return "".join(texts)

    def explicit_id(self) -> str | None:
        """The row's own id as text, or None."""
        name = self.column("id")
        value = self.values[name] if name else None
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise self.error(f"'{name}' must be text or a whole number, got {shown(value)}")
        return str(value)

    def rest(self, *used: str) -> dict[str, object]:
        """The columns that are none of the canonical `used` ones."""
        names = {self.column(ours) for ours in used}
        kept = {name: value for name, value in self.values.items() if name not in names}
        return _plain(kept) if self.file.suffix.lower() == ".parquet" else kept


def read_records(source: Path, columns: Mapping[str, str] | None = None) -> list[Record]:
    """All rows of a file.

    DataError where it is missing, empty, of another kind, or broken.
    """
    columns = dict(columns or {})
    try:
        check_columns(columns)
    except ValueError as error:
        raise DataError(str(error), file=source) from error
    reader = _READERS.get(source.suffix.lower())
    if source.is_dir():
        raise DataError("a folder, not a file: name one of its files", file=source)
    if not source.exists():
        raise DataError(no_such_file(source))
    if reader is None:
        kind = f"'{source.suffix}'" if source.suffix else "a file without extension"
        raise DataError(f"cannot read {kind}: {', '.join(EXTENSIONS)} are read", file=source)
    unit: Literal["line", "row"] = "line" if source.suffix.lower() in _LINED else "row"
    records = []
    try:
        for line, value in reader(source):
            if not isinstance(value, Mapping):
                record = Record(source, line, unit, {}, columns)
                raise record.error(f"must be an object with columns, got {shown(value)}")
            records.append(Record(source, line, unit, value, columns))
            _check_unicode(records[-1])
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text: save it as UTF-8", file=source) from error
    if not records:
        raise DataError("the file has no rows", file=source)
    _check_mapped(records[0])
    return records


def _parsed(text: str) -> object:
    """The value of a JSON text. Raises ValueError where it is invalid or beyond Python's limits."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists and objects are nested too deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        # int() refuses what takes it quadratic time
        raise ValueError("a whole number of more than 4,300 digits: write it as text") from error


def _check_unicode(record: Record) -> None:
    """Half of a surrogate pair: JSON's escapes can write it, and no encoding of text can."""
    if record.file.suffix.lower() not in (".jsonl", ".json"):
        return
    for name, value in record.values.items():
        lone = next((c for text in _texts((name, value)) for c in _LONE.findall(text)), None)
        if lone is not None:
            raise record.error(
                f"'{name.encode('ascii', 'backslashreplace').decode()}' holds the lone surrogate "
                f"\\u{ord(lone):04x}, half of a character (an emoji that was cut?), which is no "
                "Unicode text: fix the text or remove the row"
            )


_LONE = re.compile("[\ud800-\udfff]")


def _texts(value: object) -> Iterator[str]:
    """Every text in a value of JSON that is not plain ASCII."""
    values = [value]  # no recursion: rows may be nested deep
    while values:
        nested = values.pop()
        if isinstance(nested, Mapping):
            values += [*nested.keys(), *nested.values()]
        elif isinstance(nested, (list, tuple)):
            values += nested
        elif isinstance(nested, str) and not nested.isascii():
            yield nested


def _plain(value: object) -> Any:
    """A value of Parquet converted to JSON's types: a date as its ISO text."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(nested) for key, nested in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(nested) for nested in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    iso = getattr(value, "isoformat", None)
    return iso() if callable(iso) else str(value)


def _first(turn: Mapping[str, object], *names: str) -> Any:
    """The first of the names' values that is not null."""
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _check_mapped(record: Record) -> None:
    for ours, theirs in record.columns.items():
        if theirs not in record.values:
            there = nearest(theirs, record.values)
            raise record.error(f"no column '{theirs}', which `columns` maps to '{ours}': {there}")


def _read_jsonl(source: Path) -> Iterator[tuple[int, object]]:
    with source.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, _parsed(line)
                except ValueError as error:
                    raise DataError(f"not JSON: {error}", file=source, line=number) from error


def _read_json(source: Path) -> Iterator[tuple[int, object]]:
    try:
        value = _parsed(source.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", file=source, line=error.lineno) from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DataError(f"cannot be read: {error}", file=source) from error
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError(
            'expected a list of objects or {"data": [...]}; '
            "one object per line belongs in a .jsonl",
            file=source,
        )
    yield from enumerate(rows, 1)


def _read_csv(source: Path) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(2**31 - 1)
    with source.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise DataError(f"broken CSV: {error}", file=source, line=start) from error
            if cells is None:
                return
            if not cells:
                continue
            if not header:
                header = _header(cells, source, start)
                continue
            if len(cells) != len(header):
                message = f"{len(cells)} cells where the header has {len(header)}"
                raise DataError(f"{message}: check commas and quotes", file=source, line=start)
            # An empty cell is how CSV writes null.
            yield start, {n: c if c != "" else None for n, c in zip(header, cells, strict=True)}


def _header(cells: list[str], source: Path, line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        listed = ", ".join(map(repr, sorted(duplicates)))
        message = f"duplicate column {listed} in the header: rename or remove it"
        raise DataError(message, file=source, line=line)
    return names


def _read_parquet(source: Path) -> Iterator[tuple[int, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(source).to_pylist()
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"not a readable parquet file: {first}", file=source) from error
    yield from enumerate(rows, 1)


_LINED = (".jsonl", ".csv")
_READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def shown(value: object) -> str:
    """A short description of a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, (Mapping, list, tuple)):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        return kind if value else f"{kind}, empty"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
