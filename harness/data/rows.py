"""Training rows and evaluation samples: their fields, and the order of training.

Neither torch nor `datasets` is imported: a parent process reads and checks data in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data.readers import Record, read_records, shown
from harness.data.tool_calls.given import call_text, calls_of
from harness.errors import DataError, nearest
from harness.types import Message, Row, Sample, ToolDefinitions

__all__ = [
    "load_rows",
    "load_samples",
    "rows_hash",
    "sample_rows",
    "split_rows",
    "training_order",
]

_ROW_FORMS = {
    "messages": ("messages",),
    "instruction": ("instruction", "output"),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
"""Form of a row -> the canonical columns that it needs; the first form that fits counts."""

_SAMPLE_FORMS = {
    "messages": ("messages",),
    "choice": ("prompt", "choices"),
    "instruction": ("instruction",),
    "prompt": ("prompt",),
    "text": ("text",),
}


# Training rows


def load_rows(
    source: Path, *, columns: Mapping[str, str] | None = None, format: str = "auto"
) -> list[Row]:
    """Read and check training rows.

    Rows are messages, prompt and completion, instruction (with input) and output, or text; the
    first row says which for the whole file. Instructions become a user and an assistant message.
    Rows with a blank text are skipped (the text form only). `columns` maps our names to the
    file's. Raises DataError with `file:line`.
    """
    records = read_records(source, columns)
    form = _form(records[0], _ROW_FORMS, format)
    rows = [_row(record, form) for record in records if not _skipped(record, form)]
    if not rows:
        raise DataError("every text is blank", file=source)
    _check_ids([(row.id, row.line) for row in rows], records[0])
    return rows


def _row(record: Record, form: str) -> Row:
    identity, place = record.explicit_id() or str(record.line), record.line
    if form == "text":
        text, extra = record.text("text"), record.rest("id", "text")
        return Row(identity, text=text, line=place, extra=extra)
    tools = record.tools()
    if form == "messages":
        messages, extra = _conversation(record, "messages"), record.rest("id", "messages", "tools")
    elif form == "instruction":
        messages = (_instruction(record), _answered(record, "output", tools))
        extra = record.rest("id", "instruction", "input", "output", "tools")
    else:
        extra = record.rest("id", "prompt", "completion", "tools")
        if not _is_list(record, "prompt") and not tools:
            prompt, completion = record.text("prompt"), record.text("completion")
            return Row(identity, prompt=prompt, completion=completion, line=place, extra=extra)
        messages = (*_prompt(record), *_completion(record, tools))
    if messages[-1]["role"] != "assistant":
        raise record.error(
            f"the last message is the {messages[-1]['role']}'s: "
            "a training row ends with the assistant's answer"
        )
    if len(messages) == 1:
        raise record.error(
            "the assistant's answer is the only message: put a user message before it"
        )
    return Row(identity, messages=messages, line=place, extra=extra, tools=tools)


def _answered(record: Record, ours: str, tools: ToolDefinitions) -> Message:
    """An assistant's message from a column: a text, or calls where the row offers tools."""
    calls = _calls(record, ours) if tools else ()
    if calls:
        return {"role": "assistant", "content": "", "tool_calls": list(calls)}
    return {"role": "assistant", "content": record.text(ours)}


def _calls(record: Record, ours: str) -> tuple[Mapping[str, Any], ...]:
    """The calls that a column holds, as JSON or its text; none where it is another text."""
    name = record.column(ours)
    value = record.values[name] if name else None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ()
    if not isinstance(value, (list, Mapping)):
        return ()
    try:
        return calls_of(value)
    except ValueError as error:
        raise record.error(f"'{name}': {error}") from None


def _prompt(record: Record) -> tuple[Message, ...]:
    """The turns before the answer; of a plain prompt the user's."""
    if _is_list(record, "prompt"):
        return _conversation(record, "prompt")
    return ({"role": "user", "content": record.text("prompt")},)


def _instruction(record: Record) -> Message:
    text = record.text("instruction")
    given = record.text("input", blank=True) if record.column("input") else ""
    return {"role": "user", "content": f"{text}\n\n{given}" if given.strip() else text}


def _conversation(record: Record, ours: str) -> tuple[Message, ...]:
    name = record.column(ours)
    if name is None:
        raise record.missing(ours)
    value = record.listed(ours) if ours == "messages" else record.values[name]
    return record.messages(value, name)


def _completion(record: Record, tools: ToolDefinitions) -> tuple[Message, ...]:
    name = record.column("completion")
    value = record.values[name] if name else None
    # a list is of messages, or of calls, which have no role
    if isinstance(value, list) and (not tools or _are_messages(value)):
        return _conversation(record, "completion")
    return (_answered(record, "completion", tools),)


