"""Changes a results folder as somebody would who wants to deceive: seals are made anew."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.record import Record
from harness.results import leaderboard, leaderboard_file, store
from harness.results.store import Stored, suites
from harness.stats import metric_summary

Json = dict[str, Any]


def cell(folder: Path, label: str) -> str:
    """The id of the cell with that label."""
    (file,) = (folder / "cells").glob(f"{label}-s0-*.json")
    return file.stem


def load(file: Path) -> Json:
    found: Json = json.loads(file.read_text(encoding="utf-8"))
    return found


@contextmanager
def changed(file: Path, *, sealed: bool = True) -> Iterator[Json]:
    """The content of a JSON file, written back; with its seal made anew where it has one."""
    content = load(file)
    yield content
    if sealed and "sha256" in content:
        content = store.seal(content)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


@contextmanager
def record(folder: Path, label: str, *, sealed: bool = True) -> Iterator[Json]:
    with changed(folder / "cells" / f"{cell(folder, label)}.json", sealed=sealed) as content:
        yield content


@contextmanager
def samples(folder: Path, label: str, suite: str, *, sealed: bool = True) -> Iterator[list[Json]]:
    """The rows of a sample file; its hash and count in the record follow unless `sealed` is off."""
    name = f"samples/{cell(folder, label)}/{suite}.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress((folder / name).read_bytes()).splitlines()]
    yield rows
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    content = gzip.compress(text.encode(), mtime=0)
    (folder / name).write_bytes(content)
    if sealed:
        with record(folder, label) as data:
            stated = data["evaluation"]["suites"][suite]["samples"]
            stated |= {"sha256": hashlib.sha256(content).hexdigest(), "rows": len(rows)}


def forge(folder: Path) -> None:
    """Compute every figure from the samples as they are now, and make every file agree."""
    records: dict[str, Record] = {}
    files = sorted((folder / "cells").glob("*.json"))
    for file in files:
        records[file.stem] = load(file)  # type: ignore[assignment]
    rows = store.rows_reader([Stored(folder, data) for data in records.values()])
    for data in records.values():
        base = records.get((data["evaluation"] or {}).get("base") or "")
        for name, section in suites(data).items():
            theirs = suites(base).get(name) if base else None
            same = theirs is not None and theirs["hash"] == section["hash"]
            section["metrics"] = store.plain(
                metric_summary.summarise(
                    metric_summary.metrics_of(section["metrics"]),
                    rows(data, name),
                    rows(base, name) if base and same else None,
                )
            )
    for file in files:
        with changed(file) as content:
            content |= {"evaluation": records[file.stem]["evaluation"]}
    agree(folder)


def agree(folder: Path) -> None:
    """Make the files beside samples and the leaderboard those of the records."""
    stored = []
    for file in sorted((folder / "cells").glob("*.json")):
        data = load(file)
        stored.append(Stored(folder, data))  # type: ignore[arg-type]
        for name, section in data["evaluation"]["suites"].items():
            beside = folder / "samples" / file.stem / f"{name}.json"
            if beside.is_file():
                with changed(beside) as content:
                    content |= section
                    content["artifact_hash"] = data["evaluation"]["artifact_hash"]
    read: Callable[..., Any] = store.rows_reader(stored)
    board = leaderboard.build([one.data for one in stored], read_rows=read)
    store.write_json(folder / "leaderboard.json", leaderboard_file.sealed(board, stored))
