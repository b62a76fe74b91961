"""Whether a search ended at an edge, its best value the highest or the lowest of those tried, and
the trials beyond it.

Such a winner says only that the optimum lies there or beyond, and methods whose searches end so
are ranked by their ranges. Trials beyond are no part of the Optuna study, so that they change none
of its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from harness.planning.search_space import Search
from harness.training.diagnostics.findings import Finding

Edge = Literal["highest", "lowest"]


def at_edge(
    trials: Sequence[Mapping[str, Any]], chosen: int | None, search: Search
) -> dict[str, Edge] | None:
    """Option -> the edge at which the chosen trial lies; None if at none.

    Only numbers have an edge, and only where the option takes values beyond it. A trial that
    diverged or did not fit in memory was tried and lost; one that broke tells nothing.
    """
    if chosen is None:
        return None
    edges = {option: _edge(option, trials, chosen, search) for option in search.space}
    return {option: edge for option, edge in edges.items() if edge} or None


def beyond(
    trials: Sequence[Mapping[str, Any]], chosen: int | None, search: Search
) -> dict[str, object] | None:
    """The options of a trial beyond the edge at which the chosen one lies; None if at none.

    The first such option goes as far beyond its outermost value as that is from the next: by their
    ratio and at least twofold on a log scale, by their distance and at least a quarter of the range
    on another. The other options are the chosen trial's.
    """
    for option, edge in (at_edge(trials, chosen, search) or {}).items():
        if chosen is None or not search.may_extend(option):
            continue
        options = trials[chosen]["options"]
        wanted = _step(search.space[option], sorted(set(tried(option, trials))), edge)
        return {**options, option: within(search, option, options[option], wanted)}
    return None


def _step(where: Mapping[str, Any], values: Sequence[float], edge: Edge) -> float:
    """The value beyond the outermost of `values`, which rise."""
    outward = values if edge == "highest" else values[::-1]
    inner, outer = outward[-2:][0], outward[-1]
    if where["log"]:
        ratio = max(2.0, outer / inner, inner / outer)
        return outer * ratio if edge == "highest" else outer / ratio
    step = max(abs(outer - inner), (where["high"] - where["low"]) / 4)
    return outer + step if edge == "highest" else outer - step


def findings(search: Search, tuning: Mapping[str, Any]) -> list[Finding]:
    """A finding `<option>_at_edge` for each edge in a search's result."""
    return [
        Finding(
            f"{option}_at_edge",
            f"{option} {value:g} is the {edge} tried, and a better one may lie beyond: search "
            f"{'higher' if edge == 'highest' else 'lower'}: tune: "
            f"{{{option}: {_wider(search, option, value, edge)}}} in the method's entry",
        )
        for option, edge in (tuning.get("at_edge") or {}).items()
        for value in [tuning["trials"][tuning["chosen"]]["options"][option]]
    ]


def _edge(
    option: str, trials: Sequence[Mapping[str, Any]], chosen: int, search: Search
) -> Edge | None:
    values = tried(option, trials)
    best = trials[chosen]["options"][option]
    if not all(_is_number(value) for value in [*values, *search.space[option].get("choices", ())]):
        return None
    bounds = search.bounds.get(option, {})
    if best == max(values) and best < bounds.get("le", float("inf")):
        return "highest"
    if best == min(values) and best > bounds.get("ge", -float("inf")):
        return "lowest"
    return None


def tried(option: str, trials: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The values of an option in the trials that told something."""
    return [trial["options"][option] for trial in trials if trial["status"] != "error"]


def _wider(search: Search, option: str, value: float, edge: Edge) -> str:
    """The space to search instead, as in an experiment file: inside what the option takes."""
    where, up = search.space[option], edge == "highest"
    if "choices" in where:
        far = within(search, option, value, value * 2 if up else value / 2)
        return str([*where["choices"], far] if up else [far, *where["choices"]])
    reach = value * 10 if up else value / 10
    if not where["log"]:
        reach = value + (where["high"] - where["low"]) * (1 if up else -1)
    far = within(search, option, value, reach)
    low, high = (where["low"], far) if up else (far, where["high"])
    return f"{{low: {low:g}, high: {high:g}}}"


def within(search: Search, option: str, value: float, wanted: float) -> float:
    """`wanted` to three digits; a bound it passes, or half the way to one that is not taken."""
    bounds = search.bounds.get(option, {})
    sides = ("le", "lt") if wanted > value else ("ge", "gt")
    limit = next((bounds[side] for side in sides if side in bounds), None)
    if limit is not None and (wanted >= limit if wanted > value else wanted <= limit):
        wanted = limit if sides[0] in bounds else (value + limit) / 2
    return round(wanted) if isinstance(value, int) else float(f"{wanted:.3g}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
