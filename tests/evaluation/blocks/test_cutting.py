"""Where blocks of requests end: by their content alone, at the cheapest places, losing none."""

from __future__ import annotations

import itertools
import random

import pytest

from harness.evaluation.blocks import cutting

Pairs = list[tuple[list[int], list[int]]]


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "TOKENS", {"cpu": 1000})
    monkeypatch.setattr(cutting, "PROMPTS", {"cpu": 10})


def questions(stems: int, each: int, stem_length: int = 50) -> Pairs:
    """Questions behind few-shot stems, four choices each."""
    draw = random.Random(0)

    def some(length: int) -> list[int]:
        return [draw.randrange(500) for _ in range(length)]

    asked = [
        stem + some(20) for stem in (some(stem_length) for _ in range(stems)) for _ in range(each)
    ]
    return [(context, [choice, 7]) for context in asked for choice in range(4)]


def distinct_tokens(pairs: Pairs) -> int:
    sequences = {(*context, *continuation) for context, continuation in pairs}
    return len({s[:end] for s in sequences for end in range(1, len(s) + 1)})


def test_every_request_is_in_one_block() -> None:
    pairs = questions(stems=6, each=20)
    found = cutting.of_pairs(pairs, "cpu")
    assert len(found) > 3
    assert sorted(itertools.chain(*found)) == list(range(len(pairs)))
    sizes = [distinct_tokens([pairs[i] for i in block]) for block in found]
    assert max(sizes) < 1.5 * min(sizes)


def test_few_requests_are_one_block_in_their_own_order() -> None:
    assert cutting.of_pairs(questions(1, 3), "cpu") == [range(12)]
    assert cutting.of_prompts([[1, 2], [3]], "cpu") == [range(2)]
    assert cutting.of_pairs([], "cpu") == [range(0)]
    many = questions(6, 20)
    assert len(cutting.of_pairs(many, "cpu")) > len(cutting.of_pairs(many, "cuda")) == 1


def test_blocks_do_not_depend_on_the_order_of_the_requests() -> None:
    pairs = questions(stems=6, each=20)
    mixed = random.Random(1).sample(pairs, len(pairs))

    def content(asked: Pairs) -> list[list[object]]:
        return [sorted(str(asked[i]) for i in block) for block in cutting.of_pairs(asked, "cpu")]

    assert content(pairs) == content(mixed)


@pytest.mark.parametrize("stem_length", [20, 50])
def test_blocks_end_between_stems_where_they_can(stem_length: int) -> None:
    """What is computed twice is little: no stem is cut where another ends near by."""
    pairs = questions(stems=20, each=10, stem_length=stem_length)
    found = cutting.of_pairs(pairs, "cpu")
    each = sum(distinct_tokens([pairs[i] for i in block]) for block in found)
    assert len(found) > 3
    assert each <= 1.03 * distinct_tokens(pairs)
    # the control: blocks of as many requests each, in the order of a shuffled file
    mixed = random.Random(1).sample(pairs, len(pairs))
    step = len(pairs) // len(found)
    cut = [mixed[i : i + step] for i in range(0, len(mixed), step)]
    assert sum(map(distinct_tokens, cut)) > 1.1 * distinct_tokens(pairs)


def test_a_stem_that_all_share_is_cut_between_questions() -> None:
    pairs = questions(stems=1, each=80)
    for block in cutting.of_pairs(pairs, "cpu"):
        asked = {tuple(pairs[i][0]) for i in block}
        assert len(block) == 4 * len(asked)


def test_prompts_of_like_length_run_together() -> None:
    draw = random.Random(0)
    prompts = [[draw.randrange(500) for _ in range(draw.randrange(1, 60))] for _ in range(45)]
    found = cutting.of_prompts(prompts, "cpu")
    assert sorted(itertools.chain(*found)) == list(range(45))
    assert {len(block) for block in found} <= {11, 12}
    lengths = [[len(prompts[i]) for i in block] for block in found]
    assert all(max(a) <= min(b) for a, b in itertools.pairwise(lengths))
