"""Greedy answers in slots: where one ends, a waiting prompt takes its row.

Between two looks at the tokens everything stays on the model's device: a step takes its tokens from
the one before. What a row says beyond its end, until the next look, is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.api.model import Generation
from harness.errors import is_out_of_memory
from harness.models.inference import tree_attention
from harness.models.inference.forward import Limit, hidden_states
from harness.models.inference.generation import slots
from harness.models.inference.generation.slots import Filling, Places, Slots
from harness.models.inference.generation.stems import Waiting, common_length, lined_up
from harness.models.inference.generation.steps import NOT_FINITE, Latest, Steps, likeliest
from harness.models.inference.lm_head import Head, unwrapped
from harness.models.inference.tree_attention import Block, Past
from harness.models.inference.virtual_tokens import virtual_tokens
from harness.system.hardware import free_memory

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

Finished = Callable[[int, Generation], None]
"""Takes the number of a prompt and its answer."""
LOOKS = {"cpu": 1}
"""Steps between two looks at the tokens, by kind of device; a look stops an accelerator."""
LOOKS_ELSEWHERE = 8
MIN_PREFIX = 8
"""Tokens that all prompts must begin with for a pass of their own."""
GROWTH = 1.25
"""Columns after which slots are too narrow, to those before: they are rarely copied."""


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

    def take(self, ids: list[int], token: int) -> Generation | None:
        """The whole answer, if `token` after `ids` ends it; else None, and `ids` has the token."""
        if token == NOT_FINITE:
            return Generation(tuple(ids), capped=False, finite=False)
        if token in self.tokens:
            return Generation(tuple(ids), capped=False)
        ids.append(token)
        stopped = self.met(ids)
        if stopped or len(ids) == self.max_new_tokens:
            return Generation(tuple(ids), capped=not stopped)
        return None


def decode(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    ending: Ending,
    limit: Limit,
    finished: Finished,
) -> None:
    """Call `finished` with each prompt's number and greedy answer, as soon as it is whole.

    Where memory runs out, half as many rows go on, and the answers that were in the making begin
    anew. Raises what reports that memory ran out where a single row does not fit.
    """
    import torch

    if not prompts:
        return
    inner = unwrapped(model)
    with torch.inference_mode(), tree_attention.attending(inner):
        work = _Decoding(model, prompts, ending, limit, finished)
        while work.unfinished:
            rows = 0
            try:
                work.advance()
            except Exception as error:
                rows = work.most_tried()
                if not is_out_of_memory(error) or rows == 1:
                    raise
            if rows:
                limit.halved += 1
                work.begin_anew(rows // 2)
                free_memory()


@dataclass
class _Row:
    """An answer in the making."""

    prompt: Waiting
    ids: list[int] = field(default_factory=list)
    new: bool = True
    """Whether its first token was not looked at yet."""

    @property
    def columns(self) -> int:
        """Columns in use; its latest token has none yet."""
        return self.prompt.length + len(self.ids) - (0 if self.new else 1)


class _Decoding:
    """What runs, what waits, and the latest token of each row."""

    def __init__(
        self,
        model: CausalLM,
        prompts: Sequence[Sequence[int]],
        ending: Ending,
        limit: Limit,
        finished: Finished,
    ) -> None:
        import torch

        self.model, self.head, self.device = unwrapped(model), Head(model), model.device
        self.ending, self.limit, self.finished = ending, limit, finished
        self.every = LOOKS.get(self.device.type, LOOKS_ELSEWHERE)
        self.memory = slots.memory_for_answers(self.device)
        virtual = virtual_tokens(model)
        self.before = virtual.count if virtual else 0
        """Positions taken before what each row has of its own."""
        self.prefix = virtual.past() if virtual else None
        shared = common_length(prompts) if len(prompts) > 1 else 0
        if shared >= MIN_PREFIX:
            self.prefix = self._kept([prompts[0][:shared]], self.prefix)[0]
            self.before += shared
        else:
            shared = 0
        self.waiting = deque(lined_up([prompt[shared:] for prompt in prompts]))
        self.rows: list[_Row] = []
        self.most: int | None = None
        """Rows at once, where more did not fit."""
        self.slots = Slots(0, 0)
        self.steps = Steps(self.model, self.head, self.before, self.prefix, limit)
        self.tokens = torch.zeros(0, dtype=torch.long, device=self.device)
        """(rows of the slots,) the latest token of each."""

    @property
    def unfinished(self) -> bool:
        """Whether a prompt waits or an answer goes on."""
        return bool(self.waiting or self.rows)

    def advance(self) -> None:
        """Fill the rows that are free, take some steps, and look at the tokens."""
        self._fill()
        looked = self._steps()
        self._settle(looked)

    def most_tried(self) -> int:
        """Rows that ran, or were to run, when memory ran out."""
        return max(1, len(self.rows))

    def begin_anew(self, most: int) -> None:
        """Let the answers in the making wait again, and drop their keys and values."""
        self.most = most
        self.waiting.extendleft(row.prompt for row in reversed(self.rows))
        self.rows.clear()
        self.slots = Slots(0, 0)
        self.steps.forget()

    # prompts

    def _fill(self) -> None:
        new: list[_Row] = []
        first = len(self.rows)
        while self.waiting and self._room(self.waiting[0]):
            new.append(_Row(self.waiting.popleft()))
            self.rows.append(new[-1])
        if not new:
            return
        self._widen(first)
        for start, end in _chunks([len(row.prompt.own) for row in new], self.limit.tokens):
            self._prefill(new[start:end], first + start)

    def _room(self, prompt: Waiting) -> bool:
        """Whether one more row can run, as wide as this prompt needs it."""
        columns = max(self.slots.columns, prompt.length + self.ending.max_new_tokens)
        rows = self.limit.rows or slots.rows_that_fit(self.model, columns, self.memory)
        return len(self.rows) < min(rows, self.most or rows)

    def _widen(self, used: int) -> None:
        """Make the slots as large as the rows need them, of which the first `used` have states."""
        needed = max(row.prompt.length for row in self.rows) + self.ending.max_new_tokens
        rows, columns = max(self.slots.rows, len(self.rows)), self.slots.columns
        if needed > columns:
            longest = max((p.length for p in self.waiting), default=0) + self.ending.max_new_tokens
            columns = max(needed, min(longest, int(GROWTH * columns)))
            rows = len(self.rows)
        if (rows, columns) != (self.slots.rows, self.slots.columns):
            self.slots.resize(rows, columns, used)
            self.steps.forget()
            self.tokens = self.tokens.new_zeros(rows).index_copy_(
                0, self._numbers(range(used)), self.tokens[:used]
            )

    def _prefill(self, new: Sequence[_Row], first: int) -> None:
        """Run the prompts of rows from `first` on; their first tokens stay on the device."""
        prompts = [row.prompt for row in new]
        stems = {id(p.stem): p.stem for p in prompts if p.stem and p.stem.past is None}
        for start, end in _chunks([len(s.tokens) for s in stems.values()], self.limit.tokens):
            part = list(stems.values())[start:end]
            kept = self._kept([stem.tokens for stem in part], self.prefix)
            for stem, keys_and_values in zip(part, kept, strict=True):
                stem.past = keys_and_values
        blocks, at = [], 0
        for prompt in prompts:
            past = prompt.stem.past if prompt.stem else self.prefix
            blocks.append(Block(at, past, range(-1, len(prompt.own) - 1), None))
            at += len(prompt.own)
        columns = [c for p in prompts for c in range(p.length - len(p.own), p.length)]
        rows = [first + i for i, p in enumerate(prompts) for _ in p.own]
        places = Places(self._numbers(rows), self._numbers(columns))
        pack = tree_attention.lay_out(blocks, self.device)
        with tree_attention.laid_out(Filling(pack, self.slots, places)):
            hidden = hidden_states(
                self.model,
                [token for prompt in prompts for token in prompt.own],
                [self.before + column for column in columns],
            )
        last = hidden[self._numbers([block.end - 1 for block in blocks])]
        numbers = self._numbers(range(first, first + len(new)))
        self.tokens.index_copy_(0, numbers, likeliest(self.head.logits(last))[0])
        self._begin_with_stems(prompts, first)

    def _begin_with_stems(self, prompts: Sequence[Waiting], first: int) -> None:
        """Copy the stems of prompts into their rows, once a stem."""
        rows: dict[int, list[int]] = {}
        for number, prompt in enumerate(prompts, start=first):
            rows.setdefault(id(prompt.stem), []).append(number)
        for stem in {id(p.stem): p.stem for p in prompts}.values():
            if stem is not None and stem.past is not None:
                self.slots.copy(self._numbers(rows[id(stem)]), stem.past)

    def _kept(self, parts: Sequence[Sequence[int]], past: Past | None) -> list[Past]:
        """Run chains of tokens that continue `past`, and keep their keys and values."""
        kept = [Past(past) for _ in parts]
        blocks, at = [], 0
        for part, keep in zip(parts, kept, strict=True):
            blocks.append(Block(at, past, range(-1, len(part) - 1), keep))
            at += len(part)
        with tree_attention.laid_out(tree_attention.lay_out(blocks, self.device)):
            hidden_states(
                self.model,
                [token for part in parts for token in part],
                [self.before + i for part in parts for i in range(len(part))],
            )
        return kept

    # steps

    def _steps(self) -> list[list[int]]:
        """Take some steps; per row its latest token before them, and one more of each step."""
        rows = self.rows
        left = max(self.ending.max_new_tokens - len(row.ids) - row.new for row in rows)
        count = min(self.every, left)
        if self.every == 1 and any(row.new for row in rows):
            count = 0  # a look costs nothing here, and a first token may end an answer
        used = [row.columns for row in rows]
        last = [row.prompt.length + self.ending.max_new_tokens - 1 for row in rows]
        ends = [max(map(min, (u + step for u in used), last)) + 1 for step in range(count)]
        columns, most = self._numbers([*used, *last]).view(2, -1)
        latest = Latest.of(self.tokens[: len(rows)], columns, most)
        tokens: list[list[int]] = self.steps.take(self.slots, latest, ends).tolist()
        return tokens

    def _settle(self, looked: Sequence[Sequence[int]]) -> None:
        """Give each row what it said; rows that ended are free, the others close up."""
        going_on = []
        for number, (row, tokens) in enumerate(zip(self.rows, looked, strict=True)):
            said = tokens if row.new else tokens[1:]
            row.new = False
            answer = next(filter(None, (self.ending.take(row.ids, t) for t in said)), None)
            if NOT_FINITE in tokens:
                self.slots.clear(number)
            if answer is None:
                going_on.append(number)
            else:
                self.finished(row.prompt.number, answer)
        self._close_up(going_on)

    def _close_up(self, going_on: Sequence[int]) -> None:
        """Move the last of the rows that go on to where others ended, one by one."""
        kept = len(going_on)
        free = sorted(set(range(kept)) - set(going_on))
        for target, source in zip(free, [n for n in going_on if n >= kept], strict=True):
            self.slots.move(source, target, self.rows[source].columns)
            self.tokens[target] = self.tokens[source]
            self.rows[target] = self.rows[source]
        del self.rows[kept:]

    def _numbers(self, values: Sequence[int]) -> torch.Tensor:
        """On the model's device."""
        import torch

        return torch.tensor(list(values), dtype=torch.long, device=self.device)


def _chunks(lengths: Sequence[int], tokens: int) -> Iterator[tuple[int, int]]:
    """Stretches of at most so many tokens, or of one length."""
    start = held = 0
    for i, length in enumerate(lengths):
        if i > start and held + length > tokens:
            yield start, i
            start, held = i, 0
        held += length
    if lengths:
        yield start, len(lengths)