def _are_messages(values: Sequence[object]) -> bool:
    return any(isinstance(one, Mapping) and {"role", "from"} & one.keys() for one in values)


def _is_list(record: Record, ours: str) -> bool:
    name = record.column(ours)
    return name is not None and isinstance(record.values[name], list)


def _form(record: Record, forms: Mapping[str, tuple[str, ...]], wanted: str = "auto") -> str:
    """The form of a file, from its first row."""
    if wanted != "auto":
        if wanted not in forms:
            raise record.error(f"unknown format '{wanted}': {nearest(wanted, [*forms, 'auto'])}")
        return wanted
    fits = [name for name, needs in forms.items() if all(map(record.has, needs))]
    mapped = [name for name in fits if any(ours in record.columns for ours in forms[name])]
    if mapped or fits:
        return (mapped or fits)[0]
    expected = "; ".join(" + ".join(needs) for needs in forms.values())
    there = ", ".join(record.values) or "none"
    raise record.error(f"no known columns (there: {there}): expected {expected}, or map `columns`")


def _skipped(record: Record, form: str) -> bool:
    if form != "text":
        return False
    name = record.column("text")
    value = record.values[name] if name else ""
    return isinstance(value, str) and not value.strip() and record.has("text")


def _check_ids(ids: Sequence[tuple[str, int | None]], first: Record) -> None:
    seen: dict[str, int | None] = {}
    for identity, line in ids:
        if identity in seen:
            message = f"duplicate id '{identity}': first in {first.unit} {seen[identity]}"
            if first.unit == "row":
                raise DataError(f"row {line}: {message}", file=first.file)
            raise DataError(message, file=first.file, line=line)
        seen[identity] = line


# Evaluation samples


def load_samples(source: Path, *, columns: Mapping[str, str] | None = None) -> list[Sample]:
    """Read and check the samples of a suite.

    A row is messages (a last assistant message is the reference), prompt or question with an
    optional reference, instruction, question with choices and answer, or text (which is the
    reference; blank ones are skipped). An id is optional: `<file stem>-<line>`.
    Raises DataError with `file:line`.
    """
    records = read_records(source, columns)
    form = _form(records[0], _SAMPLE_FORMS)
    kept = [record for record in records if not _skipped(record, form)]
    if not kept:
        raise DataError("every text is blank", file=source)
    samples = [_sample(record, form) for record in kept]
    lines = [record.line for record in kept]
    _check_ids([(s.id, line) for s, line in zip(samples, lines, strict=True)], records[0])
    return samples


def _sample(record: Record, form: str) -> Sample:
    used = ["id", "group", *_SAMPLE_FORMS[form]]
    fields: dict[str, Any] = {}
    if form == "text":
        fields["reference"] = record.text("text")
    elif form == "choice":
        fields = _choice(record)
        used.append("answer")
    elif form == "instruction":
        fields["messages"] = (_instruction(record),)
        used.append("input")
    elif form == "messages" or _is_list(record, "prompt"):
        fields = _question(record, _conversation(record, form))
    else:
        fields["prompt"] = record.text("prompt")
    if form not in ("text", "choice"):
        fields["tools"] = record.tools()
        used.append("tools")
    if "reference" not in fields:
        fields["reference"] = _reference(record, fields.get("tools"))
        used.append("reference")
    return Sample(
        id=record.explicit_id() or f"{record.file.stem}-{record.line}",
        group=_group(record),
        extra=record.rest(*used),
        line=record.line,
        **fields,
    )


def _reference(record: Record, tools: ToolDefinitions) -> str | None:
    """The reference: a text, or the text of calls where they are given as JSON."""
    name = record.column("reference")
    if name is None:
        return None
    if tools and isinstance(record.values[name], (list, Mapping)):
        return call_text(_calls(record, "reference"))
    return record.text("reference")


def _question(record: Record, turns: tuple[Message, ...]) -> dict[str, object]:
    """A conversation up to the answer, and the answer where there is an assistant's message."""
    answered = turns[-1]["role"] == "assistant"
    prompt = turns[:-1] if answered else turns
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        raise record.error("a sample needs a user message, at the end or before the answer")
    if not answered:
        return {"messages": prompt}
    calls = turns[-1].get("tool_calls")
    return {"messages": prompt, "reference": call_text(calls) if calls else turns[-1]["content"]}


