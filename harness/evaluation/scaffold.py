"""Writes a new suite that works as it is: a YAML file and three example rows."""

from __future__ import annotations

import re
from pathlib import Path

from harness.config import strict_yaml
from harness.errors import UserError
from harness.manager import Plugins, calling

__all__ = ["new_suite"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def new_suite(name: str, ask: str, folder: Path, plugins: Plugins) -> list[Path]:
    """Write the suite `name` into `folder`, which is made where it is missing; its files.

    Raises UserError, having written nothing, where the name is invalid, is that of a registered
    suite, or one of its files already exists.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"'{name}' cannot name a suite: use letters, digits, '.', '_' and '-', with a letter "
            "or a digit first"
        )
    if name in plugins.suites.things:
        raise UserError(f"a suite '{name}' is built in, or of a plugin: choose another name")
    task = plugins.tasks.get(ask)
    with calling(f"task '{ask}'"):
        example = task.example(name)
    texts = {f"{name}.yaml": _yaml(name, example.settings), **example.files}
    files = {folder / place: text for place, text in texts.items()}
    existing = [file for file in files if file.exists()]
    if existing:
        raise UserError(f"{existing[0]} already exists: choose another name, or remove it")
    try:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; name a folder to write to") from None
    return list(files)


_COMMON = """\
name: {written}  # as the file is called
version: 1  # raise it with every change of this file or its rows
description: What this suite measures, in one sentence.
"""


def _yaml(name: str, settings: str) -> str:
    # 123 and true are no text in YAML.
    written = name if strict_yaml.parse(name, name).data == name else f'"{name}"'
    return _aligned(_COMMON.format(written=written) + settings)


def _aligned(text: str) -> str:
    """The comments at the ends of lines under each other."""
    lines = [line.partition("  # ") for line in text.splitlines()]
    width = max(len(before) for before, mark, _ in lines if mark)
    return "".join(
        f"{before:<{width}}{mark}{comment}\n" if mark else f"{before}\n"
        for before, mark, comment in lines
    )
