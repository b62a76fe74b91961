"""Keys and values of the answers in the making: a row each, written in place and reused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.models.inference.attention.kernels import hide
from harness.models.inference.attention.patterned import attend, join_past, join_sinks
from harness.models.inference.tree_attention import Joined, Layout, Past
from harness.system.hardware import free_host_memory

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM
    from harness.models.inference.attention.pattern import Pattern

MEMORY_SHARE = 0.4
"""The share of the free memory that keys and values of answers may take."""
MOST_ROWS = {"cpu": 128}
"""Answers at once, by kind of device, above which it gets no faster."""
MOST_ROWS_ELSEWHERE = 256


@dataclass(frozen=True)
class Places:
    """Where the tokens of a pass are kept, a row and a column each: two (tokens,) tensors."""

    rows: torch.Tensor
    columns: torch.Tensor
    _flat: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def flat(self, heads: int, width: int) -> torch.Tensor:
        """(tokens x heads,) positions in a tensor (rows, heads, width), seen as one dimension."""
        import torch

        if (heads, width) not in self._flat:
            head = torch.arange(heads, device=self.rows.device)
            positions = (self.rows[:, None] * heads + head) * width + self.columns[:, None]
            self._flat[heads, width] = positions.flatten()
        return self._flat[heads, width]


class Slots:
    """Keys and values, per layer (rows, key heads, columns, size).

    A row's first token is in column 0. What lies beyond its last one is finite, and hidden.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, places: Places) -> None:
        """Keep the states (1, key heads, tokens, size) of tokens at their places."""
        for stored, states in ((self.keys, key), (self.values, value)):
            _, heads, _, size = states.shape
            if layer not in stored:
                stored[layer] = states.new_zeros(self.rows, heads, self.columns, size)
            flat = stored[layer].view(-1, size)
            new = states[0].transpose(0, 1).reshape(-1, size)
            flat.index_copy_(0, places.flat(heads, self.columns), new)

    def copy(self, rows: torch.Tensor, past: Past) -> None:
        """Begin rows with the keys and values of one past."""
        for stored, states in ((self.keys, past.keys), (self.values, past.values)):
            for layer, state in states.items():
                stored[layer][rows, :, : state.shape[2]] = state

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy so many columns of a row to another."""
        for tensor in (*self.keys.values(), *self.values.values()):
            tensor[target, :, :columns] = tensor[source, :, :columns]

    def clear(self, row: int) -> None:
        """Rid a row of values that are not finite, which no mask would hide."""
        for tensor in (*self.keys.values(), *self.values.values()):
            tensor[row].zero_()

    def resize(self, rows: int, columns: int, used: int) -> None:
        """Make room for other rows and more columns; the first `used` rows stay."""
        for stored in (self.keys, self.values):
            for layer, old in stored.items():
                new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
                new[:used, :, : self.columns] = old[:used]
                stored[layer] = new
        self.rows, self.columns = rows, columns


@dataclass(frozen=True)
class Filling:
    """A pass over prompts, whose keys and values go to their places."""

    pack: Layout
    slots: Slots
    places: Places

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        pattern: Pattern,
    ) -> torch.Tensor:
        """As the pack."""
        self.slots.write(layer, key, value, self.places)
        return self.pack.attend(layer, query, key, value, scale, pattern)


class Step:
    """A pass over one more token of each of the first rows.

    `columns` (rows,) says where each is kept, and `end` is above all of them. Each attends to its
    row up to there and to `prefix`, which all share.
    """

    def __init__(self, slots: Slots, columns: torch.Tensor, end: int, prefix: Past | None) -> None:
        import torch

        self.slots, self.end, self.prefix = slots, end, prefix
        device = columns.device
        self.places = Places(torch.arange(len(columns), device=device), columns)
        dtype = next(iter(slots.keys.values())).dtype
        before = prefix.total if prefix else 0
        self.positions = before + torch.arange(end, device=device)
        """Of what each column has; `newest` are those of the rows' tokens."""
        self.newest, self.bounds = before + columns, (before, before + end - 1)
        seen = torch.arange(end, device=device)[None] <= columns[:, None]
        self.mask = hide(seen, dtype)[:, None, None]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        pattern: Pattern,
    ) -> torch.Tensor:
        """(1, heads, rows, size): each row's token to its own past and to the shared prefix."""
        self.slots.write(layer, key, value, self.places)
        _, heads, rows, size = query.shape
        # query heads of one key head stand as tokens beside each other, so that none is repeated
        queries = query[0].transpose(0, 1).reshape(rows, key.shape[1], -1, size)
        keys = self.slots.keys[layer][:rows, :, : self.end]
        values = self.slots.values[layer][:rows, :, : self.end]
        mask = self.mask
        if pattern.reach is not None:
            seen = pattern.reach.sees(self.newest[:, None], self.positions[None])
            mask = mask + hide(seen[:, None], mask.dtype)
        output, logsum = attend(pattern, queries, keys, values, mask, False, scale)
        own = output.reshape(rows, heads, -1).transpose(0, 1)[None]
        if self.prefix is None and pattern.sinks is None:
            return own
        # what is joined is rounded once, at the end
        weight = logsum.reshape(rows, heads).T[None]
        joined = Joined(own.float().contiguous(), weight.contiguous())
        for part in self.prefix.chain() if self.prefix else ():
            join_past(joined, 0, query, self.newest, self.bounds, part, layer, scale, pattern)
        join_sinks(joined, pattern)
        return joined.out.to(query.dtype)


def rows_that_fit(model: CausalLM, columns: int, memory: int) -> int:
    """Rows of so many columns whose keys and values take at most `memory` bytes, at least one."""
    most = MOST_ROWS.get(model.device.type, MOST_ROWS_ELSEWHERE)
    return max(1, min(most, memory // (columns * bytes_per_token(model))))


def bytes_per_token(model: CausalLM) -> int:
    """Keys and values of one token in all layers, in bytes, from the model's widths."""
    config = model.config.get_text_config()
    width = int(getattr(config, "hidden_size", None) or model.get_input_embeddings().embedding_dim)
    layers = int(getattr(config, "num_hidden_layers", None) or 64)
    heads = _largest(config, "num_attention_heads")
    if heads is not None:
        size = _largest(config, "head_dim") or width // heads
        width = (_largest(config, "num_key_value_heads") or heads) * size
    return 2 * layers * width * int(model.dtype.itemsize)


def _largest(config: Any, name: str) -> int | None:
    """The largest value of a setting, which layers may have of their own; None where it is none."""
    # BLT states how many layers it has for its parts alone
    counted = getattr(config, "num_hidden_layers", None) is not None
    layers = (getattr(config, "per_layer_config", None) if counted else None) or [config]
    values = [getattr(layer, name, None) for layer in layers]
    return max((value for value in values if isinstance(value, int)), default=None)


def memory_for_answers(device: torch.device) -> int:
    """Bytes that keys and values of answers may take now."""
    return int(MEMORY_SHARE * _free(device))


def _free(device: torch.device) -> int:
    """Bytes that are free on a device, those included that torch holds for later."""
    import torch

    if device.type != "cuda":
        return free_host_memory()
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held
