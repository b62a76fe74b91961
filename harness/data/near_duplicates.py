"""Texts that are nearly the same: sets of their word trigrams, searched by Jaccard index."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

__all__ = ["JaccardIndex", "boilerplate_limit", "earlier_matches", "jaccard", "trigrams"]

BOILERPLATE_SHARE = 0.1
"""What occurs in more of the texts than this share is boilerplate, not a repetition."""
BOILERPLATE_TEXTS = 3
"""... and in more texts than this, so that a small file can hold repetitions at all."""

Feature = TypeVar("Feature", bound=Hashable)


def boilerplate_limit(texts: int) -> float:
    """In how many of so many texts a feature may occur before it is boilerplate."""
    return max(BOILERPLATE_TEXTS, BOILERPLATE_SHARE * texts)


def trigrams(words: Sequence[str]) -> set[tuple[str, ...]]:
    """The runs of three words; of one or two words the whole, of none nothing."""
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} if words else set()


def jaccard(a: AbstractSet[object], b: AbstractSet[object]) -> float:
    """Size of the intersection by size of the union, 0 to 1; 1 for two empty sets."""
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return shared / union if union else 1.0


class JaccardIndex(Generic[Feature]):
    """Sets of features, searched exactly for those that are similar to another set.

    Two sets whose Jaccard index is t or more share at least t of the features of each. So each
    match has one of the rarest features of the set that is searched for, of all but its t most
    frequent ones, and only sets with one of those are compared (prefix filtering: Bayardo, Ma and
    Srikant 2007).
    """

    def __init__(self) -> None:
        self._sets: list[frozenset[Feature]] = []
        self._sizes: list[int] = []
        self._postings: dict[Feature, list[int]] = {}

    def add(self, features: Collection[Feature], size: int | None = None) -> None:
        """Add a set, under the next number from 0.

        `size` is the whole set's where features that no other set has are left out.
        """
        number = len(self._sets)
        self._sets.append(frozenset(features))
        self._sizes.append(len(self._sets[-1]) if size is None else size)
        for feature in self._sets[-1]:
            self._postings.setdefault(feature, []).append(number)

    def matches(
        self, features: Collection[Feature], at_least: float, size: int | None = None
    ) -> dict[int, float]:
        """Number of each set that shares a feature and is so similar -> its Jaccard index.

        `size` is as in `add`.
        """
        searched = frozenset(features)
        size = len(searched) if size is None else size
        indexed = [feature for feature in searched if feature in self._postings]
        # A little less than the product, which rounding may have put above a whole number.
        needed = max(1, math.ceil(at_least * size - 1e-9))
        if len(indexed) < needed:
            return {}
        indexed.sort(key=lambda feature: len(self._postings[feature]))
        rarest = indexed[: len(indexed) - needed + 1]
        similar = {}
        for number in {number for feature in rarest for number in self._postings[feature]}:
            other = self._sizes[number]
            if min(size, other) < at_least * max(size, other) - 1e-9:
                continue
            shared = len(searched & self._sets[number])
            similarity = shared / (size + other - shared)
            if similarity >= at_least:
                similar[number] = similarity
        return similar


def earlier_matches(
    sets: Sequence[AbstractSet[Feature]], at_least: float
) -> Iterator[dict[int, float]]:
    """For each set in turn the earlier ones that are so similar: their number -> Jaccard index.

    Features of more than a tenth of the sets (and of more than three) are boilerplate and do not
    count.
    """
    counts = Counter(feature for features in sets for feature in features)
    limit = boilerplate_limit(len(sets))
    boilerplate = {feature for feature, count in counts.items() if count > limit}
    repeated = {feature for feature, count in counts.items() if 1 < count <= limit}
    index = JaccardIndex[Feature]()
    for features in sets:
        shared, size = features & repeated, len(features) - len(features & boilerplate)
        yield index.matches(shared, at_least, size)
        index.add(shared, size)
