"""Writes the tables of README.md, docs/ and results/ anew, from the records that they are of.

    python benchmarks/tables.py            # make tables
    python benchmarks/tables.py --check    # exit code 1 and the files' names where one is stale

What stands between `<!-- harness leaderboard ... -->` and `<!-- /harness leaderboard -->` is what
that command prints, run from the repository's root; between `<!-- benchmarks/gpus.py -->` and its
end, that script's table; and every `results/reference/*/leaderboard.md` is that folder's
leaderboard in Markdown.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from harness.cli.main import cli

if __package__:
    from benchmarks import gpus
else:  # python benchmarks/tables.py
    import gpus

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(<!-- harness (leaderboard\s[^>]*?)\s*-->\n)(.*?)(<!-- /harness leaderboard -->)", re.DOTALL
)
CARDS = re.compile(r"(<!-- benchmarks/gpus.py -->\n)(.*?)(<!-- /benchmarks/gpus.py -->)", re.DOTALL)
WIDTH = "120"
"""Columns of a table in a terminal's form."""


def main() -> int:
    """Write, or name, the files that are stale; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [(file, text) for file, text in written() if file.read_text("utf-8") != text]
    for file, text in stale:
        print(file.relative_to(ROOT))
        if not check:
            file.write_text(text, "utf-8")
    return 1 if check and stale else 0


def written() -> Iterator[tuple[Path, str]]:
    """Each file that holds tables, and what it should hold."""
    for file in (
        ROOT / "README.md",
        ROOT / "results/README.md",
        *sorted(ROOT.glob("docs/**/*.md")),
    ):
        yield file, renewed(file.read_text("utf-8"))
    for file in sorted(ROOT.glob("results/reference/*/leaderboard.md")):
        folder = file.parent.relative_to(ROOT).as_posix()
        yield file, printed(["leaderboard", folder, "--format", "markdown"])


def renewed(text: str) -> str:
    """A text with every marked table as its command prints it now."""
    text = BLOCK.sub(lambda match: f"{match[1]}{block(shlex.split(match[2]))}{match[4]}", text)
    return CARDS.sub(lambda match: f"{match[1]}\n{gpus.table()}\n{match[3]}", text)


def block(arguments: list[str]) -> str:
    """What a command prints, in a code block unless it is Markdown."""
    kind = arguments[arguments.index("--format") + 1] if "--format" in arguments else "table"
    text = printed(arguments)
    if kind == "markdown":
        return text
    return f"```{'text' if kind == 'table' else kind}\n{text}```\n"


def printed(arguments: list[str]) -> str:
    """Standard output of a `harness` command, without empty lines around it."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        result = CliRunner(env={"COLUMNS": WIDTH}).invoke(cli, arguments)
    finally:
        os.chdir(before)
    if result.exit_code:
        error = result.exception or result.stderr
        raise SystemExit(f"harness {shlex.join(arguments)}: {error}")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


if __name__ == "__main__":
    sys.exit(main())
