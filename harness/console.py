"""Where tables are printed."""

from __future__ import annotations

import sys
from typing import Any


def console(*, stderr: bool = False) -> Any:
    """As wide as the terminal; 120 columns into a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 120)


def plain_table() -> Any:
    """A table with one line under its head."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
