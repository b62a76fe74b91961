"""`harness import lm-eval`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli import options
from harness.errors import NotComparable, UserError
from harness.importing import lm_eval_files, lm_eval_record
from harness.importing.lm_eval_files import LoggedRun
from harness.results import lookup, store
from harness.results.store import Stored
from harness.system.locks import FOLDER, Locks


@click.command("lm-eval")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The results folder to add to."
)
@click.option("--label", metavar="TEXT", help="What its row is called. Default: its model's name.")
@click.option("--base", metavar="NAME", help="What its figures are compared with: a row of --out.")
@options.as_json
def command(folder: Path, out: Path, label: str | None, base: str | None, as_json: bool) -> None:
    """A folder of lm-eval's results as rows of a results folder.

    DIR is an --output_path of `lm_eval run --log_samples`. Figures are computed from its samples.
    Where a record in --out asks the same questions in the same way, both are compared one by one.
    """
    runs, problems = lm_eval_files.read_runs(folder)
    compared = _base(base, out) if base else None
    imported = []
    with Locks(out / FOLDER).held("import"):
        for run in runs:
            try:
                imported.append(_imported(run, out, label, compared))
            except (UserError, NotComparable) as error:
                if len(runs) == 1:
                    raise
                problems.append(str(error))
    for problem in problems:
        click.echo(f"Left out: {problem}", err=True)
    if not imported:
        raise UserError(f"{folder}: nothing could be imported: {problems[0]}")
    if as_json:
        click.echo(json.dumps([vars(one) for one in imported], indent=2, ensure_ascii=False))
        return
    for one in imported:
        suites = ", ".join(f"{count} questions of '{name}'" for name, count in one.suites.items())
        click.echo(f"{one.label}: {suites}, as cells/{one.id}.json")
        for note in one.notes:
            click.echo(f"  {note}")
    click.echo(f"harness leaderboard {out} shows them")


def _imported(
    run: LoggedRun, out: Path, label: str | None, base: Stored | None
) -> lm_eval_record.Imported:
    """A run's record, beside those that can be used of what is there."""
    there = (out / "cells").is_dir() and any((out / "cells").glob("*.json"))
    known = store.with_samples(store.read_usable([out])[0])[0] if there else []
    return lm_eval_record.import_run(run, out, known, label=label, base=base)


def _base(name: str, out: Path) -> Stored:
    """The row of that name in the results folder, of one seed."""
    arm = lookup.find(name, [out])
    if len(arm.group.cells) > 1:
        seeds = ", ".join(cell["id"] for cell in arm.group.cells)
        raise UserError(f"--base {name}: several seeds; name one of {seeds}")
    return Stored(out, arm.group.cells[0])
