"""Forward passes over prefix trees, sized to the memory that there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from harness.api.model import Progress
from harness.errors import is_out_of_memory
from harness.models.inference import tree_attention
from harness.models.inference.lm_head import (
    COARSE,
    EXACT,
    HEAD_ROWS,
    Head,
    body_name,
    states,
    unwrapped,
)
from harness.models.inference.prefix_tree import Node, Target
from harness.models.inference.rope import LengthRope
from harness.models.inference.tree_attention import Block, Past
from harness.models.inference.virtual_tokens import VirtualTokens, virtual_tokens
from harness.system.hardware import free_memory

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

SMALL_TREE = 96
"""Tokens up to which a whole tree is one block; of a larger one the stem runs first, by itself."""


@dataclass
class Limit:
    """How much one forward pass may hold; halved where memory runs out."""

    tokens: int
    """Rows x length."""
    rows: int | None = None
    """Sequences, where the user set them (`--batch 8`)."""
    halved: int = 0
    """How often memory ran out."""
    graphs: int = 0
    """CUDA graphs that steps of decoding were replayed from."""
    head_rows: int = HEAD_ROWS
    """Positions that pass the head at once; halved apart, where their logits do not fit."""

    def halve(self, tokens: int, rows: int) -> None:
        """After a pass of so many tokens and rows ran out of memory."""
        self.tokens = max(1, min(self.tokens, tokens) // 2)
        self.rows = None if self.rows is None else max(1, min(self.rows, rows) // 2)
        self.halved += 1


@dataclass
class _Piece:
    """The unit of a pass: a node, or a small tree in depth-first order."""

    past: Past | None
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    wanted: list[tuple[int, Target]] = field(default_factory=list)
    """Offsets in the piece, and the targets to score there."""
    children: list[Node] = field(default_factory=list)
    """Nodes that continue it in later passes; `keep` has the keys and values that they need."""
    keep: Past | None = None

    def add(self, node: Node, parent: int) -> None:
        """Append a node's own tokens after the token at offset `parent`."""
        at = len(self.tokens)
        self.tokens += node.tokens
        self.positions += range(node.start, node.end)
        self.parents += [parent, *range(at, at + len(node.tokens) - 1)]
        self.wanted += [(at + w.position - node.start, w) for w in node.wanted]

    def add_tree(self, node: Node, parent: int = -1) -> None:
        """Append a node and all below it."""
        self.add(node, parent)
        end = len(self.tokens) - 1
        for child in node.children:
            self.add_tree(child, end)


class Unit(Protocol):
    """What a pass runs one or several of."""

    @property
    def tokens(self) -> Sequence[int]:
        """Its tokens."""

    @property
    def wanted(self) -> Sequence[tuple[int, Target]]:
        """Offsets in it, and the targets to score there."""

    keep: Any
    """What its pass stores for those that continue it."""


U = TypeVar("U", bound=Unit)


