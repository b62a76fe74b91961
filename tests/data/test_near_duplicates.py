"""The search for similar sets gives what comparing every pair gives."""

import random

import pytest

from harness.data.near_duplicates import JaccardIndex, earlier_matches, jaccard, trigrams
from harness.data.text_normalization import matching_words, symbols


def drawn_sets(count, seed=3):
    """Sets of 1 to 12 of 40 features, the first of them frequent; some nearly repeat others."""
    draw = random.Random(seed)
    sets = []
    for _ in range(count):
        if sets and draw.random() < 0.3:
            earlier = draw.choice(sets)
            sets.append(earlier ^ {draw.randrange(40)} or earlier)
        else:
            sets.append({int(40 * draw.random() ** 2) for _ in range(draw.randint(1, 12))})
    return sets


@pytest.mark.parametrize("at_least", [0.0, 0.3, 0.5, 2 / 3, 0.8, 1.0])
def test_matches_are_those_of_comparing_every_pair(at_least):
    sets = drawn_sets(200)
    index = JaccardIndex()
    for features in sets:
        index.add(features)
    for searched in [*drawn_sets(50, seed=4), set(), {99}]:
        expected = {
            number: jaccard(searched, features)
            for number, features in enumerate(sets)
            if searched & features and jaccard(searched, features) >= at_least
        }
        assert index.matches(searched, at_least) == expected


@pytest.mark.parametrize("at_least", [0.1, 0.75, 0.8])
def test_earlier_matches_leave_out_boilerplate(at_least):
    shared_by_all, shared_by_three = {100, 101, 102}, {200, 201}
    sets = [
        set(range(1000 * (number // 2), 1000 * (number // 2) + 8))
        | {-number}
        | shared_by_all
        | (shared_by_three if number < 3 else set())
        for number in range(30)
    ]
    counted = [features - shared_by_all for features in sets]
    expected = [
        {
            earlier: jaccard(counted[earlier], features)
            for earlier in range(later)
            if jaccard(counted[earlier], features) >= at_least
        }
        for later, features in enumerate(counted)
    ]
    assert any(expected)
    assert list(earlier_matches(sets, at_least)) == expected


def test_trigrams_of_short_texts():
    assert trigrams([]) == set()
    assert trigrams(["a", "b"]) == {("a", "b")}
    assert trigrams(["a", "b", "c", "d"]) == {("a", "b", "c"), ("b", "c", "d")}
    assert jaccard(set(), set()) == 1.0


def test_words_have_no_case_and_no_punctuation():
    assert matching_words("«Don’t», he SAID: it's 5 €…") == ["don’t", "he", "said", "it's", "5"]
    assert symbols("«Don’t»: 5 € 👍 + $…") == ["€", "👍"]
