"""Options far from where they mostly lie; known before anything is loaded."""

from __future__ import annotations

from harness.api.method import MethodOptions
from harness.training.diagnostics.findings import Finding

__all__ = ["outside_usual"]


def outside_usual(options: MethodOptions) -> list[Finding]:
    """A finding `<option>_unusual` for each number outside the range that its method declares."""
    findings = []
    for name, usual in type(options).usual_ranges().items():
        value, low, high = getattr(options, name), usual["low"], usual["high"]
        if not isinstance(value, (int, float)) or low <= value <= high:
            continue
        side, follows = ("below", _LOW) if value < low else ("above", _HIGH)
        findings.append(
            Finding(
                f"{name}_unusual",
                f"{name} {value:g} is {side} the usual {low:g} to {high:g} of this method"
                f"{follows.get(name, '')}; set it inside, or keep it if that is what you study",
            )
        )
    return findings


# What follows from the two options that every shared recipe has in some form.
_LOW = {"lr": ": the model may hardly learn", "r": ": it can hold little"}
_HIGH = {
    "lr": ": the loss may spike or diverge and what the model knew be lost",
    "r": ": memory and overfitting grow, mostly without a gain",
}
