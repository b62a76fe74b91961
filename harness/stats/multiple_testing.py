"""Several tests at once, and interim analyses of growing data."""

from __future__ import annotations

from collections.abc import Sequence

RHO = 2
"""Of the spending function: with 1, early analyses take what the last one needs."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values in the given order (S. Holm, Scandinavian Journal of Statistics 6, 1979).

    Rejecting those below alpha keeps the chance of any false rejection at alpha, however the
    tests depend on each other.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def alpha_spending(alpha: float, shares: Sequence[float]) -> list[float]:
    """Alpha for each of several interim analyses, at `shares` of all samples (rising to 1).

    A power family of spending functions, alpha t^rho (Kim & DeMets, Biometrika 74, 1987) with rho =
    2, which keeps most of it for the analyses of many samples; each spends the alpha of its step of
    t^rho. Their errors are added up (Bonferroni), so the total holds for every statistic, also one
    whose analyses are not jointly normal.
    """
    spent = [share**RHO for share in shares]
    steps = [now - before for before, now in zip([0.0, *spent], spent, strict=False)]
    return [alpha * step for step in steps]
