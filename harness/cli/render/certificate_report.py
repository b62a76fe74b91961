"""A judge's certificate, as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from harness.cli.render.grid import print_grid

Figure = Mapping[str, Any] | None

NOT_MEASURED = {
    "position": "it is shown one answer at a time",
    "human_kappa": "one person labelled each pair",
    "self_preference": "no labelled answer is of its own model",
    "answers": "no answer is labelled right or wrong",
}


def print_certificate(certificate: Mapping[str, Any]) -> None:
    """The level with its reasons, then a row for each figure."""
    judge, labels = certificate["judge"], certificate["labels"]
    model = judge["model"]["name"]
    click.echo(
        f"Judge {judge['name']} (version {judge['version']}) on {model}, held against "
        f"{labels['pairs']} pairs of {labels['file']}"
    )
    print_grid(["", "figure", "95 % interval", "n"], list(_rows(certificate)))
    click.echo(f"Level: {certificate['level']}")
    for reason in certificate["reasons"]:
        click.echo(f"  {reason}")


def _rows(certificate: Mapping[str, Any]) -> Iterator[list[str]]:
    pairs, answers = certificate["pairs"], certificate["answers"]
    yield _row("agreement with people, pairs", pairs["agreement"])
    yield _row("Cohen's kappa, pairs", pairs["kappa"])
    yield _row("people's own kappa", pairs["human_kappa"], NOT_MEASURED["human_kappa"])
    for kind, share in pairs["kinds"].items() if len(pairs["kinds"]) > 1 else ():
        yield _row(f"agreement on '{kind}'", share)
    if answers is None:
        yield _row("sensitivity and specificity", None, NOT_MEASURED["answers"])
    else:
        yield _row("Cohen's kappa, right and wrong", answers["kappa"])
        cut = answers["threshold"]
        at = "" if cut is None else f" at {cut:.4g}"
        yield _row(f"sensitivity{at}", answers["sensitivity"])
        yield _row("specificity", answers["specificity"])
    position = certificate["position"] or {}
    yield _row("position consistency", position.get("consistent"), NOT_MEASURED["position"])
    verbosity, injection = certificate["verbosity"], certificate["injection"]
    yield _row("verbosity: padded minus plain", _difference(verbosity))
    yield _row("moved by planted instructions", injection and injection["verdicts"]["moved"])
    preference = certificate["self_preference"] or {}
    yield _row(
        "self-preference", next(iter(preference.values()), None), NOT_MEASURED["self_preference"]
    )
    yield _row("same verdict when asked again", certificate["repeatability"]["equal"])
    yield _row("answers with a verdict", certificate["validity"])


def _difference(change: Mapping[str, Any] | None) -> Figure:
    """Of scores, where there are any, for they show a small bias too."""
    if change is None:
        return None
    found: Mapping[str, Any] = change.get("scores") or change["verdicts"]
    return found["difference"]


def _row(name: str, figure: Figure, otherwise: str = "not known") -> list[str]:
    if figure is None:
        return [name, "-", otherwise, ""]
    value = figure.get("value", figure.get("delta"))
    low, high = figure["ci_low"], figure["ci_high"]
    interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
    return [name, "-" if value is None else f"{value:.3f}", interval, str(figure["n"])]
