"""The exception tree: errors that the user can fix, apart from failures.

HarnessError
├── UserError            exit 2: input or environment; one line, with the fix
│   ├── ConfigError      a file the user wrote, with its name and line
│   ├── DataError        a row the user gave, with its file and line
│   ├── EnvironmentLack  something this machine lacks, with the command that installs it
│   └── PluginFault      a plugin that raises, exits or registers a wrong object, with its name
├── NotTheSame           exit 1: a merged model that differs from the one that was evaluated
├── NotComparable        exit 4: two records that must not be compared
└── CellFailed           a cell that failed while it ran; it is recorded, the others go on
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from harness.record import Status

__all__ = [
    "CellFailed",
    "ConfigError",
    "DataError",
    "EnvironmentLack",
    "HarnessError",
    "NotComparable",
    "NotTheSame",
    "PluginFault",
    "UserError",
    "nearest",
]


class HarnessError(Exception):
    """Root of every error that the harness raises on purpose; raised itself for a defect."""

    exit_code = 70  # EX_SOFTWARE; 1 is the gate's


class UserError(HarnessError):
    """The user's input or environment is at fault; the message is one line with the fix."""

    exit_code = 2


class ConfigError(UserError):
    """A file written by the user is wrong. The message starts with `file:line`."""

    def __init__(self, message: str, *, file: object = None, line: int | None = None) -> None:
        place = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(place + message)


class DataError(ConfigError):
    """A row of the user's data is wrong. The message starts with `file:line`."""


class EnvironmentLack(UserError):
    """This machine lacks something; the message holds the command that installs it."""


class PluginFault(UserError):
    """A plugin raised, or returned what its hook does not accept; the message names the plugin."""


class NotTheSame(HarnessError):
    """A merged model that answers differently from what was evaluated: it is not exported.

    The gate's exit code for "worse": what was to be released is not what was measured.
    """

    exit_code = 1


class NotComparable(HarnessError):
    """Two records that differ in what must be equal (suite, samples, template, decoding)."""

    exit_code = 4


class CellFailed(HarnessError):
    """A cell failed while it ran; `status` is that of its record."""

    exit_code = 5

    def __init__(self, message: str, *, status: Status = "error") -> None:
        super().__init__(message)
        self.status = status


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: `did you mean 'x'? (known: a, b, x)`, at most MOST_NAMES."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{hint}(known: {', '.join(names[:MOST_NAMES]) or 'none'}{more})"


MOST_NAMES = 40
"""That a message lists: a line stays one that is read."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports that memory, the device's or the host's, ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|Cannot allocate|bad_alloc|OutOfMemory"
    r"|cudaErrorMemoryAllocation"
    # the libraries that take memory beside torch's allocator, and AMD's of the same names
    r"|\b(CU|HIP|ROC)(BLAS|BLASLT|DNN|SOLVER|SPARSE|FFT)_(STATUS_)?(\w+_)?ALLOC(ATION)?_FAILED\b"
    # what they say where their first allocation, of a workspace, fails
    r"|\b(CU|HIP|ROC)(BLAS|BLASLT|DNN|SOLVER|SPARSE)_STATUS_NOT_INITIALIZED\b"
    r"|\bMIOPEN_?\w*ALLOC_?FAILED\b|miopenStatusAllocFailed",
)
