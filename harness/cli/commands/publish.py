"""`harness publish`."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness import __version__
from harness.cli import options
from harness.cli.commands import export as export_command
from harness.errors import UserError
from harness.export import export
from harness.export.export import Source
from harness.publishing import base_model, benchmarks, publication, publish, upload
from harness.publishing.publication import License, Publication
from harness.publishing.publish import Records
from harness.results import store
from harness.results.artifact_hash import identity


@dataclass(frozen=True)
class PublishOptions:
    """The options of the command line; None where one is not given."""

    cell: str
    to: Path
    push: str | None
    private: bool
    merge: bool
    no_samples: bool
    license: str | None
    license_name: str | None
    license_link: str | None
    base_model: str | None
    named: str | None
    date: str | None
    source_url: str | None
    benchmark: Sequence[str]
    base: str | None
    as_json: bool
    results_folders: Sequence[Path]
    mirror: Path | None

    def check(self) -> None:
        """Raise UserError for what cannot be, before anything is read."""
        if self.date is not None:
            try:
                datetime.datetime.fromisoformat(self.date)
            except ValueError:
                raise UserError(f"--date {self.date}: write it as in 2026-01-31") from None
        if self.source_url is not None and not self.source_url.startswith(("https://", "http://")):
            raise UserError(f"--source-url {self.source_url}: not an address of the web")
        if self.private and self.push is None:
            raise UserError("--private is for --push")
        if self.push is not None:
            upload.check(self.push)

    @property
    def export(self) -> export_command.ExportOptions:
        """What `harness export` would be told."""
        return export_command.ExportOptions(
            cell=self.cell,
            to=self.to,
            merge=self.merge,
            into=None,
            dtype=None,
            max_shard_size=None,
            max_difference=None,
            max_changed=None,
            force=False,
            prompts=None,
            limit=None,
            base=self.base,
            gguf=(),
            converter=None,
            as_json=self.as_json,
            results_folders=self.results_folders,
            mirror=self.mirror,
        )


@click.command("publish")
@click.argument("cell")
@click.option(
    "--to", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The model folder."
)
@click.option("--push", metavar="REPO", help="Upload it to OWNER/NAME of the Hub, by your login.")
@click.option("--private", is_flag=True, help="Make the repository of --push a private one.")
@click.option("--merge", is_flag=True, help="Publish the adapter merged into its base.")
@click.option("--no-samples", is_flag=True, help="Leave prompts, answers and scores out.")
@click.option("--license", metavar="ID", help="As the Hub names it. Default: the base model's.")
@click.option("--license-name", metavar="NAME", help="With --license other.")
@click.option("--license-link", metavar="LINK", help="With --license other.")
@click.option("--base-model", metavar="ID", help="The base's id on the Hub, where its name is not.")
@click.option("--name", "named", metavar="NAME", help="Default: that of --push, or the cell's id.")
@click.option("--date", metavar="DATE", help="When the cell was measured.")
@click.option("--source-url", metavar="URL", help="Where the evaluation can be looked at.")
@click.option(
    "--benchmark",
    multiple=True,
    metavar="SUITE.METRIC=DATASET:TASK",
    help="A metric that is a benchmark of the Hub. The well-known ones are found.",
)
@click.option("--base", metavar="MODEL", help="The base, if the record does not lead to it.")
@options.as_json
@options.results_folders
@options.mirror
@options.collected(PublishOptions)
def command(given: PublishOptions) -> None:
    """Write a trained CELL as a model folder of the Hub: weights, card, results.

    `harness verify DIR` recomputes every figure in it. CELL is as for `harness export`.
    """
    given.check()
    source = export_command.checked_source(given.export)
    published = publish.records(source)
    licence = base_model.license_of(
        source.artifact.base, given.license, given.license_name, given.license_link
    )
    rows = {} if given.no_samples else publish.check_samples(published)
    told = _publication(given, source, published, licence)
    replaced = publish.check_target(given.to, source)
    with export.whole_or_not_at_all(given.to) as folder:
        report, failures = export_command.fill(given.export, source, folder)
        if failures:
            raise export_command.not_the_same(failures, "published")
        told = _made(told, report)
        publish.fill(folder, told, published, rows)
    commit = upload.push(given.to, given.push, private=given.private) if given.push else None
    _print(given, told, commit)
    if replaced:
        click.echo(f"Replaced the earlier publication of {source.id} in {given.to}.", err=True)


def _publication(
    given: PublishOptions, source: Source, published: Records, licence: License
) -> Publication:
    return Publication(
        cell=source.id,
        base=published.base.id if published.base else None,
        name=given.named or given.push or source.id,
        published=int(time.time()),
        harness=__version__,
        made=source.artifact.kind,
        merged_into=None,
        precision=source.artifact.precision,
        base_hub_id=base_model.hub_id(source.artifact.base, given.base_model),
        license=licence,
        artifact=identity(source.artifact),
        samples=not given.no_samples,
        evaluated=given.date,
        benchmarks=benchmarks.chosen(published.cell.data, given.benchmark),
        source_url=given.source_url,
    )


def _made(told: Publication, report: export_command.Report) -> Publication:
    """With what the export made of the artifact."""
    import dataclasses

    made = {key: report[key] for key in ("made", "merged_into", "precision")}
    return dataclasses.replace(told, **made)


def _print(given: PublishOptions, told: Publication, commit: str | None) -> None:
    files = publication.files_of(given.to)
    if given.as_json:
        result: dict[str, Any] = {"folder": str(given.to), "files": files, "commit": commit}
        click.echo(json.dumps(store.plain(result), indent=2, ensure_ascii=False))
        return
    click.echo(f"{told.name}: {told.made} under {told.license.id} ({told.license.origin})")
    click.echo(f"Written to {given.to}: {', '.join(files)}.")
    if not told.benchmarks:
        click.echo("No figure is the whole of a benchmark of the Hub: they are in the card alone.")
    if commit:
        click.echo(f"Uploaded: {commit}")
    click.echo(f"Check it: harness verify {given.to}")
