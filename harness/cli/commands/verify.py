"""`harness verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from harness.cli import options
from harness.manager import plugins
from harness.publishing import publication
from harness.results import store
from harness.verification import asking, published, verify
from harness.verification.asking import Asking
from harness.verification.suites_at_hand import SuitesAtHand


@dataclass(frozen=True)
class VerifyOptions:
    """The options of the command line; None where one is not given."""

    folder: Path
    ask: int | None
    seed: int
    cell: str | None
    base: str | None
    rescore: bool
    batch: int | None
    suite_folders: Sequence[Path]
    mirror: Path | None
    as_json: bool


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--ask", type=click.IntRange(min=1), metavar="N", help="Ask the model N of the questions again."
)
@click.option("--seed", default=0, show_default=True, help="Of the questions that are drawn.")
@click.option("--cell", metavar="ID", help="Whose model is asked, where several are here.")
@click.option("--base", metavar="MODEL", help="The base, if the record does not lead to it.")
@click.option("--rescore", is_flag=True, help="Also scores that an embedding model gives.")
@options.batch
@options.suite_folders
@options.mirror
@options.as_json
@options.collected(VerifyOptions)
def command(given: VerifyOptions) -> None:
    """Recompute the figures of a results FOLDER, or of a published one, from its samples.

    Exit 0: they hold; 1: they do not, and which; 2: it cannot be told, and why.
    """
    at_hand = SuitesAtHand(plugins(), given.suite_folders, given.mirror)
    if publication.is_published(given.folder):
        verified, told = published.check(given.folder, at_hand)
    else:
        verified, told = verify.results(given.folder, at_hand), None
    if given.rescore:
        asking.rescore(verified, _say)
    if given.ask:
        asked = Asking(given.ask, given.seed, given.cell, given.base, given.mirror, given.batch)
        asking.ask(verified, asked, told, _say)
    report = verified.report
    if given.as_json:
        click.echo(json.dumps(store.plain(report.to_json()), indent=2, ensure_ascii=False))
    else:
        for line in report.lines():
            click.echo(line)
    sys.exit(report.exit_code)


def _say(text: str) -> None:
    click.echo(text, err=True)
