"""The group of commands: imported when wanted, all of them listed."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from harness.cli.main import COMMANDS, cli

CONTEXT = click.Context(cli, info_name="harness")


def command(name: str) -> click.Command:
    found = cli.get_command(CONTEXT, name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_a_command_with_its_own_first_sentence(name):
    assert command(name).name == name
    assert command(name).get_short_help_str(1000).rstrip(".") == COMMANDS[name].rstrip(".")


def test_help_imports_no_command():
    code = (
        "import sys; from harness.cli.main import main; sys.argv = ['harness', '--help']\n"
        "try: main()\n"
        "except SystemExit: print([m for m in sys.modules if m.startswith('harness')], "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert not any(f"harness.cli.commands.{name}" in done.stderr for name in COMMANDS)
    assert "harness.manager" not in done.stderr


def test_a_misspelt_command_is_refused_and_the_nearest_named(harness):
    ran = harness("compar")
    assert (ran.code, ran.stdout) == (2, "")
    assert ran.error.startswith("Error: No such command 'compar'.")


def test_help_lists_the_commands_of_plugins(harness, install_by_hand):
    site = {"PYTHONPATH": str(install_by_hand("trouble"))}
    ran = harness("--help", env=site)
    assert (ran.code, ran.stderr) == (0, "")
    lines = [line.split(maxsplit=1) for line in ran.stdout.split("Commands:\n")[1].splitlines()]
    assert ["shout", "Say something."] in lines
    assert sorted([*COMMANDS, "shout"]) == [line[0] for line in lines]
    assert "Say something." in harness("shout", "--help", env=site).stdout


def test_help_comes_without_the_commands_of_a_plugin_that_breaks(harness, install_by_hand):
    ran = harness("--help", env={"PYTHONPATH": str(install_by_hand("lacking"))})
    assert ran.code == 0
    assert ran.stdout == harness("--help").stdout
    assert ran.stderr.startswith("Note: without the commands of plugins: plugin 'lacking'")


def test_a_plugin_replaces_no_command_of_the_harness(harness, tmp_path):
    from tests.conftest import write_distribution

    plugin = tmp_path / "replaces.py"
    plugin.write_text(
        "from harness import hookimpl\n@hookimpl\ndef register_commands(cli):\n"
        "    @cli.command()\n    def schema():\n        'Replaced.'\n"
    )
    site = {"PYTHONPATH": str(write_distribution(tmp_path / "site", plugin, "replaces"))}
    assert harness("--help", env=site).stdout == harness("--help").stdout
    assert '"$schema"' in harness("schema", "record", env=site).stdout


NARROW = """
import resource
import numpy, psutil  # with libraries that want memory at their import
from harness.cli.main import main
limit = psutil.Process().memory_info().vms + 100 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to RLIMIT_AS")
def test_too_little_address_space_is_one_line(tmp_path):
    """A record of 300 MB of zeros, in 100 MiB."""
    (tmp_path / "cells").mkdir()
    with (tmp_path / "cells/base-s0-0000000000.json").open("wb") as file:
        file.truncate(300 * 2**20)
    done = subprocess.run(
        [sys.executable, "-c", NARROW, "leaderboard", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        "Error: out of memory in this process: close what else runs on this machine, or raise the "
        "limit (ulimit -v); what is recorded is kept\n"
    )
