"""The prefix tree against a brute-force one: every target once, every distinct prefix once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from harness.models.inference import prefix_tree
from harness.models.inference.prefix_tree import Node, build

Requests = list[tuple[list[int], list[int]]]

TOKENS = st.lists(st.integers(0, 2), max_size=12)
REQUESTS = st.lists(st.tuples(TOKENS, TOKENS.filter(bool)), max_size=12).map(
    lambda pairs: [(context or [7], continuation) for context, continuation in pairs]
)
LONG = 1000


def paths(
    nodes: Sequence[Node], before: tuple[int, ...] = ()
) -> Iterator[tuple[Node, tuple[int, ...]]]:
    """Each node with all tokens up to its end."""
    for node in nodes:
        whole = before + node.tokens
        assert node.start == len(before)
        yield node, whole
        yield from paths(node.children, whole)


def sequences(requests: Requests, max_length: int) -> list[tuple[int, ...]]:
    """What a pass computes of each request: all but its last token, cut from the left."""
    whole = [tuple(context) + tuple(continuation) for context, continuation in requests]
    return [sequence[-(max_length + 1) :][:-1] for sequence in whole]


def prefixes(requests: Requests, max_length: int) -> int:
    """How many distinct beginnings there are, by writing all of them down."""
    every = {s[:end] for s in sequences(requests, max_length) for end in range(1, len(s) + 1)}
    return len(every)


@given(REQUESTS, st.sampled_from([3, 8, LONG]), st.booleans())
def test_every_target_is_found_once_after_its_own_tokens(
    requests: Requests, max_length: int, share: bool
) -> None:
    nodes, cut = build(requests, max_length=max_length, share=share)
    whole = sequences(requests, max_length)
    found = set()
    for node, tokens in paths(nodes):
        for target in node.wanted:
            assert node.start <= target.position < node.end
            _, continuation = requests[target.request]
            assert target.token == continuation[target.index]
            assert tokens[: target.position + 1] == whole[target.request][: target.position + 1]
            key = (target.request, target.index)
            assert key not in found
            found.add(key)
    assert cut == [n for n, (a, b) in enumerate(requests) if len(a) + len(b) > max_length + 1]
    wanted = {
        (number, index)
        for number, (context, continuation) in enumerate(requests)
        for index in range(len(continuation))
        if len(context) + len(continuation) - max_length - 1 <= len(context) + index - 1
    }
    assert found == wanted


@given(REQUESTS, st.sampled_from([3, 8, LONG]))
def test_each_distinct_prefix_is_computed_once(requests: Requests, max_length: int) -> None:
    with mock.patch.multiple(prefix_tree, MIN_SHARED=1, MIN_SAVED=1):
        nodes, _ = build(requests, max_length=max_length)
    fewest = prefixes(requests, max_length)
    assert sum(node.count() for node in nodes) == fewest
    # where sharing must pay it computes more, and never more than without
    usual = sum(node.count() for node in build(requests, max_length=max_length)[0])
    apart = sum(node.count() for node in build(requests, max_length=max_length, share=False)[0])
    assert fewest <= usual <= apart
    assert apart == sum(map(len, set(sequences(requests, max_length))))


@given(REQUESTS, st.randoms(use_true_random=False))
def test_the_order_of_requests_changes_no_node(requests: Requests, random: object) -> None:
    order = list(range(len(requests)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shape = [
        [(node.start, tokens) for node, tokens in paths(build(given, max_length=LONG)[0])]
        for given in (requests, [requests[number] for number in order])
    ]
    assert shape[0] == shape[1]
