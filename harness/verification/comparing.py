"""Stated and recomputed values held against each other, part by part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""How far a figure may be from the recomputed one: other processors round sums otherwise, which
moves a figure by 1e-15 of it and a bootstrap's quantile by less than this."""


class Difference(NamedTuple):
    """A place where two values differ."""

    path: str
    stated: object
    recomputed: object


def differences(
    stated: object, recomputed: object, path: str = "", *, within: float = RELATIVE
) -> Iterator[Difference]:
    """Every place where two values of JSON types differ. A null is as good as no key."""
    if isinstance(stated, Mapping) and isinstance(recomputed, Mapping):
        for key in dict.fromkeys([*recomputed, *stated]):
            place = f"{path}.{key}" if path else str(key)
            yield from differences(stated.get(key), recomputed.get(key), place, within=within)
    elif _is_list(stated) and _is_list(recomputed) and len(stated) == len(recomputed):  # type: ignore[arg-type]
        for at, (one, other) in enumerate(zip(stated, recomputed, strict=True)):  # type: ignore[call-overload]
            yield from differences(one, other, f"{path}[{at}]", within=within)
    elif not same(stated, recomputed, within):
        yield Difference(path, stated, recomputed)


def same(stated: object, recomputed: object, within: float = RELATIVE) -> bool:
    """Whether two values are one: numbers but for rounding, all else exactly."""
    if _is_number(stated) and _is_number(recomputed):
        return math.isclose(stated, recomputed, rel_tol=within, abs_tol=ABSOLUTE)  # type: ignore[arg-type]
    return type(stated) is type(recomputed) and stated == recomputed


def leaves(value: object) -> int:
    """How many values there are in a value of JSON types."""
    if isinstance(value, Mapping):
        return sum(map(leaves, value.values()))
    return sum(map(leaves, value)) if _is_list(value) else 1  # type: ignore[call-overload]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
