"""`harness parity`."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.api.task import Suite
from harness.cli import options
from harness.cli.options import Finite
from harness.errors import UserError
from harness.manager import plugins
from harness.parity import check, shipped, subject
from harness.parity.observing import Prompt
from harness.parity.seen import Form, Limits
from harness.parity.subject import Subject
from harness.types import Artifact
from harness.verification.suites_at_hand import SuitesAtHand

if TYPE_CHECKING:
    from harness.parity.worker import Task


@dataclass(frozen=True)
class ParityOptions:
    """The options of the command line; None where one is not given."""

    cell: str
    served: str | None
    gguf: Path | None
    model: str | None
    key: str | None
    in_flight: int
    timeout: float
    limit: int
    max_changed: float | None
    max_mean: float | None
    max_difference: float | None
    base: str | None
    batch: int | None
    as_json: bool
    results_folders: Sequence[Path]
    suite_folders: Sequence[Path]
    mirror: Path | None

    def check(self) -> None:
        """Raise UserError where the options name no form, or two."""
        if self.served is not None and self.gguf is not None:
            raise UserError("--served or --gguf, not both: one form is compared at a time")
        if self.gguf is not None and self.model is not None:
            raise UserError("--model is for --served, or stands alone: leave it out beside --gguf")
        if self.served is None and self.gguf is None and self.model is None:
            raise UserError(
                "name what is shipped: --served URL, --gguf FILE, or --model DIR for a folder"
            )
        if self.key is not None and self.served is None:
            raise UserError("--key is for --served")


@click.command("parity")
@click.argument("cell")
@click.option("--served", metavar="URL", help="What is shipped, behind an OpenAI-style server.")
@click.option(
    "--gguf",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What is shipped, as a GGUF file, which llama.cpp serves meanwhile.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="With --served: the model, as the server lists it. Alone: a model folder.",
)
@click.option("--key", metavar="NAME", help="Environment variable that holds the server's key.")
@click.option(
    "--in-flight",
    type=click.IntRange(1, 1000),
    default=2,
    show_default=True,
    help="Requests to the server at once.",
)
@click.option(
    "--timeout",
    type=Finite(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="For one answer.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=subject.LIMIT,
    show_default=True,
    help="Prompts at most, over all suites.",
)
@click.option(
    "--max-changed",
    type=Finite(0, 1),
    metavar="SHARE",
    help="Of the answers. Default: 0.05 of a float32 cell, 0.35 in 16 bits.",
)
@click.option(
    "--max-mean",
    type=Finite(min=0),
    metavar="NATS",
    help="Mean difference of a token's log-probability. Default: 0.01; 0.1 in 16 bits.",
)
@click.option(
    "--max-difference",
    type=Finite(min=0),
    metavar="NATS",
    help="The largest. Default: 0.1; 1.5 in 16 bits.",
)
@click.option("--base", metavar="MODEL", help="The base, if the record does not lead to it.")
@options.batch
@options.as_json
@options.results_folders
@options.suite_folders
@options.mirror
@options.collected(ParityOptions)
def command(given: ParityOptions) -> None:
    """Whether the model that is shipped is the one that CELL measured, and if not, why.

    The cell's own prompts go through both. Exit 0: the same within the limits; 1: not, and the
    cause; 2: it cannot be told. CELL is a record file, FOLDER/LABEL, or a label, method, cell id or
    prefix of one. The report goes to parity/ in the cell's results folder.
    """
    given.check()
    folders = options.existing_results(given.results_folders)
    cell = subject.find(given.cell, folders, given.base, given.mirror)
    prompts = subject.prompts(cell, given.limit)
    at_hand = SuitesAtHand(plugins(), given.suite_folders, given.mirror)
    suites, not_scored = subject.suites_at_hand(cell, prompts, at_hand)
    limits = check.limits_of(cell, given.max_changed, given.max_mean, given.max_difference)
    with _form(given, prompts) as (form, opened):
        task = _task(given, cell, prompts, form, opened, suites, limits)
        result = check.run(task, functools.partial(_say, given))
    parity = check.judged(cell, limits, result, not_scored)
    report = check.to_json(parity)
    file = check.write(cell, report)
    if given.as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for line in check.lines(parity):
            click.echo(line)
        click.echo(f"Written to {file}.")
    sys.exit(parity.exit_code)


@contextmanager
def _form(
    given: ParityOptions, prompts: Sequence[Prompt]
) -> Iterator[tuple[Form, Artifact | None]]:
    """What is shipped, and how it is opened where it is a folder."""
    if given.gguf is not None:
        with shipped.gguf(given.gguf, prompts) as form:
            yield form, None
    elif given.served is not None:
        yield shipped.served(given.served, given.model, given.key), None
    else:
        assert given.model is not None
        yield shipped.folder(given.model, given.mirror)


def _task(
    given: ParityOptions,
    cell: Subject,
    prompts: Sequence[Prompt],
    form: Form,
    opened: Artifact | None,
    suites: Sequence[Suite],
    limits: Limits,
) -> Task:
    from harness.parity.worker import Task

    return Task(
        artifact=cell.artifact,
        form=form,
        prompts=prompts,
        limits=limits,
        base=cell.base,
        opened=opened,
        suites=suites,
        key=given.key,
        in_flight=given.in_flight,
        timeout=given.timeout,
        batch=given.batch,
    )


def _say(given: ParityOptions, text: str) -> None:
    if not given.as_json:
        click.echo(text, err=True)
