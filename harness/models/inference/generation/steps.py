"""Steps of decoding: one more token of each row, computed or replayed from a CUDA graph.

A step launches some hundred small kernels a layer, which an accelerator ends sooner than Python
launches the next. A CUDA graph launches all of them at once, at the addresses that they had: so
steps take what they need from tensors that stay where they are, and write it back to them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.models.inference import tree_attention
from harness.models.inference.forward import Limit, row_states
from harness.models.inference.generation.slots import Slots, Step
from harness.models.inference.lm_head import Head
from harness.models.inference.tree_attention import Past

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

CLOSE = 1e-3
"""Up to which logits of a graph may differ from the model's: they come from the same kernels."""
NOT_FINITE = -1
"""Stands for the token of logits that are not finite."""
ROWS_TOGETHER = 16
"""Rows of a graph are a multiple of it: rows that end do not each need a graph of their own."""
COLUMNS_TOGETHER = 64
"""So are the columns that it attends to."""
MOST_GRAPHS = 32
"""Each takes memory of the driver, beside torch's; shapes that come later run as they are."""


@dataclass(frozen=True)
class Latest:
    """What a step of some rows begins with and leaves to the next: (rows,) tensors."""

    tokens: torch.Tensor
    columns: torch.Tensor
    """Where the tokens' keys and values are kept."""
    most: torch.Tensor
    """The last column of each row, which it does not leave."""
    highest: torch.Tensor
    """float32, the logit of each token."""

    @classmethod
    def of(cls, tokens: torch.Tensor, columns: torch.Tensor, most: torch.Tensor) -> Latest:
        """Before the first step."""
        import torch

        return cls(tokens, columns, most, torch.zeros_like(tokens, dtype=torch.float32))

    def all(self) -> tuple[torch.Tensor, ...]:
        """Its tensors."""
        return self.tokens, self.columns, self.most, self.highest

    def first(self, rows: int) -> Latest:
        """Views of the first rows."""
        return Latest(*(tensor[:rows] for tensor in self.all()))

    def copy(self) -> Latest:
        """The same in tensors of its own."""
        return Latest(*(tensor.clone() for tensor in self.all()))

    def set(self, other: Latest) -> None:
        """Take the values of the other's rows, in place; rows beyond them are zero."""
        for mine, given in zip(self.all(), other.all(), strict=True):
            mine.zero_()
            mine[: len(given)] = given

    def agrees(self, other: Latest) -> bool:
        """Whether tokens and columns are the other's, and logits as good as so."""
        import torch

        same = torch.equal(self.tokens, other.tokens) and torch.equal(self.columns, other.columns)
        return same and torch.allclose(
            self.highest, other.highest, rtol=CLOSE, atol=CLOSE, equal_nan=True
        )


TakeStep = Callable[[Slots, Latest, int], None]
"""`Steps.step`."""


class Shape(NamedTuple):
    """Of a step; what has the same can be replayed."""

    rows: int
    end: int
    """Columns that it attends to."""


@dataclass
class Steps:
    """Takes steps of a model whose rows all have `before` positions in `prefix`."""

    model: CausalLM
    head: Head
    before: int
    prefix: Past | None
    limit: Limit
    graphs: Graphs | None = field(init=False)

    def __post_init__(self) -> None:
        self.graphs = Graphs(self.limit) if can_capture(self.model) else None

    def take(self, slots: Slots, latest: Latest, ends: Sequence[int]) -> torch.Tensor:
        """(rows, steps + 1) tokens: those of `latest`, and what each step says; it keeps the last.

        `ends` has a number above the columns of each step.
        """
        if self.graphs is None or not ends:
            return said(latest, lambda at: self.step(slots, latest, ends[at]), len(ends))
        return self.graphs.take(self.step, slots, latest, ends)

    def forget(self) -> None:
        """Drop what has the addresses of slots that are no more."""
        if self.graphs is not None:
            self.graphs.forget()

    def step(self, slots: Slots, latest: Latest, end: int) -> None:
        """One more token of each row, whose columns are all below `end`; in place."""
        import torch

        with tree_attention.laid_out(Step(slots, latest.columns, end, self.prefix)):
            tokens, positions = latest.tokens.clamp(min=0), self.before + latest.columns
            hidden = row_states(self.model, tokens, positions)
        tokens, highest = likeliest(self.head.logits(hidden))
        latest.tokens.copy_(tokens)
        latest.highest.copy_(highest)
        torch.minimum(latest.columns + 1, latest.most, out=latest.columns)