class Passes(Generic[U]):
    """Runs pieces batch by batch; a batch that does not fit is halved."""

    def __init__(
        self, model: CausalLM, head: Head, limit: Limit, progress: Progress | None
    ) -> None:
        self.model = model
        self.head, self.limit, self.progress = head, limit, progress
        self.device = model.device
        self.done = self.total = 0
        self.virtual = virtual_tokens(model)
        self.before = self.virtual.count if self.virtual else 0
        """Positions taken before a request's first token."""

    def _grown(self, size: int, pieces: Sequence[U]) -> int:
        """Tokens that a pass over the pieces computes; `size` is that without the last one."""
        raise NotImplementedError

    def _forward(self, pieces: Sequence[U]) -> None:
        """Run the pieces in one pass and collect the scores of their targets."""
        raise NotImplementedError

    def _together(self, pieces: Sequence[U]) -> bool:
        """Whether the last piece may share a pass with those before it."""
        return True

    def _batches(self, pieces: Iterable[U]) -> Iterator[list[U]]:
        batch: list[U] = []
        size = 0
        for piece in pieces:
            batch.append(piece)
            size = self._grown(size, batch)
            rows = self.limit.rows
            full = size > self.limit.tokens or (rows is not None and len(batch) > rows)
            full = full or not self._together(batch)
            if full and len(batch) > 1:
                complete, batch = batch[:-1], [piece]
                yield complete
                size = self._grown(0, batch)
        if batch:
            yield batch

    def _pass(self, pieces: Sequence[U]) -> None:
        """One batch, in halves where it runs out of memory."""
        try:
            self._forward(pieces)
        except Exception as error:
            if not is_out_of_memory(error) or len(pieces) == 1:
                raise
            self.limit.halve(sum(len(piece.tokens) for piece in pieces), len(pieces))
        else:
            self._count(pieces)
            return
        for piece in pieces:
            piece.keep = None  # what the failed pass had stored
        free_memory()
        middle = len(pieces) // 2
        self._pass(pieces[:middle])
        self._pass(pieces[middle:])

    def _collect(self, hidden: torch.Tensor, starts: Iterable[int], pieces: Sequence[U]) -> None:
        """Score the targets of pieces that begin at such rows of `hidden`; keep how many fit."""
        wanted = [
            (start + offset, target)
            for start, piece in zip(starts, pieces, strict=True)
            for offset, target in piece.wanted
        ]
        self.head.collect(hidden, wanted)
        if self.head.rows < self.limit.head_rows:
            self.limit.head_rows = self.head.rows
            self.limit.halved += 1

    def _count(self, pieces: Sequence[U]) -> None:
        self.done += sum(len(piece.tokens) for piece in pieces)
        if self.progress:
            self.progress(self.done, self.total)