def _choice(record: Record) -> dict[str, object]:
    listed = record.listed("choices")
    value = listed
    labels: list[object] | None = None
    if isinstance(listed, Mapping):  # as in ARC: {"text": [...], "label": ["A", ...]}
        value, labels = listed.get("text"), listed.get("label")
        if not isinstance(value, list) or not isinstance(labels, list) or len(value) != len(labels):
            raise record.error("'choices' needs a `text` and a `label` list of equal length")
    if not isinstance(value, list) or len(value) < 2:
        raise record.error(f"'choices' must be a list of two or more texts, got {shown(value)}")
    for choice in value:
        if not isinstance(choice, str) or not choice.strip():
            raise record.error(f"each of 'choices' must be a text, got {shown(choice)}")
    answer = _answer(record, value, labels)
    return {
        "prompt": record.text("prompt"),
        "choices": tuple(value),
        "answer": answer,
        "reference": value[answer],
    }


def _answer(record: Record, choices: list[str], labels: list[object] | None) -> int:
    """Index of the right choice: given as an index from 0, a letter or label, or its text."""
    name = record.column("answer")
    if name is None:
        raise record.missing("answer")
    answer = record.values[name]
    if isinstance(answer, int) and not isinstance(answer, bool):
        matches = {answer} if 0 <= answer < len(choices) else set()
    elif labels is not None:
        matches = {i for i, label in enumerate(labels) if str(label) == answer}
    elif isinstance(answer, str):
        matches = {i for i, choice in enumerate(choices) if choice == answer}
        if re.fullmatch("[A-Z]", answer):
            matches.add(ord(answer) - ord("A"))
        elif answer.isascii() and answer.isdigit():
            matches.add(int(answer))
        matches = {i for i in matches if i < len(choices)}
    else:
        matches = set()
    if len(matches) != 1:
        what = "could mean several of" if matches else "is none of"
        listed = f" (labels: {', '.join(map(str, labels))})" if labels is not None else ""
        raise record.error(f"'{name}' {shown(answer)} {what} the {len(choices)} choices{listed}")
    return matches.pop()


def _group(record: Record) -> str | None:
    name = record.column("group")
    value = record.values[name] if name else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
        raise record.error(f"'{name}' must be text, got {shown(value)}")
    return None if value is None else str(value)


# Order and identity


def split_rows(
    rows: Sequence[Row], validation: float | int, seed: int
) -> tuple[list[Row], list[Row]]:
    """(train, validation), each in the rows' order.

    A float is a share, rounded, at least one row; an int a count. The draw depends on the number
    of rows and the seed alone. DataError where no row would be left on either side.
    """
    share = isinstance(validation, float)
    count = max(1, round(validation * len(rows))) if share else int(validation)
    if not 0 < count < len(rows):
        raise DataError(
            f"cannot hold out {count} of {len(rows)} row(s) for validation: "
            "at least one must be left to train on; add rows or lower `validation`"
        )
    held_out = set(_permutation(len(rows), f"validation:{seed}")[:count])
    train = [row for i, row in enumerate(rows) if i not in held_out]
    return train, [rows[i] for i in sorted(held_out)]


def sample_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` of the rows in their order, or all where there are no more.

    The draw depends on the number of rows and `count` alone; a smaller one is part of a larger.
    """
    drawn = _permutation(len(rows), "sample")[:count]
    return [rows[i] for i in sorted(drawn)]


def training_order(n_rows: int, count: int, seed: int | str) -> list[int]:
    """Indices of `count` draws from `n_rows` rows: every row once per epoch, reshuffled in each.

    Epoch e is the order of the values that `random.Random(f"{seed}:{e}").random()` gives the
    rows: the only generator method whose sequence Python promises to keep.
    """
    if n_rows < 1 or count < 0:
        raise ValueError(f"no order of {count} draws from {n_rows} rows")
    order: list[int] = []
    indices = list(range(n_rows))  # the same objects in every epoch: 8 bytes a draw, not 36
    for epoch in range(-(-count // n_rows)):
        order += _permutation(n_rows, f"{seed}:{epoch}", indices)
    return order[:count]


def _permutation(n: int, seed: str, indices: Sequence[int] | None = None) -> list[int]:
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(n)]
    return sorted(range(n) if indices is None else indices, key=keys.__getitem__)


def rows_hash(rows: Sequence[Row]) -> str:
    """sha256 over the rows' texts in their order, with tool calls and tools.

    Ids, lines and other columns do not count.
    """
    digest = hashlib.sha256()
    for row in rows:
        turns = [_said(turn) for turn in row.messages or ()]
        content: list[object] = [turns, row.prompt, row.completion, row.text]
        content += [list(row.tools)] if row.tools else []
        digest.update(json.dumps(content).encode() + b"\n")
    return digest.hexdigest()


def _said(turn: Message) -> list[object]:
    """A turn as the hash holds it: role and content, and only where they are there its calls."""
    more = {key: value for key, value in turn.items() if key not in ("role", "content")}
    return [turn["role"], turn["content"], *([more] if more else [])]
