"""Runs a prefix tree through a model: each shared beginning once, the head only where wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.prefix_tree import Node, Wanted, build

HEAD_ROWS = 512
"""Positions that pass the language-model head at once: bounds rows x vocabulary in float32."""


@dataclass(frozen=True)
class Score:
    """How likely a continuation is after its context."""

    logprob: float
    """Sum over the continuation's tokens, in nats."""
    greedy: bool
    """True where each token was the most likely one."""
    token_logprobs: tuple[float, ...]
    cut: bool
    """True where the context lost its beginning to fit the model's length."""


def score_requests(
    model: Any,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    max_length: int,
    tokens_per_pass: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Scores of (context, continuation) pairs of token ids, in their order."""
    roots, cut = build(requests, max_length=max_length, share=can_share(model))
    run = _Run(model, tokens_per_pass, progress, total=sum(root.count() for root in roots))
    run.level(roots, None)
    shortened = set(cut)
    return [
        _score(run.found.get(i, {}), len(continuation), i in shortened)
        for i, (_, continuation) in enumerate(requests)
    ]


def can_share(model: Any) -> bool:
    """Whether the model's cache is plain keys and values, which can be copied row by row."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(model.config, "is_encoder_decoder", False)


def _score(found: dict[int, tuple[float, bool]], length: int, cut: bool) -> Score:
    tokens = [found[i] for i in range(length) if i in found]
    return Score(
        logprob=sum(value for value, _ in tokens),
        greedy=all(best for _, best in tokens),
        token_logprobs=tuple(value for value, _ in tokens),
        cut=cut,
    )


@dataclass
class _Past:
    """Keys and values of a batch of nodes, with the mask that hides their padding."""

    cache: Any
    mask: Any
    """(rows, past length), 1 where a token stands."""


class _Run:
    """One walk over the trees; `found[request][index]` is (log-probability, was the best)."""

    def __init__(
        self,
        model: Any,
        tokens_per_pass: int,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self.body, self.head = _parts(model)
        self.scale = _logit_scale(model)
        self.device = model.device
        self.tokens_per_pass = tokens_per_pass
        self.progress = progress
        self.done, self.total = 0, total
        self.found: dict[int, dict[int, tuple[float, bool]]] = {}

    def level(self, nodes: Sequence[Node], past: _Past | None, parents: Sequence[int] = ()) -> None:
        """Run sibling nodes, batch by batch, then what continues each batch."""
        import torch

        rows = list(parents) or [0] * len(nodes)
        with torch.inference_mode():
            for batch in self._batches(nodes, past):
                ran = self._forward([nodes[i] for i in batch], past, [rows[i] for i in batch])
                children = [(c, row) for row, i in enumerate(batch) for c in nodes[i].children]
                if children:
                    self.level([c for c, _ in children], ran, [row for _, row in children])

    def _batches(self, nodes: Sequence[Node], past: _Past | None) -> Iterator[list[int]]:
        """Indices of nodes of like length, so many that a pass stays within its tokens.

        Nodes with children and nodes without are kept apart: only the first need a cache.
        """
        order = sorted(
            range(len(nodes)), key=lambda i: (bool(nodes[i].children), -len(nodes[i].tokens))
        )
        kept = past.mask.shape[1] if past else 0
        batch: list[int] = []
        for i in order:
            width = len(nodes[batch[0]].tokens) if batch else 0
            apart = batch and bool(nodes[i].children) != bool(nodes[batch[0]].children)
            full = (len(batch) + 1) * max(width + kept // 8, 1) > self.tokens_per_pass
            if batch and (apart or full):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _forward(self, nodes: Sequence[Node], past: _Past | None, rows: Sequence[int]) -> _Past:
        """Run one batch and collect what is wanted in it."""
        import torch

        width = max(len(node.tokens) for node in nodes)
        ids = torch.zeros((len(nodes), width), dtype=torch.long)
        mask = torch.zeros((len(nodes), width), dtype=torch.long)
        for row, node in enumerate(nodes):
            ids[row, : len(node.tokens)] = torch.tensor(node.tokens)
            mask[row, : len(node.tokens)] = 1
        start = torch.tensor([[node.start] for node in nodes])
        positions = start + torch.arange(width)
        ids, mask, positions = ids.to(self.device), mask.to(self.device), positions.to(self.device)
        keep = any(node.children for node in nodes)
        cache = _rows_of(past.cache, rows) if past else _empty_cache() if keep else None
        if past:
            mask = torch.cat([past.mask[list(rows)], mask], dim=1)
        hidden = self.body(
            input_ids=ids,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        self._collect(nodes, hidden)
        self.done += sum(len(node.tokens) for node in nodes)
        if self.progress:
            self.progress(self.done, self.total)
        return _Past(cache, mask)

    def _collect(self, nodes: Sequence[Node], hidden: Any) -> None:
        """Log-softmax in float32 at each distinct wanted position of the batch."""
        places: dict[tuple[int, int], list[Wanted]] = {}
        for row, node in enumerate(nodes):
            for wanted in node.wanted:
                places.setdefault((row, wanted.position - node.start), []).append(wanted)
        keys = list(places)
        for at in range(0, len(keys), HEAD_ROWS):
            part = keys[at : at + HEAD_ROWS]
            picked = hidden[[row for row, _ in part], [column for _, column in part]]
            logprobs = self._logprobs(picked)
            best = logprobs.argmax(dim=-1)
            asked = [(i, wanted) for i, key in enumerate(part) for wanted in places[key]]
            values = logprobs[[i for i, _ in asked], [w.target for _, w in asked]].tolist()
            most_likely = best[[i for i, _ in asked]].tolist()
            for (_, wanted), value, winner in zip(asked, values, most_likely, strict=True):
                self.found.setdefault(wanted.request, {})[wanted.index] = (
                    value,
                    winner == wanted.target,
                )

    def _logprobs(self, hidden: Any) -> Any:
        """(positions, vocabulary) float32 log-probabilities from hidden states."""
        return self.scale(_head_logits(self.head, hidden)).log_softmax(dim=-1)


def _parts(model: Any) -> tuple[Any, Any]:
    """The transformer body and the head of a causal LM, an adapter's wrapper taken off.

    LoRA-like adapters live inside the body's layers, so they stay in force.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, inner.base_model_prefix), inner.get_output_embeddings()


def _head_logits(head: Any, hidden: Any) -> Any:
    """(positions, vocabulary) float32 logits, whatever the head's precision.

    A plain head is multiplied in float32. Another module, such as a head with an adapter, runs as
    it is, so that what it adds stays in force.
    """
    import torch

    if type(head) is not torch.nn.Linear:
        dtype = next(head.parameters()).dtype
        return head(hidden.to(dtype)).float()
    bias = None if head.bias is None else head.bias.float()
    return torch.nn.functional.linear(hidden.float(), head.weight.float(), bias)


def _logit_scale(model: Any) -> Callable[[Any], Any]:
    """What some families do to logits after the head: scaling and soft-capping."""
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    cap = getattr(config, "final_logit_softcapping", None)

    def apply(logits: Any) -> Any:
        if factor != 1.0 or divisor != 1.0:
            logits = logits * (factor / divisor)
        return cap * (logits / cap).tanh() if cap else logits

    return apply


def _empty_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _rows_of(cache: Any, rows: Sequence[int]) -> Any:
    """A new cache whose row i is `cache`'s row `rows[i]`."""
    from transformers import DynamicCache

    copy = DynamicCache()
    index = list(rows)
    for number, layer in enumerate(cache.layers):
        copy.update(layer.keys[index], layer.values[index], number)
    return copy
