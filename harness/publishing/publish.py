"""Fills a published folder beside what the export wrote, and checks its target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.export.export import REPORT, Source, check_empty_or
from harness.models import adapters
from harness.publishing import content, publication
from harness.publishing.publication import NAME, RESULTS, Publication
from harness.record import Record
from harness.results import store
from harness.results.groups import base_id
from harness.results.store import Rows, Stored, suites


@dataclass(frozen=True)
class Records:
    """The record that is published, and its base's."""

    cell: Stored
    base: Stored | None

    @property
    def both(self) -> list[Stored]:
        """The cell and the base, where it has one."""
        return [self.cell, *([self.base] if self.base else [])]


def records(source: Source) -> Records:
    """The records of a cell and of the base that it was compared with.

    Raises UserError where the cell has no figures, or its base is not beside it.
    """
    by_id = {stored.id: stored for stored in source.records.stored}
    cell = by_id[source.id]
    if not suites(cell.data):
        raise UserError(f"cell {source.id} has no figures to publish: name a cell with suites")
    name = base_id(cell.data)
    if name is not None and name not in by_id:
        raise UserError(
            f"cell {source.id}: its base {name} is not beside it, and its differences are to that: "
            "keep cells/ whole"
        )
    return Records(cell, by_id[name] if name else None)


def check_samples(published: Records) -> dict[str, Rows]:
    """The cell's samples by suite. Raises UserError where a sample file is gone or was changed."""
    rows = {}
    for stored in published.both:
        for suite in suites(stored.data):
            try:
                read = store.read_samples(stored.folder, stored.data, suite)
            except UserError as error:
                raise UserError(f"{error}; or publish without samples: --no-samples") from None
            if stored is published.cell:
                rows[suite] = read
    return rows


def check_target(to: Path, source: Source) -> bool:
    """Whether `to` holds an earlier publication of the same cell, which may be replaced.

    Raises UserError where it holds anything else.
    """
    there = publication.files_of(to)
    if not check_empty_or(NAME, to, there):
        return False
    told = publication.content(to)
    if told.get("cell") != source.id:
        raise UserError(
            f"--to {to}: holds the publication of cell {told.get('cell')}: name another"
        )
    strange = sorted(set(there) - {*told.get("files", {}), NAME})
    if strange:
        raise UserError(f"--to {to}: holds {strange[0]}, which no publication wrote: move it away")
    return True


def fill(
    folder: Path, told: Publication, published: Records, rows: Mapping[str, Rows]
) -> Publication:
    """Write all that stands beside the export in `folder`, and seal it."""
    _name_base(folder, told, published.cell.data)
    _portable_report(folder)
    for stored in published.both:
        _copy(stored, folder / RESULTS, samples=told.samples)
    base = published.base.data if published.base else None
    for name, text in content.derived(told, published.cell.data, base, rows).items():
        store.write_text(folder / name, text)
    told.write(folder)
    return told


def _name_base(folder: Path, told: Publication, record: Record) -> None:
    """An adapter names its base by a name that others know, not by this machine's folder."""
    file = folder / adapters.CONFIG
    if told.made == "adapter" and file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = told.base_hub_id or record["plan"]["model"]["name"]
        store.write_json(file, config)


def _portable_report(folder: Path) -> None:
    """`export.json` without the list of files, which are more now."""
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    report.pop("files", None)
    store.write_json(folder / REPORT, report)


def _copy(stored: Stored, results: Path, *, samples: bool) -> None:
    """A record and, with `samples`, its sample files with what lies beside them, byte by byte."""
    names = [f"cells/{stored.id}.json"]
    for suite, section in suites(stored.data).items():
        kept = section.get("samples") if samples else None
        names += [kept["file"], f"samples/{stored.id}/{suite}.json"] if kept else []
    for name in names:
        if (stored.folder / name).is_file():
            (results / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stored.folder / name, results / name)
