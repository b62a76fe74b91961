"""The command `harness`: its group of commands, its exit codes and its signals.

A command is the object `command` of the module `harness.cli.commands.<its name>`, imported when it
is run.
"""

from __future__ import annotations

import errno
import gc
import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from harness import __version__
from harness.errors import HarnessError, UserError

INTERRUPTED = 130
COMMANDS = {
    "compare": "A minus B on the same samples; or several rows, or a whole results folder, against "
    "the base.",
    "doctor": "What this machine can do, and the command that fixes what is missing.",
    "eval": "Measure a MODEL trained elsewhere: a packaged alias, a folder or a Hub id.",
    "export": "Write a trained CELL to a folder that transformers, peft and vLLM load.",
    "gate": "Whether CANDIDATE may be released: exit 0 pass, 1 worse, 3 cannot tell, 4 not "
    "comparable.",
    "import": "What others measured: lm-eval's results as rows, peft's as a table of their own.",
    "judge": "How far a judge can be believed.",
    "leaderboard": "The table of the records in results folders (default: those under results/).",
    "models": "The packaged models, which need no Hub.",
    "parity": "Whether the model that is shipped is the one that CELL measured, and if not, why.",
    "plan": "Show an experiment's cells, which are recorded, and predicted memory.",
    "plugins": "What is registered, by whom, and each method's options.",
    "publish": "Write a trained CELL as a model folder of the Hub: weights, card, results.",
    "report": "One page of the records in results folders, with the answers behind its figures.",
    "run": "Run an experiment FILE, or `quickstart`.",
    "schema": "Print the JSON Schema of a record or a leaderboard.",
    "suites": "The suites that an experiment can name, and where their files lie.",
    "verify": "Recompute the figures of a results FOLDER, or of a published one, from its samples.",
}
"""Name -> the first sentence of the command's help, so that `harness --help` imports no command."""


MODULES = {
    "import": "importing",
    **{name: f"facts.{name}" for name in ("doctor", "models", "plugins", "schema")},
}
"""Command -> its module, where that is not its name."""


class LazyGroup(click.Group):
    """The commands of the harness and of plugins, each imported when it is wanted."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name: the harness's own, or else a plugin's."""
        if cmd_name in COMMANDS:
            module = importlib.import_module(
                f"harness.cli.commands.{MODULES.get(cmd_name, cmd_name)}"
            )
            command: click.Command = module.command
            return command
        if cmd_name not in self.commands:
            self._add_plugin_commands()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List all commands. A plugin that cannot be loaded is reported and left out."""
        from importlib.metadata import entry_points

        if entry_points(group="harness"):
            try:
                self._add_plugin_commands()
            except HarnessError as error:
                click.echo(f"Note: without the commands of plugins: {error}", err=True)
        listed = click.Group(commands={**self.commands, **_listed()})
        listed.format_commands(ctx, formatter)

    def _add_plugin_commands(self) -> None:
        from harness.manager import plugins

        plugins().add_commands(self)


def _listed() -> dict[str, click.Command]:
    """Stand-ins that know a command's name and help, for lists and for nearest names."""
    return {name: click.Command(name, help=sentence) for name, sentence in COMMANDS.items()}


@click.group(
    cls=LazyGroup,
    commands=_listed(),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Train with several methods under one budget, measure with shared suites, rank honestly."""


def main() -> None:
    """Entry point: exit codes are those of docs/reference/exit-codes.md."""
    from harness.system.console import OutputLost, standard_streams

    arguments = sys.argv[1:]
    code = HarnessError.exit_code
    # Records are many small objects without cycles: looking for those takes a fifth of a command.
    gc.set_threshold(100_000, 50, 50)
    try:
        with standard_streams(escape=not _is_plugin_command(arguments)):
            try:
                with _signals_as_interrupts() as received:
                    code = _exit_code(arguments)
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


def _exit_code(arguments: list[str]) -> int:
    """Run a command, print its error, and return its exit code."""
    from harness.system.console import OutputLost

    try:
        return _as_exit_code(cli.main(arguments, prog_name="harness", standalone_mode=False))
    except OutputLost:
        raise
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except SystemExit as exit_:
        return _as_exit_code(exit_.code)
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        return _print_error(error.format_message() + (f" (see {hint} --help)" if hint else ""))
    except HarnessError as error:
        return _print_error(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        kept = str(error.__cause__ or error) or "everything finished so far is recorded."
        click.echo(f"Interrupted: {kept}", err=True)
        return INTERRUPTED
    except MemoryError:
        return _print_error(
            "out of memory in this process: close what else runs on this machine, or raise the "
            "limit (ulimit -v); what is recorded is kept"
        )
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            return _unexpected()
        return _print_error(f"{_file_of(error)}{error.strerror}{_FIXES.get(error.errno, '')}")
    except Exception:
        return _unexpected()


_MACHINE_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}
"""Errors of a folder, a disk or a limit; a missing file is an error in the code."""
_FIXES = {
    errno.EACCES: ": change its permissions, or name another",
    errno.EROFS: ": name a folder that can be written to",
    errno.ENOSPC: ": free some space",
    errno.ENAMETOOLONG: ": name something shorter",
    errno.EMFILE: ": raise the limit (ulimit -n)",
}


def _file_of(error: OSError) -> str:
    """The file that an error is about, shortened where its name is too long."""
    name = "" if error.filename is None else str(error.filename)
    name = name if len(name) <= 200 else f"{name[:100]}...{name[-60:]}"
    return f"{name}: " if name else ""


def _print_error(message: str, code: int = UserError.exit_code) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def _as_exit_code(value: object) -> int:
    """The exit code of what a command returned or raised SystemExit with: a text is an error."""
    if isinstance(value, str):
        return _print_error(value)
    return value if isinstance(value, int) else 0


def _unexpected() -> int:
    """Print the traceback of an unexpected error; 70, for 1 is the gate's."""
    traceback.print_exc()
    click.echo("Error: a fault of the harness or of a plugin: please report the above", err=True)
    return HarnessError.exit_code


def _is_plugin_command(arguments: Sequence[str]) -> bool:
    """Whether a command line is for a plugin's command, which writes what it likes."""
    words = [word for word in arguments if not word.startswith("-")]
    return bool(words) and words[0] not in cli.commands
