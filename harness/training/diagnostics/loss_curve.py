"""What losses and gradient norms say: spikes, a loss that does not fall, overfitting.

Thresholds lie between what healthy runs reached (results/reference, and a tiny model with rates
from 5e-5 to 1e-3) and what runs with a fault did.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from harness.stats.student_t import t_quantile
from harness.training.diagnostics.findings import Finding

__all__ = ["gradient_spike", "not_falling", "not_finite", "overfitting", "rising"]

Point = Mapping[str, float]
"""`step` with `loss` and `grad_norm`, or with `validation_loss`."""

SPIKE = 10.0
"""Times the median norm before it: 1.5 at most in healthy runs, 9 to 2000 with lr 0.3."""
EARLY_SPIKE = 100.0
"""The same where the median is of fewer than `ENOUGH` norms: 8 at most in healthy runs, 480 in the
third step with lr 0.3."""
WINDOW, ENOUGH, FEWEST = 20, 5, 2
"""Norms that the median is taken over: at most, for `SPIKE`, and at least."""
LEVEL = 0.001
"""Chance of a false alarm of `rising` in a run whose loss stays where it is."""
LEAST_FALL = 0.01
"""Share of its first value by which the loss must fall: 2.8% at least in healthy runs of 12 steps,
0.000% with lr 1e-9."""
FEWEST_STEPS = 10
"""Shorter runs may rightly gain less."""
GENERALISATION_LOSS = 0.01
"""Rise of the validation loss over its minimum (Prechelt 1998, "Early Stopping - But When?", GL
with alpha 1%), together with two rises in succession (his UP 2)."""


def not_finite(point: Point, step: int) -> Finding | None:
    """`not_finite`: a loss or gradient norm that is infinite or not a number."""
    broken = [key for key, value in point.items() if not math.isfinite(value)]
    if not broken:
        return None
    return Finding(
        "not_finite",
        f"{broken[0]} is not finite at step {step}: lower the learning rate or raise the precision",
        step,
    )


def gradient_spike(curve: Sequence[Point]) -> Finding | None:
    """`gradient_spike`: the last gradient norm is many times the median of those before it.

    And larger than the first ones: where the rows are learnt by heart norms are near zero, and
    many times that is still nothing.
    """
    norms = [point["grad_norm"] for point in curve if "grad_norm" in point]
    if len(norms) <= FEWEST or "grad_norm" not in curve[-1]:
        return None
    usual, last, step = statistics.median(norms[-WINDOW - 1 : -1]), norms[-1], curve[-1]["step"]
    times, first = (SPIKE, norms[:ENOUGH]) if len(norms) > ENOUGH else (EARLY_SPIKE, norms[:-1])
    if last <= max(times * usual, statistics.median(first)):
        return None
    return Finding(
        "gradient_spike",
        f"the gradient norm is {last:.3g} at step {step:.0f}, {last / usual:.0f} times its median "
        f"of {usual:.3g}: lower lr or max_grad_norm, lengthen warmup, or look at the rows of this "
        "step",
        int(step),
    )


def rising(curve: Sequence[Point]) -> Finding | None:
    """`loss_not_falling`, early: the last third's losses lie above the first third's beyond noise.

    By Welch's t with as many degrees of freedom as the smaller third can vouch for.
    """
    losses = [point["loss"] for point in curve if "loss" in point]
    third = len(losses) // 3
    if third < 4:
        return None
    first, last = losses[:third], losses[-third:]
    change = statistics.fmean(last) - statistics.fmean(first)
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / third)
    if change <= t_quantile(1 - LEVEL, third - 1) * noise:
        return None
    step = int(curve[-1]["step"])
    return Finding(
        "loss_not_falling",
        f"the loss rises: {statistics.fmean(first):.3g} in the first third of {step} steps, "
        f"{statistics.fmean(last):.3g} in the last: lower lr",
        step,
    )


def not_falling(before: float, after: float, steps: int) -> Finding | None:
    """`loss_not_falling`: on the rows of the first step, `after` is not clearly below `before`.

    The same rows before and after leave out the noise between batches, which is larger than what
    a short training gains.
    """
    if steps < FEWEST_STEPS or after <= (1 - LEAST_FALL) * before:
        return None
    mend = "lower lr" if after > (1 + LEAST_FALL) * before else "raise lr, or train for longer"
    return Finding(
        "loss_not_falling",
        f"on the rows of the first step the loss was {before:.4g} before and is {after:.4g} after "
        f"{steps} steps: {mend}; check that the answers are what is learnt "
        "(harness plan --show-tokens 1)",
    )


def overfitting(curve: Sequence[Point]) -> Finding | None:
    """`overfitting`: the validation loss rises twice in succession while the training loss falls.

    The training loss since the best validation is compared with that over as many steps before.
    """
    judged = [point for point in curve if "validation_loss" in point]
    best = min(judged, key=lambda point: point["validation_loss"], default=None)
    if best is None or len(judged) < 3 or judged[-1] is not curve[-1]:
        return None
    low, before, middle, last = (p["validation_loss"] for p in (best, *judged[-3:]))
    if not (before < middle < last and last > (1 + GENERALISATION_LOSS) * low):
        return None
    since = [p["loss"] for p in curve if "loss" in p and p["step"] > best["step"]]
    until = [p["loss"] for p in curve if "loss" in p and p["step"] <= best["step"]][-len(since) :]
    if not until or statistics.fmean(since) >= statistics.fmean(until):
        return None
    step = int(curve[-1]["step"])
    return Finding(
        "overfitting",
        f"at step {step} the validation loss is {last:.4g}, and it was {low:.4g} at step "
        f"{best['step']:.0f}, while the training loss fell from {statistics.fmean(until):.4g} to "
        f"{statistics.fmean(since):.4g}: train for fewer steps, set keep_best: true, or give more "
        "rows",
        step,
    )
