"""The largest batch that a cell's training sees, from its rows and the model's own tokenizer.

Runs in the parent: `tokenizers` and `jinja2` are light. Rows are sorted by characters and only
the longest batches are tokenised, so that it stays quick for any number of rows.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.rows import training_order
from harness.data.tool_calls.given import turn_text
from harness.data.training_set import DataPlan, training_rows
from harness.system.security.sandbox import limited
from harness.system.security.time_limit import TooSlow
from harness.types import Budget, ModelRef, Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CANDIDATES = 6
"""Batches, the longest by characters, whose rows are tokenised."""
DRAWS = 1_000_000
"""Draws that are considered: of a longer training its first steps."""
TURN_TOKENS = 5
"""Of a conversation's turn beside its content, where no template can be rendered."""
CHARACTERS = 3.5
"""Of a token, where there is no tokenizer to ask."""


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass."""

    rows: int
    length: int
    """Tokens of the longest row."""
    tokens: int
    """Positions that are computed: with padding, or without where rows are packed."""
    supervised: int
    """Tokens that the loss counts."""
    padded: bool
    """Whether there is a mask: some row is shorter than the longest."""
    source: str
    """The source of the lengths: the tokenizer, or an estimate."""
    mean_tokens: float = 0.0
    """Positions computed in a mean batch; 0 where it is like the largest."""


def longest_batch(budget: Budget, packing: bool = False) -> Batch:
    """A batch whose rows all fill `max_length`, half of their tokens in the loss."""
    rows, length = budget.first_micro_batch, budget.max_length
    return Batch(rows, length, rows * length, rows * length // 2, False, "every row at max_length")


def _passes(
    order: Sequence[int], sizes: Sequence[int], budget: Budget, packing: bool
) -> list[Sequence[int]]:
    """The rows of each forward pass; rows of similar length together with `group_by_length`."""
    micro, batch = budget.first_micro_batch, budget.batch
    steps = [order[i : i + batch] for i in range(0, len(order), batch)]
    if micro < batch and budget.group_by_length and not packing:
        steps = [sorted(step, key=lambda i: -sizes[i]) for step in steps]
    return [step[i : i + micro] for step in steps for i in range(0, len(step), micro)]


def largest_batch(
    data: DataPlan,
    budget: Budget,
    seed: int,
    model: ModelRef,
    chat_template: str | None = None,
    packing: bool = False,
) -> Batch:
    """The batch of the training with the most computed positions, in the plan's own order."""
    rows = _rows(data)
    steps = min(budget.steps, max(1, DRAWS // budget.batch))
    order = training_order(len(rows), steps * budget.batch, seed)
    parts = _passes(order, [characters for _, characters in rows], budget, packing)

    def characters(part: Sequence[int], most: float = math.inf) -> float:
        sizes = [min(rows[i][1], most) for i in part]
        return sum(sizes) if packing else len(sizes) * max(sizes)

    count, source = _counter(model, data.loss, chat_template)
    likely = sorted(parts, key=characters, reverse=True)[:CANDIDATES]
    batches = [
        _batch([count(rows[i][0]) for i in part], budget.max_length, packing, source)
        for part in likely
    ]
    largest = max(batches, key=lambda batch: batch.tokens)
    # truncated tokens are not computed
    sizes = [characters(part, CHARACTERS * budget.max_length) for part in parts]
    share = sum(sizes) / len(sizes) / max(1, *sizes)
    return replace(largest, mean_tokens=share * largest.tokens)


def _batch(counts: Sequence[tuple[int, int]], most: int, packing: bool, source: str) -> Batch:
    lengths = [min(most, total) for total, _ in counts]
    tokens = sum(lengths) if packing else len(lengths) * max(lengths)
    # truncation takes the end, where the answers are
    learnt = [max(0, taught - max(0, total - most)) for total, taught in counts]
    padded = not packing and min(lengths) < max(lengths)
    return Batch(len(lengths), max(lengths), tokens, sum(learnt), padded, source)


_CACHE: dict[tuple[str, int], list[tuple[Row, int]]] = {}
"""Rows already read, by their hash and how many are trained on."""


def _rows(data: DataPlan) -> list[tuple[Row, int]]:
    """Training rows with their characters; read once for all cells of a data set."""
    key = (data.hash, data.rows)
    if key not in _CACHE:
        train, _ = training_rows(data)
        _CACHE[key] = [(row, sum(len(text) for text in _texts(row))) for row in train]
    return _CACHE[key]


def _texts(row: Row) -> list[str]:
    if row.messages is not None:
        return [turn_text(turn) for turn in row.messages]
    return [text for text in (row.prompt, row.completion, row.text) if text]


def _tool_texts(row: Row) -> list[str]:
    return [json.dumps(tool) for tool in row.tools or ()]


def _counter(
    model: ModelRef, loss: str, chat_template: str | None
) -> tuple[Callable[[Row], tuple[int, int]], str]:
    """A function from a row to its (tokens, tokens in the loss), and the source of its counts."""
    file = Path(model.path) / "tokenizer.json"
    if file.is_file():
        tokenizer = _tokenizer(str(file))
        size: Callable[[str], int] = lambda text: len(  # noqa: E731
            tokenizer.encode(text, add_special_tokens=False).ids
        )
        source = "rows counted with the model's tokenizer"
    else:
        size = lambda text: round(len(text) / CHARACTERS)  # noqa: E731
        source = f"rows estimated at {CHARACTERS} characters a token"
    render = _renderer(Path(model.path), chat_template)

    def count(row: Row) -> tuple[int, int]:
        if row.messages is None:
            total = sum(size(text) for text in _texts(row)) + 1
            learnt = size(row.completion or row.text or "") + 1
        else:
            answers = [turn_text(turn) for turn in row.messages if turn["role"] == "assistant"]
            learnt = sum(size(text) + 1 for text in answers)
            text = render(row)
            total = (
                size(text)
                if text is not None
                else sum(size(turn) + TURN_TOKENS for turn in (*_texts(row), *_tool_texts(row)))
            )
        return total, total if loss == "all" else learnt

    return count, source


@functools.lru_cache(maxsize=2)
def _tokenizer(file: str) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(file)


def _renderer(folder: Path, given: str | None) -> Callable[[Row], str | None]:
    """Renders a conversation as transformers does; None where the template fails."""
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    file = folder / "chat_template.jinja"
    own = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    source = given or own
    if not isinstance(source, str):
        return lambda row: None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    special = {key: _text(value) for key, value in settings.items() if key.endswith("_token")}
    try:
        template = limited(ImmutableSandboxedEnvironment, "the chat template")(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        ).from_string(source)
    except TemplateError:
        return lambda row: None

    def render(row: Row) -> str | None:
        messages = [dict(message) for message in row.messages or ()]
        tools = {"tools": list(row.tools)} if row.tools else {}
        try:
            return str(template.render(messages=messages, **tools, **special))
        except TooSlow:
            raise
        except (Exception, RecursionError):  # a template runs code of strangers
            return None

    return render


def _text(value: object) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def with_rows(batch: Batch, rows: int) -> Batch:
    """The same kind of batch with another number of rows."""
    share = rows / batch.rows
    return replace(
        batch,
        rows=rows,
        tokens=round(batch.tokens * share),
        supervised=max(1, round(batch.supervised * share)),
        mean_tokens=batch.mean_tokens * share,
        padded=batch.padded and rows > 1,
    )
