"""Terminal output: control characters are escaped, secrets masked, a lost output is an error."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from harness.errors import UserError
from harness.system.security.secrets import masked

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["JSON_ESCAPES", "OutputLost", "console", "plain_table", "printable", "standard_streams"]

BROKEN_PIPE = 141
"""The exit status that a shell reports after SIGPIPE: 128 + 13."""

_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""C0 (but tab and line feed), DEL, C1, and what overrides or embeds a direction of writing."""


def printable(text: str) -> str:
    r"""`text` with control characters written as JSON escapes them (`\u001b`).

    Answers, labels and errors hold what models and strangers wrote: an escape sequence among them
    would move the cursor, hide text or set the clipboard. JSON keeps its meaning.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _as_json(error: UnicodeError) -> tuple[str, int]:
    r"""Escape what an encoding lacks as JSON does: `\u2191`, surrogate pairs beyond U+FFFF."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    escaped = "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
    return escaped, error.end


JSON_ESCAPES = "harness.json"
"""The `errors` of an encoding of JSON, or of a text that people read: what it lacks is escaped."""
codecs.register_error(JSON_ESCAPES, _as_json)


class OutputLost(UserError):
    """Standard output or error cannot be written to: a full disk, a broken pipe."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"standard {name}: {error.strerror}; free space, or send it elsewhere")
        if error.errno == errno.EPIPE:
            self.exit_code = BROKEN_PIPE

    @property
    def broken_pipe(self) -> bool:
        """Whether the reader closed the pipe, which is not a failure."""
        return self.exit_code == BROKEN_PIPE


class _Stream:
    """A text stream that writes what is printable and no secret.

    What it cannot write raises OutputLost.
    """

    def __init__(self, stream: TextIO, name: str, *, escape: bool) -> None:
        self._stream, self._name, self._escape = stream, name, escape
        self._lost: OutputLost | None = None
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors=JSON_ESCAPES)  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Characters written; click asks with an empty text whether the stream is binary."""
        if text == "":
            return 0
        text = masked(text)
        with self._losing():
            return self._stream.write(printable(text) if self._escape else text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._losing():
            self._stream.flush()

    @property
    def raw(self) -> _Stream:
        """The same stream for what has been made printable already, and is coloured."""
        return _Stream(self._stream, self._name, escape=False)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer" and codecs.lookup(self._stream.encoding).name == "ascii":
            # click would write UTF-8 into it, past this class
            raise AttributeError(name)
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        if self._lost is not None:  # the caller has swallowed the error
            raise self._lost
        try:
            yield
        except OSError as error:
            self._discard()
            # A lost standard error cannot be reported anywhere: the work goes on.
            if self._name == "output" or error.errno == errno.EPIPE:
                self._lost = OutputLost(self._name, error)
                raise self._lost from None

    def _discard(self) -> None:
        """Discard what is still buffered, or the interpreter fails on it at exit."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextlib.contextmanager
def standard_streams(*, escape: bool = True) -> Iterator[None]:
    """Replace standard output and error by streams that escape text and raise OutputLost.

    A closed one is /dev/null. `escape=False` leaves control characters: a command of a plugin
    prints what it wants. Raises OutputLost.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    sys.stdout = _Stream(before[0], "output", escape=escape)
    sys.stderr = _Stream(before[1], "error", escape=escape)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Put /dev/null where a standard descriptor is closed: the next file would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def console(*, stderr: bool = False) -> Console:
    """A rich console as wide as the terminal, 120 columns into a pipe, without markup or emoji."""
    stream = sys.stderr if stderr else sys.stdout
    file: Any = stream.raw if isinstance(stream, _Stream) else stream
    width = None if stream.isatty() else 120
    return _printing_console()(file=file, width=width, markup=False, emoji=False, highlight=False)


@cache
def _printing_console() -> type[Console]:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Printing(Console):
        """A console that writes printable text, and its own colours and cursor movements."""

        def render_str(self, text: str, **how: Any) -> Text:
            """Text for the layout, escaped before its width is measured."""
            return super().render_str(printable(text), **how)

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            """Segments for the terminal; replaced characters keep the measured width."""
            for text, style, control in super().render(renderable, options):
                shown = text if control else _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
                yield Segment(shown, style, control)

    return Printing


def plain_table() -> Table:
    """A rich table with one line under its header."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
