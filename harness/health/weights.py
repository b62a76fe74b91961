"""Whether what is trained is what was meant: its share of the model, and the layers named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.errors import nearest
from harness.health import Finding

__all__ = ["SMALLEST_SHARE", "few_trainable", "unmatched_targets"]

SMALLEST_SHARE = 1e-5
"""A tenth of the smallest share in the papers: (IA)3 trains 0.01% of T0-3B (Liu et al. 2022,
arXiv 2205.05638), prompt tuning under 0.01% of large models (Lester et al. 2021, 2104.08691)."""


def few_trainable(trainable: int, total: int) -> Finding | None:
    """`few_trainable`: a share of parameters below that of any published method."""
    if trainable >= SMALLEST_SHARE * total:
        return None
    return Finding(
        "few_trainable",
        f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.2g}, less than "
        f"{SMALLEST_SHARE:g}): target_modules may name too few layers; 'all-linear' takes all",
    )


def unmatched_targets(targets: Iterable[str], modules: Iterable[str]) -> Finding | None:
    """`target_unmatched`: names of `target_modules` that are no module of the model.

    `modules` are the model's dotted names; a target is a module's name or the end of it after a
    dot, as in peft. The others still got their adapters.
    """
    wanted, modules = sorted(targets), list(modules)
    missing = [t for t in wanted if not any(f".{name}".endswith(f".{t}") for name in modules)]
    if not missing or len(missing) == len(wanted):
        return None  # all of them: peft refuses that
    return Finding(
        "target_unmatched",
        f"target_modules: {', '.join(map(repr, missing))} {'is' if len(missing) == 1 else 'are'} "
        f"no module of the model and got no adapter: {nearest(missing[0], _last_names(modules))}",
    )


def _last_names(modules: Sequence[str]) -> set[str]:
    """Last parts of the names, without numbers and without what peft put into a layer."""
    layers = tuple(n.removesuffix("base_layer") for n in modules if n.endswith(".base_layer"))
    names = {name.rpartition(".")[2] for name in modules if not name.startswith(layers)}
    return {name for name in names if name and not name.isdigit()}
