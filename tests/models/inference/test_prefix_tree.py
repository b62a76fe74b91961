"""The tree computes each shared beginning once and still answers everything that was asked."""

import random

import pytest

from harness.models.inference.prefix_tree import MIN_SHARED, build


def paths(nodes, before=()):
    """Every node with the whole sequence up to its end."""
    for node in nodes:
        assert node.start == len(before)
        whole = (*before, *node.tokens)
        yield node, whole
        yield from paths(node.children, whole)


def answers(roots):
    """(request, index) -> (what stands before the target, target); each may occur once."""
    found = {}
    for node, whole in paths(roots):
        for wanted in node.wanted:
            assert node.start <= wanted.position < node.end
            key = (wanted.request, wanted.index)
            assert key not in found, f"{key} is computed twice"
            found[key] = (whole[: wanted.position + 1], wanted.token)
    return found


def expected(requests, max_length):
    """The same, sequence by sequence."""
    found = {}
    for number, (context, continuation) in enumerate(requests):
        whole = (*context, *continuation)
        kept = whole[-(max_length + 1) :]
        dropped = len(whole) - len(kept)
        for index, target in enumerate(continuation):
            end = len(context) + index - dropped
            if end > 0:
                found[number, index] = (kept[:end], target)
    return found


def random_requests(seed):
    """Contexts that often begin alike, continuations that often repeat."""
    draw = random.Random(seed)
    stems = [[draw.randrange(3) for _ in range(draw.randrange(40))] for _ in range(3)]
    requests = []
    for _ in range(draw.randrange(1, 30)):
        stem = draw.choice(stems)
        context = [*stem[: draw.randrange(len(stem) + 1)], *draw.choices(range(3), k=3)]
        requests.append((context, draw.choices(range(3), k=draw.randrange(1, 6))))
    return requests


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("share", [True, False])
def test_every_target_appears_once_after_its_own_context(seed, share):
    requests = random_requests(seed)
    max_length = random.Random(seed).choice([7, 20, 100])
    roots, cut = build(requests, max_length=max_length, share=share)
    assert answers(roots) == expected(requests, max_length)
    assert cut == [i for i, (c, t) in enumerate(requests) if len(c) + len(t) > max_length + 1]


@pytest.mark.parametrize("seed", range(20))
def test_sharing_never_costs_tokens(seed):
    requests = random_requests(seed)
    shared, _ = build(requests, max_length=100)
    flat, _ = build(requests, max_length=100, share=False)
    assert sum(n.count() for n in shared) <= sum(n.count() for n in flat)


def test_choices_of_one_question_share_its_tokens():
    question = list(range(50))
    requests = [(question, [100 + i, 7, 8]) for i in range(4)]
    roots, _ = build(requests, max_length=100)
    flat, _ = build(requests, max_length=100, share=False)
    assert sum(n.count() for n in flat) == 4 * 52
    assert sum(n.count() for n in roots) == 50 + 4 * 2
    assert len(roots) == 1
    assert len(roots[0].wanted) == 4  # the first token of each choice follows the question


def test_a_short_common_beginning_is_not_worth_a_pass():
    common = list(range(MIN_SHARED - 1))
    requests = [([*common, 100 + i], [1]) for i in range(20)]
    roots, _ = build(requests, max_length=100)
    assert all(not root.children for root in roots)
    assert len(roots) == 20


def test_equal_requests_run_once():
    roots, _ = build([([1, 2, 3], [4]), ([1, 2, 3], [4]), ([1, 2], [3, 4])], max_length=100)
    assert sum(n.count() for n in roots) == 3
    assert len(answers(roots)) == 4


def test_what_is_too_long_loses_its_beginning():
    roots, cut = build([(list(range(20)), [20, 21])], max_length=5)
    assert cut == [0]
    assert roots[0].tokens == (16, 17, 18, 19, 20)
    assert answers(roots) == {(0, 0): ((16, 17, 18, 19), 20), (0, 1): ((16, 17, 18, 19, 20), 21)}


def test_nothing_asked_is_nothing_to_do():
    assert build([], max_length=5) == ([], [])
