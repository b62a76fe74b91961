"""`harness plugins`."""

from __future__ import annotations

from collections.abc import Mapping

import click

from harness.api.method import options_help
from harness.cli.render.grid import print_rows
from harness.manager import calling
from harness.manager import plugins as load_plugins


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
def command(as_json: bool) -> None:
    """What is registered, by whom, and each method's options."""
    from harness.training.sft_options import SftOptions

    plugins = load_plugins()
    registries = (
        plugins.methods,
        plugins.tasks,
        plugins.suites,
        plugins.scorers,
        plugins.judges,
        plugins.executors,
        plugins.engines,
        plugins.trackers,
        plugins.datasets,
    )
    rows = [[kind.kind, name, kind.origin[name]] for kind in registries for name in kind.things]
    print_rows(["kind", "name", "plugin"], rows, as_json)
    if as_json:
        return
    shared = options_help(SftOptions)
    _print_options(
        "options of every method on the shared recipe, where it says nothing else:", shared
    )
    for name, method in plugins.methods.things.items():
        with calling(f"method '{name}'"):
            options = method.help()
        own = {key: option for key, option in options.items() if option != shared.get(key)}
        if options:
            title = next(iter((method.__doc__ or "").splitlines()), "")
            _print_options(f"{name}: {title}", own)


def _print_options(title: str, options: Mapping[str, Mapping[str, object]]) -> None:
    click.echo(f"\n{title}")
    for name, option in options.items():
        click.echo(f"  {name} = {option['default']!r}: {option['help']}")
