"""Shared prefixes by transformers' own caches, for layers with a state or attention of their own.

A linear-attention or state-space layer keeps a state in place of keys and values; a family may
also attend in a way that is not transformers' interface. What several requests begin with runs
once with the model's cache, whose copies then go on with each of them, row by row.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.api.model import Progress
from harness.models.inference.forward import Limit, Passes, padding_is_neutral
from harness.models.inference.lm_head import Head, body_name, states, unwrapped
from harness.models.inference.prefix_tree import Node, Target

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from harness.models.causal_lm import CausalLM

PASS_COST = 1 / 16
"""A pass of its own must save this share of `Limit.tokens`."""
STATES_ALONE = "cache_params"
"""How models without any attention take a cache; padding on the right needs no mask there."""
KEYWORDS = ("past_key_values", STATES_ALONE)
"""Under which families take a cache."""


@dataclass(frozen=True)
class CacheUse:
    """How requests go on from a cache."""

    stepwise: bool = False
    """Token by token: for layers that forget their state in a pass over several."""


@dataclass(eq=False)
class _Run:
    """Tokens that follow the end of a cache."""

    start: int
    tokens: tuple[int, ...] = ()
    wanted: list[tuple[int, Target]] = field(default_factory=list)
    """Offsets in the run, and the targets to score there."""
    children: list[_Run] = field(default_factory=list)
    parent: _Run | None = None
    keep: Cache | None = None
    """After its pass, the cache that its children go on from."""

    def count(self) -> int:
        """Tokens in this run and those that continue it."""
        return len(self.tokens) + sum(child.count() for child in self.children)


class Cached(Passes[_Run]):
    """Rows that go on from copies of a cache, padded on the right.

    Runs that others continue are batched only with siblings of their length, so that no padding
    gets into a state.
    """

    def __init__(
        self,
        model: CausalLM,
        head: Head,
        limit: Limit,
        progress: Progress | None,
        use: CacheUse,
        small_tree: int,
    ) -> None:
        super().__init__(model, head, limit, progress)
        self.stepwise = use.stepwise
        self.worth = int(limit.tokens * PASS_COST) if small_tree else 0
        """Tokens that a cache must save."""
        self.equal = False

    def run(self, roots: Sequence[Node]) -> None:
        """Run trees."""
        import torch

        runs = [run for root in roots for run in self._runs(root, None)]
        self.total = sum(run.count() for run in runs)
        self.equal = not padding_is_neutral(self.model)
        with torch.inference_mode():
            self._level(runs)

    def _runs(self, node: Node, parent: _Run | None, before: _Run | None = None) -> Iterator[_Run]:
        """Runs of a node and all below it after what `before` has; few tokens are not shared."""
        run = _Run(node.start if before is None else before.start, parent=parent)
        if before is not None:
            run.tokens, run.wanted = before.tokens, before.wanted
        run.tokens += node.tokens
        run.wanted = run.wanted + [(w.position - run.start, w) for w in node.wanted]
        if node.children and len(run.tokens) * (_ends(node) - 1) >= self.worth:
            run.children = [r for child in node.children for r in self._runs(child, run)]
            yield run
            return
        for child in node.children:
            yield from self._runs(child, parent, run)
            run = _Run(run.start, run.tokens, parent=parent)  # its targets are scored once
        if not node.children:
            yield run

    def _level(self, runs: Sequence[_Run]) -> None:
        """Run siblings, and after each batch what continues it, so that few caches are held."""
        for batch in self._batches(sorted(runs, key=lambda r: (not r.children, len(r.tokens)))):
            self._pass(batch)
            for run in batch:
                if run.children:
                    self._level(run.children)
                    run.keep = None

    def _together(self, pieces: Sequence[_Run]) -> bool:
        first, last = pieces[0], pieces[-1]
        if len(first.tokens) == len(last.tokens):
            return bool(first.children) == bool(last.children)
        return not (self.equal or first.children or last.children)

    def _grown(self, size: int, pieces: Sequence[_Run]) -> int:
        parent = pieces[-1].parent
        held = 0
        if parent is not None and parent.keep is not None:
            held = _numbers(parent.keep) // self._numbers_a_token()
        return len(pieces) * (held + len(pieces[-1].tokens))  # the last is the longest

    def _numbers_a_token(self) -> int:
        """What a pass holds of a token, in numbers, from below."""
        return 16 * int(unwrapped(self.model).get_input_embeddings().embedding_dim)

    def _forward(self, pieces: Sequence[_Run]) -> None:
        parent = pieces[0].parent
        cache, past = None, 0
        if parent is not None:
            assert parent.keep is not None
            cache, past = rows_of(parent.keep, [0] * len(pieces)), parent.start + len(parent.tokens)
        elif pieces[0].children:
            cache = new_cache(self.model)
        width = len(pieces[-1].tokens)
        hidden = self._states([piece.tokens for piece in pieces], width, cache, past)
        for row, piece in enumerate(pieces):
            if piece.children:
                assert cache is not None
                piece.keep = cache if len(pieces) == 1 else rows_of(cache, [row])
        self._collect(hidden.flatten(0, 1), range(0, len(pieces) * width, width), pieces)

    def _states(
        self, rows: Sequence[Sequence[int]], width: int, cache: Cache | None, past: int
    ) -> torch.Tensor:
        """(rows, width, hidden size) of rows that follow `past` tokens in a cache."""
        import torch

        padded = [[*row, *[0] * (width - len(row))] for row in rows]
        real = [[1] * (past + len(row)) + [0] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, device=self.device)
        mask = torch.tensor(real, device=self.device)
        inputs: dict[str, object] = {"use_cache": cache is not None}
        keyword = None if cache is None else cache_keyword(self.model)
        if keyword is not None:
            inputs[keyword] = cache
        step = 1 if self.stepwise and past else width
        parts = []
        for start in range(0, width, step):
            inputs["input_ids"] = ids[:, start : start + step]
            if keyword != STATES_ALONE:
                inputs["attention_mask"] = mask[:, : past + start + step]
            parts.append(states(self.model, **inputs))
        return torch.cat(parts, dim=1)


def _ends(node: Node) -> int:
    """Sequences below a node that end in no other, those that it would be computed in."""
    return sum(_ends(child) for child in node.children) if node.children else 1


def cache_keyword(model: CausalLM) -> str:
    """The keyword under which a model's body takes its cache; NotImplementedError if none."""
    inner, name = unwrapped(model), body_name(model)
    forward = (inner if name is None else inner.get_submodule(name)).forward
    for keyword in KEYWORDS:
        if keyword in inspect.signature(forward).parameters:
            return keyword
    raise NotImplementedError("it has no cache of transformers' kind")


def new_cache(model: CausalLM) -> Cache:
    """An empty cache of the kinds of layers that a model has."""
    from transformers import DynamicCache

    return DynamicCache(config=unwrapped(model).config)


def rows_of(cache: Cache, rows: Sequence[int]) -> Cache:
    """A cache of copies of such rows, so that passes over it leave `cache` as it is."""
    import torch

    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in copied.layers:
        states_by_name: dict[str, Any] = vars(layer)
        for name, value in states_by_name.items():
            if isinstance(value, dict):  # an index of states
                states_by_name[name] = dict(value)
    copied.reorder_cache(torch.LongTensor(list(rows)))
    return copied


def _numbers(cache: Cache) -> int:
    """How many numbers the tensors of a cache have."""
    found = []
    for layer in cache.layers:
        for value in vars(layer).values():
            found += [*value.values()] if isinstance(value, dict) else [value]
    return sum(value.numel() for value in found if hasattr(value, "numel"))
