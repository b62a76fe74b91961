"""Greedy decoding in batches; the common prefix of a batch's prompts is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from harness.api.model import Generation, Progress
from harness.errors import is_out_of_memory
from harness.models.inference import tree_attention
from harness.models.inference.forward import (
    Limit,
    hidden_states,
    nearly_equal,
    padded_states,
)
from harness.models.inference.lm_head import Head, unwrapped
from harness.models.inference.rope import LengthRope, length_rope
from harness.models.inference.tree_attention import Block, Joined, Past, attend
from harness.models.inference.virtual_tokens import VirtualTokens, virtual_tokens
from harness.system.hardware import free_memory

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

MIN_PREFIX = 8
"""Tokens that all prompts of a batch must begin with for a pass of their own."""
PROBE_TOKENS = 4
"""Tokens of a test of `generate`: the first by a pass over the prompt, the others by a cache."""
ROWS = 64
"""Answers at once by default: more is not faster on the machines that were measured."""


@dataclass(frozen=True)
class Ending:
    """What ends an answer."""

    tokens: frozenset[int]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    """Stop texts; the answer keeps the one that ended it."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Needed where there are `stops`."""

    def met(self, ids: Sequence[int]) -> bool:
        """Whether the answer so far contains one of `stops`."""
        if not self.stops or self.decode is None:
            return False
        text = self.decode(ids[-max(map(len, self.stops)) - 4 :])
        return any(stop in text for stop in self.stops)


def greedy(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    ending: Ending,
    *,
    limit: Limit,
    share: bool,
    pad: int,
    progress: Progress | None = None,
) -> list[Generation]:
    """Greedy answers to prompts given as token ids, in their order, batched by length.

    A batch that runs out of memory is halved. Without `share` transformers' `generate` is used, in
    batches of equal length where padding changes a model's answers; where even alone they are not
    those of its forward pass, each token takes a pass over all before it.
    """
    rope = length_rope(model)
    virtual = virtual_tokens(model)
    room = None if rope is None else rope.original - (virtual.count if virtual else 0)
    long = [room is not None and len(p) + ending.max_new_tokens > room for p in prompts]
    usual_strategy = "shared" if share else "padded"
    if not share and not all(long):
        usual_strategy = generate_strategy(model, pad)
    if rope is not None:
        rope.reset()
    answers: dict[int, Generation] = {}
    for is_long, strategy in ((False, usual_strategy), (True, "whole")):
        order = [i for i in range(len(prompts)) if long[i] == is_long]
        order.sort(key=lambda i: len(prompts[i]))
        batches = _Batches(model, ending, limit, strategy, pad, rope)
        for numbers, answered in batches.run(prompts, order):
            answers.update(zip(numbers, answered, strict=True))
            if progress:
                progress(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]


@dataclass
class _Batches:
    """Runs prompts batch by batch in one way; a batch that does not fit is halved."""

    model: CausalLM
    ending: Ending
    limit: Limit
    way: str
    """`shared`, `padded`, `equal` or `whole`."""
    pad: int
    rope: LengthRope | None

    def run(
        self, prompts: Sequence[Sequence[int]], order: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], list[Generation]]]:
        """Numbers of the prompts of each batch, which follow `order`, and their answers."""
        rows = self.limit.rows or ROWS
        # peft puts the padding between virtual tokens and prompt, which changes answers.
        equal_length = self.way in {"equal", "whole"}
        equal_length = equal_length or (
            self.way == "padded" and virtual_tokens(self.model) is not None
        )
        while order:
            batch = order[:rows]
            if equal_length:
                batch = [i for i in batch if len(prompts[i]) == len(prompts[batch[0]])]
            answered: list[Generation] | None = None
            try:
                answered = self._answers([prompts[i] for i in batch])
            except Exception as error:
                if not is_out_of_memory(error) or len(batch) == 1:
                    raise
                self.limit.halved += 1
                rows = len(batch) // 2
            if answered is None:
                free_memory()
                continue
            yield batch, answered
            order = order[len(batch) :]

    def _answers(self, prompts: Sequence[Sequence[int]]) -> list[Generation]:
        if self.way == "shared":
            return _shared(self.model, prompts, self.ending, self.limit)
        if self.way == "whole":
            return _whole(self.model, prompts, self.ending, self.rope)
        return _plain(self.model, prompts, self.ending, self.pad)


# transformers' `generate`