def said(latest: Latest, step: Callable[[int], None], count: int) -> torch.Tensor:
    """(rows, count + 1) the tokens before so many steps and after each."""
    import torch

    tokens = [latest.tokens.clone()]
    for at in range(count):
        step(at)
        tokens.append(latest.tokens.clone())
    return torch.stack(tokens, dim=1)


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token of each row of logits, and its logit: two (rows,) tensors.

    NOT_FINITE stands for the token where logits are not finite.
    """
    import torch

    highest, best = logits.max(dim=-1)
    return torch.where(highest.abs() < math.inf, best, NOT_FINITE), highest


# graphs


class Graphs:
    """Steps recorded as CUDA graphs, one for each shape.

    A shape runs as it is when it first comes. When it comes again it is captured, and the graph
    must say in the whole stretch what the model itself says; only then is it replayed. Where a
    step reads the device or moves between devices, where a capture fails or a graph says something
    else, all steps run as they are.

    Graphs are dropped all at once and never one by one: torch frees the workspaces of matrix
    products, which others have the addresses of, with any of them. So nothing here may refer to
    itself, for a garbage collection would drop them at any time.
    """

    def __init__(self, limit: Limit) -> None:
        """`limit` counts the graphs that said what the model says."""
        self.limit = limit
        self.fixed: bool | None = None
        """Whether a step needs nothing of the host; None before the first was looked at."""
        self.buffers: Latest | None = None
        self.seen: set[Shape] = set()
        self.replays: dict[Shape, Callable[[], None]] = {}
        self.pool: Any = None

    def forget(self) -> None:
        """Drop all graphs, and the tensors that they begin with."""
        if self.replays:
            wait_for_device()
        self.replays.clear()
        self.seen.clear()
        self.buffers = self.pool = None

    def take(
        self, step: TakeStep, slots: Slots, latest: Latest, ends: Sequence[int]
    ) -> torch.Tensor:
        """As `Steps.take`, of which `step` takes one step."""
        count, rows = len(ends), len(latest.tokens)
        shape = Shape(
            _up(rows, ROWS_TOGETHER, slots.rows), _up(ends[-1], COLUMNS_TOGETHER, slots.columns)
        )
        full = shape not in self.replays and len(self.replays) >= MOST_GRAPHS
        if not self.fixed or shape not in self.seen or full:
            self.seen.add(shape)
            return said(latest, lambda at: self._looked_at(step, slots, latest, ends[at]), count)
        own = self._own(latest, shape, slots.rows)
        if shape in self.replays:
            tokens = self._replayed(own, shape, count)
        else:
            tokens = self._first(lambda: step(slots, own, shape.end), own, shape, count)
        latest.tokens.copy_(own.tokens[:rows])
        return tokens[:rows]

    def _looked_at(self, step: TakeStep, slots: Slots, latest: Latest, end: int) -> None:
        """A step as it is; the first one tells whether it can be captured."""
        if self.fixed is not None:
            return step(slots, latest, end)
        watch = host_watch()
        with watch:
            step(slots, latest, end)
        self.fixed = not watch.found

    def _own(self, latest: Latest, shape: Shape, most: int) -> Latest:
        """The same in tensors that stay where they are; rows beyond it stand in column 0."""
        if self.buffers is None:
            zeros = [latest.tokens.new_zeros(most) for _ in range(3)]
            self.buffers = Latest.of(*zeros)
        own = self.buffers.first(shape.rows)
        own.set(latest)
        return own

    def _first(
        self, step: Callable[[], None], own: Latest, shape: Shape, count: int
    ) -> torch.Tensor:
        """A stretch by the model itself, after one by its graph: the model's states are kept."""
        start, replayed = own.copy(), None
        self.pool = new_pool() if self.pool is None else self.pool
        with contextlib.suppress(RuntimeError):  # out of memory too
            self.replays[shape] = capture(step, self.pool)
            own.set(start)
            self._replayed(own, shape, count)
            replayed = own.copy()
        own.set(start)
        tokens = said(own, lambda _: step(), count)
        if replayed is not None and own.agrees(replayed):
            self.limit.graphs += 1
        else:
            self.fixed = False
            self.forget()
        return tokens

    def _replayed(self, own: Latest, shape: Shape, count: int) -> torch.Tensor:
        replay = self.replays[shape]
        return said(own, lambda _: replay(), count)


def can_capture(model: CausalLM) -> bool:
    """Whether steps of a model may be CUDA graphs: on the current device, if it is NVIDIA's."""
    import torch

    if model.device.type != "cuda" or not torch.cuda.is_available() or torch.version.hip:
        return False
    return model.device.index in (None, torch.cuda.current_device())


def new_pool() -> Any:
    """Memory that graphs share: none runs while another does."""
    import torch

    return torch.cuda.graph_pool_handle()


def wait_for_device() -> None:
    """Until all that was launched is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def capture(work: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Record what `work` launches; calling what is returned launches it again.

    `work` runs once before, so that its kernels are loaded. What waits for the device is an error
    then (RuntimeError), and not within the capture, which leaves torch with its stream and memory.
    """
    import torch

    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    graph = torch.cuda.CUDAGraph()
    # a capture that fails does not go back to the stream it came from
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
    ):
        work()
    return graph.replay


def host_watch() -> Any:
    """A mode of torch whose `found` tells of operations within it that a graph cannot hold.

    Those are what the host waits for (a number, a shape that depends on values), and copies
    between devices.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

    class Watch(TorchDispatchMode):
        found = False

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            with self:  # what an operation is made of may wait, and no tag of its own says so
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
            out = func(*args, **(kwargs or {}))
            tensors = [x for x in tree_leaves((args, out)) if isinstance(x, torch.Tensor)]
            devices = {x.device for x in tensors if x.dim()}
            self.found |= bool(waits & set(func.tags)) or len(devices) > 1
            return out

    return Watch()


def _up(count: int, multiple: int, most: int) -> int:
    return min(-(-count // multiple) * multiple, most)