def hidden_states(model: CausalLM, ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """(tokens, width) of one row of tokens through the transformer's body."""
    import torch

    row, places = (torch.tensor(values, device=model.device) for values in (ids, positions))
    return row_states(model, row, places)


def row_states(model: CausalLM, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """`hidden_states` of (tokens,) ids and positions that are on the model's device.

    The mask hides nothing. Without one transformers reads from the device in each pass whether
    positions follow each other, and waits for all that runs there.
    """
    import torch

    return states(
        unwrapped(model),
        input_ids=ids[None],
        position_ids=positions[None],
        attention_mask=torch.ones_like(ids)[None],
        use_cache=False,
    )[0]


class Packed(Passes[_Piece]):
    """Pieces one after the other in one row, without padding; prefixes are shared."""

    def __init__(
        self, model: CausalLM, head: Head, limit: Limit, progress: Progress | None, small_tree: int
    ) -> None:
        super().__init__(model, head, limit, progress)
        self.small_tree = small_tree

    def run(self, roots: Sequence[Node]) -> None:
        """Run trees."""
        import torch

        self.total = sum(root.count() for root in roots)
        with torch.inference_mode(), tree_attention.attending(unwrapped(self.model)):
            past = self.virtual.past() if self.virtual else None
            self._level([(root, past) for root in self._ordered(roots)])

    def _level(self, nodes: Sequence[tuple[Node, Past | None]]) -> None:
        """Run nodes, and after each batch its continuations, so that few pasts are in memory.

        Keys and values of a batch are freed as soon as nothing continues them.
        """
        for batch in self._batches(self._piece(node, past) for node, past in nodes):
            self._pass(batch)
            below = [
                (child, piece.keep) for piece in batch for child in self._ordered(piece.children)
            ]
            batch.clear()
            if below:
                self._level(below)
            below.clear()

    def _ordered(self, nodes: Sequence[Node]) -> list[Node]:
        """Nodes by length; those that have continuations come first, to fill the passes."""
        return sorted(nodes, key=lambda node: (node.count() <= self.small_tree, node.count()))

    def _piece(self, node: Node, past: Past | None) -> _Piece:
        piece = _Piece(past)
        if node.children and node.count() > self.small_tree:
            piece.add(node, -1)
            piece.children = node.children
        else:
            piece.add_tree(node)
        return piece

    def _grown(self, size: int, pieces: Sequence[_Piece]) -> int:
        return size + len(pieces[-1].tokens)

    def _forward(self, pieces: Sequence[_Piece]) -> None:
        blocks, starts, end = [], [], 0
        for piece in pieces:
            piece.keep = Past(piece.past) if piece.children else None
            blocks.append(Block(end, piece.past, piece.parents, piece.keep))
            starts.append(end)
            end += len(piece.tokens)
        ids = [token for piece in pieces for token in piece.tokens]
        positions = [self.before + position for piece in pieces for position in piece.positions]
        with tree_attention.laid_out(tree_attention.lay_out(blocks, self.device)):
            hidden = hidden_states(self.model, ids, positions)
        self._collect(hidden, starts, pieces)


class Padded(Passes[_Piece]):
    """Whole sequences, padded to the longest of a batch: for models that cannot share.

    Batches are of equal length where padding changes a model's states, or its `rope` does so by
    the longest row.
    """

    def __init__(
        self,
        model: CausalLM,
        head: Head,
        limit: Limit,
        progress: Progress | None,
        rope: LengthRope | None = None,
    ) -> None:
        super().__init__(model, head, limit, progress)
        self.rope = rope
        self.equal = rope is not None

    def run(self, roots: Sequence[Node]) -> None:
        """Run lone nodes."""
        import torch

        self.total = sum(root.count() for root in roots)
        pieces = []
        for root in sorted(roots, key=Node.count):
            pieces.append(_Piece(None))
            pieces[-1].add_tree(root)
        mixed_lengths = len({len(piece.tokens) for piece in pieces}) > 1
        self.equal = mixed_lengths and (self.equal or not padding_is_neutral(self.model))
        with torch.inference_mode():
            for batch in self._batches(pieces):
                self._pass(batch)

    def _together(self, pieces: Sequence[_Piece]) -> bool:
        return not self.equal or len(pieces[0].tokens) == len(pieces[-1].tokens)

    def _grown(self, size: int, pieces: Sequence[_Piece]) -> int:
        return len(pieces) * (self.before + len(pieces[-1].tokens))  # the last is the longest

    def _forward(self, pieces: Sequence[_Piece]) -> None:
        if self.rope is not None:
            self.rope.reset()
        hidden = padded_states(self.model, [piece.tokens for piece in pieces], self.virtual)
        rows, width = hidden.shape[:2]
        self._collect(hidden.flatten(0, 1), range(0, rows * width, width), pieces)


def padded_states(
    model: CausalLM, rows: Sequence[Sequence[int]], virtual: VirtualTokens | None = None
) -> torch.Tensor:
    """(rows, longest, width): `states` of rows of tokens, padded on the right.

    `virtual` stand before each row and are no part of what is returned.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    inputs: dict[str, object] = {"input_ids": ids, "attention_mask": mask}
    if virtual and body_name(model) is not None:
        inputs = virtual.before(ids, mask)
    return states(model, **inputs, use_cache=False)[:, -width:]


_neutral: WeakKeyDictionary[CausalLM, bool] = WeakKeyDictionary()


def padding_is_neutral(model: CausalLM) -> bool:
    """Whether padding on the right leaves a row's states as they are alone; tried once a model."""
    inner = unwrapped(model)
    if inner not in _neutral:
        _neutral[inner] = _padding_is_neutral(inner)
    return _neutral[inner]


def _padding_is_neutral(inner: CausalLM) -> bool:
    import torch

    size = int(inner.get_input_embeddings().weight.shape[0])
    rows = [[(3 + 7 * i * i + 5 * n) % size for i in range(n)] for n in (5, 13)]
    head = Head(inner)
    with torch.inference_mode():
        batched = head.logits(padded_states(inner, rows)[0, :5])
        alone = head.logits(padded_states(inner, rows[:1])[0])
    return nearly_equal(batched, alone, inner.dtype)


def nearly_equal(logits: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors of logits differ by no more than the rounding of models in `dtype`."""
    import torch

    differences = (logits.log_softmax(dim=-1) - reference.log_softmax(dim=-1)).abs()
    bound = EXACT if dtype == torch.float32 else 2 * COARSE
    difference = differences.max() if dtype == torch.float32 else differences.mean()
    return float(difference) <= bound or bool(reference.isnan().any())
