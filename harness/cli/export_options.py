"""The command line of `harness export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harness.cli.option_types import Finite


def export_command(*shared: Any) -> click.Command:
    """The command, with options that other commands have too."""

    @click.command()
    @click.argument("cell")
    @click.option(
        "--to", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to."
    )
    @click.option("--merge", is_flag=True, help="Merge the adapter into its base, and verify it.")
    @click.option(
        "--into",
        type=click.Choice(["dequantised", "original"]),
        help="Of a quantised base: what was trained on, or what was quantised. "
        "Default: dequantised.",
    )
    @click.option(
        "--dtype",
        type=click.Choice(["float32", "bf16"]),
        help="Of the merged weights. Default: the precision of the training.",
    )
    @click.option("--max-shard-size", "shard", metavar="SIZE", help="Default: 5GB.")
    @click.option(
        "--max-difference",
        type=Finite(min=0),
        metavar="NATS",
        help="Of a token's log-probability. Default: 0.01 in float32, 1 in bf16.",
    )
    @click.option(
        "--max-changed",
        type=Finite(0, 1),
        metavar="SHARE",
        help="Of the answers. Default: 0.05 in float32, 0.35 in bf16.",
    )
    @click.option("--force", is_flag=True, help="Keep a merge that fails, and exit 0.")
    @click.option(
        "--prompts",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="What both models are asked. Default: samples of the cell's suites.",
    )
    @click.option("--limit", type=click.IntRange(min=1), help="Prompts at most. Default: 20.")
    @click.option("--base", metavar="MODEL", help="Where the base is, if the record cannot tell.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
    def export(**asked: Any) -> None:
        """Write a trained CELL to a folder that transformers, peft and vLLM load.

        With --merge the folder is opened again and held against what was evaluated: exit 1, and no
        folder, where it answers differently. CELL is a record file, FOLDER/LABEL, or a label,
        method, cell id or prefix of one.
        """
        from harness.cli import export as command

        sys.exit(command.run(command.Asked(**asked)))

    for option in shared:
        export = option(export)
    return export
