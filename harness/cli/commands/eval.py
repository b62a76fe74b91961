"""`harness eval`: suites on a model trained elsewhere, as an experiment that trains nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.api.executor import Executor
from harness.cli import options
from harness.cli.commands.run import run
from harness.cli.options import MeasuringOptions
from harness.cli.render.progress import progress
from harness.errors import UserError
from harness.planning.plan import Plan
from harness.sdk.models import ModelOptions, check_names, default_label, experiment_of
from harness.sdk.running import plan_of

__all__ = ["ModelOptions", "command", "default_label", "evaluate", "experiment_of", "planned"]


@click.command("eval")
@click.argument("model", required=False)
@options.served
@options.adapter
@options.load_in_4bit
@click.option("--base", metavar="MODEL", help="What to compare with; default: MODEL untouched.")
@click.option(
    "--base-in-4bit", is_flag=True, help="Open what it is compared with in 4 bits (NF4) too."
)
@click.option("--label", metavar="TEXT", help="What its row is called.")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Default: the built-in.")
@options.precision
@options.engine
@click.option(
    "--reasoning",
    metavar="END",
    help="What ends a thinking model's reasoning, which is not scored: auto, none, or its text.",
)
@click.option(
    "--chat-template",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A Jinja template in place of the tokenizers' own.",
)
@options.measuring
@options.executor
@options.batch
@options.collected(ModelOptions)
def command(
    model: ModelOptions,
    measuring: MeasuringOptions,
    chat_template: Path | None,
    executor: Executor,
    batch: int | None,
) -> None:
    """Measure a MODEL trained elsewhere: a packaged alias, a folder or a Hub id.

    With --served or --gguf a model behind a server is measured, and MODEL is what it is compared
    with.
    """
    sys.exit(evaluate(model, measuring, executor, batch, chat_template))


def evaluate(
    model: ModelOptions,
    measuring: MeasuringOptions,
    executor: Executor,
    batch: int | None = None,
    chat_template: Path | None = None,
) -> int:
    """Measure the base and the model unless they are recorded; return the exit code."""
    check_names(model)
    return run(
        experiment_of(model), measuring, executor, batch, chat_template=_template(chat_template)
    )


def planned(model: ModelOptions, measuring: MeasuringOptions) -> Plan:
    """The cells that `evaluate` would measure."""
    check_names(model)
    with progress(json=True) as screen:
        return plan_of(experiment_of(model), measuring, screen)


def _template(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--chat-template {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"--chat-template {file}: not UTF-8 text") from None
