"""How the harness starts another Python of its own."""

from __future__ import annotations

import sys
from pathlib import Path

_START = (
    "import runpy, sys; sys.path[0] = sys.argv[1]; sys.argv[:] = sys.argv[2:]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the harness in a new interpreter.

    `python -m` would put the current folder first on the path, where a user's own `datasets.py`
    or a clone of this repository hides what is installed.
    """
    root = Path(__file__).parent.parent
    return [sys.executable, "-c", _START, str(root), module, *arguments]
