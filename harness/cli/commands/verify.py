"""`harness verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli import options
from harness.manager import plugins
from harness.publishing import publication
from harness.results import store
from harness.verification import published, verify
from harness.verification.suites_at_hand import SuitesAtHand


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@options.suite_folders
@options.mirror
@options.as_json
def command(
    folder: Path, suite_folders: Sequence[Path], mirror: Path | None, as_json: bool
) -> None:
    """Recompute the figures of a results FOLDER, or of a published one, from its samples.

    Exit 0: they hold; 1: they do not, and which; 2: it cannot be told, and why.
    """
    at_hand = SuitesAtHand(plugins(), suite_folders, mirror)
    if publication.is_published(folder):
        report = published.check(folder, at_hand)[0].report
    else:
        report = verify.results(folder, at_hand).report
    if as_json:
        click.echo(json.dumps(store.plain(report.to_json()), indent=2, ensure_ascii=False))
    else:
        for line in report.lines():
            click.echo(line)
    sys.exit(report.exit_code)
