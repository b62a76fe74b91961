"""Reads a results folder that anybody may have changed: what is broken is found, the rest read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from harness.errors import UserError
from harness.record import VERSION, Record, SampleFile, SuiteSection
from harness.results import store
from harness.results.schema import first_problem
from harness.results.store import Rows, Stored, suites
from harness.verification.comparing import differences
from harness.verification.report import Report


@dataclass
class Folder:
    """A results folder as far as it can be read."""

    path: Path
    records: dict[str, Record] = field(default_factory=dict)
    """By the name of the file, which is the cell's id."""
    samples: dict[tuple[str, str], Rows] = field(default_factory=dict)
    """(cell, suite) -> rows."""
    missing: set[str] = field(default_factory=set)
    """Cells that the folder has something of, and no record."""

    @property
    def stored(self) -> list[Stored]:
        """The records as other modules take them."""
        return [Stored(self.path, record) for record in self.records.values()]

    def rows(self, record: Record, suite: str) -> Rows:
        """The samples of a suite. Raises UserError where they are not there."""
        known = self.samples.get((record["id"], suite))
        if known is None:
            raise UserError(f"cell {record['id']}: no samples of '{suite}'")
        return known

    def measured(self) -> Iterator[tuple[Record, str, SuiteSection, Rows]]:
        """Each suite of each record whose samples are there."""
        for cell, record in self.records.items():
            for name, section in suites(record).items():
                if (cell, name) in self.samples:
                    yield record, name, section, self.samples[cell, name]


def read(path: Path, report: Report, *, shipped: bool = True) -> Folder:
    """The folder's records and samples; `shipped` is False where it says that it has no samples.

    Raises UserError where it holds no record.
    """
    files = sorted((path / "cells").glob("*.json"))
    if not files:
        raise UserError(f"{path}: no records there (cells/*.json): name a results folder")
    folder = Folder(path)
    for file in files:
        record = _record(file, report)
        if record is not None:
            folder.records[file.stem] = record
    sealed = ["sha256" in record for record in folder.records.values()]
    for cell, record in folder.records.items():
        if "sha256" not in record and any(sealed):
            report.fails(_cell(cell), "sha256", "has no seal, where other records have one")
    if folder.records and not any(sealed):
        report.trusts("the records have no seal, as an older version wrote them")
    any_there = any((path / "samples").glob("*/*.jsonl.gz"))
    for cell, record in folder.records.items():
        for name, section in suites(record).items():
            _samples(folder, cell, name, section, report, expected=shipped and any_there)
    _orphans(folder, report)
    return folder


def _record(file: Path, report: Report) -> Record | None:
    name = f"cells/{file.name}"
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        report.fails(name, problem=f"cannot be read as JSON ({_short(error)})")
        return None
    if isinstance(data, dict) and data.get("schema", VERSION) != VERSION:
        reason = f"schema {data['schema']!r}, this harness reads {VERSION}"
        report.cannot(name, "every figure", reason)
        return None
    if (problem := first_problem(data, "record")) is not None:
        report.fails(name, problem=f"is no valid record ({problem})")
        return None
    if data["id"] != file.stem:
        report.fails(name, "id", "", stated=data["id"], recomputed=file.stem)
    if "sha256" in data:
        if not store.is_sealed(data):
            problem = "the seal is not that of the record: it changed since it was written"
            report.fails(name, "sha256", problem)
        report.counts("seals")
    for suite in data["plan"].get("suites", ()):
        if data["status"] == "ok" and suite not in suites(cast("Record", data)):
            report.fails(name, suite, "is in the plan, and has no figures")
    report.counts("records")
    return cast("Record", data)


# Samples


def _samples(
    folder: Folder,
    cell: str,
    suite: str,
    section: SuiteSection,
    report: Report,
    *,
    expected: bool,
) -> None:
    stated = section.get("samples")
    figures = ", ".join(section["metrics"]) or suite
    if stated is None:
        report.cannot(_cell(cell), f"{suite}: {figures}", "the record names no sample file")
        return
    file = folder.path / stated["file"]
    if not file.resolve().is_relative_to(folder.path.resolve()):
        report.fails(_cell(cell), f"{suite}.samples.file", "leads out of the folder")
        return
    if not file.is_file():
        if expected:
            report.fails(stated["file"], problem=f"is missing; {_cell(cell)} names it")
        report.cannot(_cell(cell), f"{suite}: {figures}", "the samples are not shipped")
        return
    rows = _rows(file, stated, report)
    if rows is None:
        report.cannot(_cell(cell), f"{suite}: {figures}", "the sample file is broken")
        return
    folder.samples[cell, suite] = rows
    _section(folder, cell, suite, section, report)


def _rows(file: Path, stated: SampleFile, report: Report) -> Rows | None:
    name, content = stated["file"], file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != stated["sha256"]:
        report.fails(name, "sha256", "", stated=stated["sha256"][:12], recomputed=digest[:12])
    report.counts("sample files")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            text = packed.read(store.MOST_BYTES + 1)
        if len(text) > store.MOST_BYTES:
            raise ValueError(f"more than {store.MOST_BYTES} bytes")
        lines = text.decode().removesuffix("\n").split("\n")
        rows = [json.loads(line, parse_constant=_no_number) for line in lines]
    except (OSError, EOFError, ValueError, RecursionError) as error:
        report.fails(name, problem=f"cannot be read ({_short(error)})")
        return None
    if not all(map(_is_row, rows)):
        report.fails(name, problem="a line is no sample: each has an id and scores")
        return None
    if len(rows) != stated["rows"]:
        report.fails(name, "rows", "", stated=stated["rows"], recomputed=len(rows))
    report.counts("samples", len(rows))
    return rows


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return False
    scores = row.get("scores")
    return isinstance(scores, dict) and all(
        value is None or (isinstance(value, (int, float)) and math.isfinite(value))
        for value in scores.values()
    )


def _section(folder: Folder, cell: str, suite: str, section: SuiteSection, report: Report) -> None:
    """The suite's own file beside its samples, where there is one, says what the record says."""
    name = f"samples/{cell}/{suite}.json"
    file = folder.path / name
    if not file.is_file():
        return
    try:
        beside = json.loads(file.read_text(encoding="utf-8"))
        sealed = store.is_sealed(beside)
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        report.fails(name, problem=f"cannot be read ({_short(error)})")
        return
    if not sealed:
        report.fails(name, "sha256", "the seal is not that of the file: it changed")
    evaluation: Mapping[str, Any] = folder.records[cell]["evaluation"] or {}
    wanted: dict[str, object] = dict(section)
    wanted |= {key: evaluation.get(key) for key in ("artifact_hash", "tokenizer_hash")}
    for path, stated, other in differences(
        {key: beside.get(key) for key in wanted}, store.plain(wanted)
    ):
        problem = f"is not what {_cell(cell)} says ({other!r:.80})"
        report.fails(name, path, problem, stated=stated)


def _orphans(folder: Folder, report: Report) -> None:
    """What is left of cells whose record is not there."""
    for place in ("samples", "artifacts"):
        for inside in sorted((folder.path / place).glob("*")):
            if inside.is_dir() and inside.name not in folder.records:
                folder.missing.add(inside.name)
                if not (folder.path / _cell(inside.name)).is_file():
                    problem = f"is missing, and {place}/{inside.name} is there"
                    report.fails(_cell(inside.name), problem=problem)


def _cell(cell: str) -> str:
    return f"cells/{cell}.json"


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
