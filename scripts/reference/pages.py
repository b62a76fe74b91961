"""The pages that are made from the code, by name."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from harness.manager import Plugins
from scripts.reference import api, commands, files, plugins

FOLDER = Path(__file__).parent.parent.parent / "docs/reference"


def pages() -> dict[str, str]:
    """File name -> text: of the harness alone, whatever plugins are installed beside it."""
    built_in = Plugins(discover=False)
    with patch("harness.manager.plugins", lambda: built_in):
        return {
            "commands.md": commands.commands(),
            "experiment.md": files.experiment_file(),
            "suite.md": files.suite_file(),
            "policy.md": files.policy_file(),
            "methods.md": plugins.methods(built_in),
            "scorers.md": plugins.scorers(built_in),
            "judges.md": plugins.judges(built_in),
            "bundled.md": plugins.bundled(built_in),
            "record.md": files.record(),
            "leaderboard.md": files.leaderboard(),
            "exit-codes.md": files.exit_codes(),
            "hooks.md": api.hooks(),
        }