def _plain(
    model: CausalLM, prompts: Sequence[Sequence[int]], ending: Ending, pad: int
) -> list[Generation]:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    width = max(map(len, prompts))
    ids, mask = _padded_left(prompts, pad)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=ending.max_new_tokens,
        eos_token_id=sorted(ending.tokens),
        pad_token_id=pad,
    )

    ends: dict[int, int] = {}
    """Per row whose logits stopped being finite, the tokens that it had by then."""

    def record_nonfinite(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        for row in (~logits.amax(dim=-1).isfinite()).nonzero().flatten().tolist():
            ends.setdefault(row, ids.shape[1] - width)
        return logits

    def stopped(ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        stops = [ending.met(row) for row in ids[:, width:].tolist()]
        return torch.tensor(stops, device=ids.device)

    with torch.inference_mode():
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stopped] if ending.stops else []),
            logits_processor=LogitsProcessorList([record_nonfinite]),
        )
    rows = out[:, width:].tolist()
    return [_until_end(row, ending, ends.get(i)) for i, row in enumerate(rows)]


def _padded_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(prompts, longest) token ids, padded on the left, and the mask of the real tokens."""
    import torch

    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


_strategies: WeakKeyDictionary[CausalLM, str] = WeakKeyDictionary()


def generate_strategy(model: CausalLM, pad: int) -> str:
    """How `generate` gives the same answers as the forward pass; tested once a model.

    `padded` in batches of any lengths, `equal` in batches of equal length, `whole` not at all.
    """
    inner = unwrapped(model)
    if inner not in _strategies:
        size = int(inner.get_input_embeddings().weight.shape[0])
        rows = [[(3 + 7 * i * i + 5 * n) % size for i in range(n)] for n in (5, 13)]
        rows = [[token if token != pad else (pad + 1) % size for token in row] for row in rows]
        if _generates(inner, rows, pad):
            _strategies[inner] = "padded"
        elif all(_generates(inner, [row] * 2, pad) for row in rows):
            _strategies[inner] = "equal"
        else:
            _strategies[inner] = "whole"
    return _strategies[inner]


def _generates(inner: CausalLM, prompts: Sequence[Sequence[int]], pad: int) -> bool:
    """Whether `generate` takes tokens by the logits of forward passes over all before them."""
    import torch
    from transformers import GenerationConfig

    ids, mask = _padded_left(prompts, pad)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=PROBE_TOKENS,
        pad_token_id=pad,
        output_logits=True,
        return_dict_in_generate=True,
    )
    head = Head(inner)
    try:
        with torch.inference_mode():
            out = inner.generate(
                input_ids=ids.to(inner.device),
                attention_mask=mask.to(inner.device),
                generation_config=config,
            )
            for row, prompt in enumerate(prompts):
                new = out.sequences[row, ids.shape[1] :].tolist()
                states = padded_states(inner, [[*prompt, *new]])[0]
                expected = head.logits(states[len(prompt) - 1 : -1])
                chosen = torch.stack([step[row] for step in out.logits]).float()
                if not nearly_equal(chosen, expected, inner.dtype):
                    return False
    except Exception as error:  # whatever an unknown architecture raises
        if is_out_of_memory(error):
            raise
        return False
    return True


def _whole(
    model: CausalLM, prompts: Sequence[Sequence[int]], ending: Ending, rope: LengthRope | None
) -> list[Generation]:
    """Prompts of equal length, a forward pass over all tokens so far for each new one."""
    import torch

    head = Head(model)
    virtual = virtual_tokens(model)
    done: dict[int, Generation] = {}
    rows = [_Row(i) for i in range(len(prompts))]
    while rows:
        if rope is not None:
            rope.reset()
        with torch.inference_mode():
            sequences = [[*prompts[row.number], *row.ids] for row in rows]
            logits = head.logits(padded_states(model, sequences, virtual)[:, -1])
        rows = _advance(rows, _likeliest(logits), ending, done)
    return [done[i] for i in range(len(prompts))]


def _likeliest(logits: torch.Tensor) -> list[int | None]:
    """The likeliest token of each row of logits; None where they are not finite."""
    highest, best = logits.max(dim=-1)
    finite = highest.isfinite().tolist()
    return [int(t) if usable else None for t, usable in zip(best.tolist(), finite, strict=True)]


def shortfall(model: CausalLM, prompts: Sequence[Sequence[int]], count: int, limit: Limit) -> float:
    """Nats by which a token of a shared answer of `count` tokens is less likely than the likeliest.

    The most of all tokens, by plain forward passes; 0 where every token is the likeliest one.
    """
    import torch

    answers = _shared(model, prompts, Ending(frozenset(), count), limit)
    rows = [[*prompt, *answer.ids] for prompt, answer in zip(prompts, answers, strict=True)]
    head = Head(model)
    gap = 0.0
    with torch.inference_mode():
        # one pass: padding on the right comes after all tokens that are compared
        states = padded_states(model, rows, virtual_tokens(model))
        for prompt, answer, row_states in zip(prompts, answers, states, strict=True):
            if not answer.ids:
                continue
            logits = head.logits(row_states[len(prompt) - 1 :][: len(answer.ids)])
            chosen = logits[range(len(answer.ids)), list(answer.ids)]
            gap = max(gap, float((logits.max(dim=-1).values - chosen).max()))
    return gap


def _until_end(ids: Sequence[int], ending: Ending, finite_count: int | None) -> Generation:
    """The answer in `ids`, of which the first `finite_count` came from finite logits (None:
    all)."""
    for i, token in enumerate(ids):
        if i == finite_count:
            return Generation(tuple(ids[:i]), capped=False, finite=False)
        if token in ending.tokens:
            return Generation(tuple(ids[:i]), capped=False)
        if ending.met(ids[: i + 1]):
            return Generation(tuple(ids[: i + 1]), capped=False)
    return Generation(tuple(ids), capped=True)


# with shared prefixes


@dataclass
class _Row:
    """An answer in the making."""

    number: int
    ids: list[int] = field(default_factory=list)


def _shared(
    model: CausalLM, prompts: Sequence[Sequence[int]], ending: Ending, limit: Limit
) -> list[Generation]:
    import torch

    inner = unwrapped(model)
    done: dict[int, Generation] = {}
    with torch.inference_mode(), tree_attention.attending(inner):
        virtual = virtual_tokens(model)
        steps = _Steps(inner, prompts, ending.max_new_tokens, limit, virtual)
        rows = [_Row(i) for i in range(len(prompts))]
        tokens = steps.begin()
        while True:
            rows = _advance(rows, tokens, ending, done)
            if not rows:
                break
            tokens = steps.next(rows)
    return [done[i] for i in range(len(prompts))]


def _advance(
    rows: Sequence[_Row], tokens: Sequence[int | None], ending: Ending, done: dict[int, Generation]
) -> list[_Row]:
    """Give each row its next token; finished rows go to `done`, the others come back."""
    unfinished = []
    for row, token in zip(rows, tokens, strict=True):
        if token is None:
            done[row.number] = Generation(tuple(row.ids), capped=False, finite=False)
            continue
        if token in ending.tokens:
            done[row.number] = Generation(tuple(row.ids), capped=False)
            continue
        row.ids.append(token)
        stopped = ending.met(row.ids)
        if stopped or len(row.ids) == ending.max_new_tokens:
            done[row.number] = Generation(tuple(row.ids), capped=not stopped)
        else:
            unfinished.append(row)
    return unfinished


class _Steps:
    """The forward passes of one batch."""

    def __init__(
        self,
        model: CausalLM,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        limit: Limit,
        virtual: VirtualTokens | None,
    ) -> None:
        self.model = model
        self.head = Head(model)
        self.device = model.device
        self.prompts = prompts
        self.new_tokens = new_tokens
        self.limit = limit
        self.virtual = virtual
        self.cache: _Cache | None = None

    def begin(self) -> list[int | None]:
        """The first token after each prompt; None where the logits for it are not finite."""
        shared = _common_length(self.prompts)
        root = prefix = self.virtual.past() if self.virtual else None
        if shared >= MIN_PREFIX and len(self.prompts) > 1:
            prefix = Past(root)
            self._pack([self.prompts[0][:shared]], 0, root, [prefix])
        else:
            shared = 0
        pasts = [Past(prefix) for _ in self.prompts]
        remainders = [prompt[shared:] for prompt in self.prompts]
        first: list[int | None] = []
        for start, end in _chunks(remainders, self.limit.tokens):
            first += self._pack(remainders[start:end], shared, prefix, pasts[start:end])
        self.cache = _Cache(prefix, pasts, self.new_tokens)
        return first

    def next(self, rows: Sequence[_Row]) -> list[int | None]:
        """The token after the last one of each row, as `begin`."""
        assert self.cache is not None
        self.cache.advance([row.number for row in rows])
        positions = [len(self.prompts[row.number]) + len(row.ids) - 1 for row in rows]
        with tree_attention.laid_out(self.cache):
            return self._run([row.ids[-1] for row in rows], positions, range(len(rows)))

    def _pack(
        self,
        parts: Sequence[Sequence[int]],
        position: int,
        past: Past | None,
        keep: Sequence[Past],
    ) -> list[int | None]:
        """Run chains that continue `past`; the likeliest token after each."""
        blocks, offset = [], 0
        for part, past_of_part in zip(parts, keep, strict=True):
            blocks.append(Block(offset, past, range(-1, len(part) - 1), past_of_part))
            offset += len(part)
        tokens = [token for part in parts for token in part]
        positions = [position + i for part in parts for i in range(len(part))]
        with tree_attention.laid_out(tree_attention.lay_out(blocks, self.device)):
            return self._run(tokens, positions, [block.end - 1 for block in blocks])

    def _run(
        self, tokens: Sequence[int], positions: Sequence[int], rows: Sequence[int]
    ) -> list[int | None]:
        offset = self.virtual.count if self.virtual else 0
        hidden = hidden_states(self.model, tokens, [offset + p for p in positions])
        return _likeliest(self.head.logits(hidden[list(rows)]))


class _Cache:
    """Keys and values of the rows that go on, and how one new token of each attends to them."""

    def __init__(self, prefix: Past | None, pasts: Sequence[Past], new_tokens: int) -> None:
        import torch

        lengths = [past.keys[0].shape[2] for past in pasts]
        self.prefix = prefix
        self.end = max(lengths)
        """Columns in use: the prompts on the left, what is generated after the longest of them."""
        columns = self.end + new_tokens
        self.keys = {k: _stacked([p.keys[k] for p in pasts], columns) for k in pasts[0].keys}
        self.values = {k: _stacked([p.values[k] for p in pasts], columns) for k in pasts[0].values}
        device = self.keys[0].device
        column = torch.arange(columns, device=device)[None]
        length = torch.tensor(lengths, device=device)[:, None]
        self.hidden = (column >= length) & (column < self.end)
        self.numbers = list(range(len(pasts)))
        self.mask: torch.Tensor | None = None
        for past in pasts:
            past.keys.clear()
            past.values.clear()

    def advance(self, numbers: Sequence[int]) -> None:
        """One more column, for the rows `numbers`; those that ended are dropped."""
        import torch

        if list(numbers) != self.numbers:
            self._keep(numbers)
        self.end += 1
        hidden = self.hidden[:, : self.end]
        self.mask = torch.zeros(hidden.shape, dtype=self.keys[0].dtype, device=hidden.device)
        self.mask = self.mask.masked_fill_(hidden, float("-inf"))[:, None, None]

    def _keep(self, numbers: Sequence[int]) -> None:
        rows = [self.numbers.index(number) for number in numbers]
        for tensors in (self.keys, self.values):
            for layer in tensors:
                tensors[layer] = tensors[layer][rows]
        self.hidden = self.hidden[rows]
        self.numbers = list(numbers)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """(1, heads, rows, size): each row's token to its own past and to the shared prefix."""
        self.keys[layer][:, :, self.end - 1] = key[0].transpose(0, 1)
        self.values[layer][:, :, self.end - 1] = value[0].transpose(0, 1)
        own_keys = self.keys[layer][:, :, : self.end]
        own_values = self.values[layer][:, :, : self.end]
        queries = query[0].transpose(0, 1)[:, :, None]
        output, logsum = attend(queries, own_keys, own_values, self.mask, False, scale)
        joined = Joined(output[:, :, 0].transpose(0, 1)[None], logsum[:, :, 0].T[None])
        if self.prefix is not None:
            joined.out, joined.weight = joined.out.contiguous(), joined.weight.contiguous()
            for part in self.prefix.chain():
                keys, values = part.keys[layer], part.values[layer]
                joined.join(0, query.shape[2], query, keys, values, scale)
        return joined.out


def _stacked(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """(1, heads, length, size) as rows of one (rows, heads, columns, size), padded by zeros."""
    _, heads, _, size = parts[0].shape
    stacked = parts[0].new_zeros(len(parts), heads, columns, size)
    for row, part in enumerate(parts):
        stacked[row, :, : part.shape[2]] = part[0]
    return stacked


def _common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, at least one of each left over."""
    length = min(map(len, prompts)) - 1
    first = prompts[0]
    for prompt in prompts:
        length = next((i for i in range(length) if prompt[i] != first[i]), length)
    return max(length, 0)


def _chunks(parts: Sequence[Sequence[int]], tokens: int) -> Iterator[tuple[int, int]]:
    """Stretches of parts of at most so many tokens, or of one part."""
    start = tokens_held = 0
    for i, part in enumerate(parts):
        if i > start and tokens_held + len(part) > tokens:
            yield start, i
            start, tokens_held = i, 0
        tokens_held += len(part)
    yield start, len(parts)
