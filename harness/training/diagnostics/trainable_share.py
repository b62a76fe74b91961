"""Whether what is trained is what was meant: its share of the model."""

from __future__ import annotations

from harness.training.diagnostics.findings import Finding

__all__ = ["SMALLEST_SHARE", "few_trainable"]

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
