"""A small model that thinks before it answers: really trained, until it has its rows by heart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import write_jsonl

TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}<think>\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""It begins every answer with `<think>`, as those of DeepSeek-R1 and QwQ do."""

CAP = 40
"""`max_new_tokens` in the tests: the first two come to their answers, the third does not."""

_LONG = "Is it red? " + "Or blue? Or green? " * 8
ROWS = [
    ("Which colour has the kettle?", "The list says red.</think>\nred", "red"),
    ("Which colour has the lamp?", "Not red, so blue.\n</think>\n\nblue", "blue"),
    (
        "Which colour has the tent?",
        "Is it red? " + "Or blue? Or green? " * 8 + "</think>red",
        "red",
    ),
    ("Which colour has the bell?", "</think>green", "green"),
]
"""Question, what the model says after the prompt's `<think>`, and the reference."""


def write_rows(file: Path) -> Path:
    """The questions of ROWS as a suite's."""
    names = ("kettle", "lamp", "tent", "bell")
    rows = zip(names, ROWS, strict=True)
    return write_jsonl(
        file, [{"id": name, "prompt": q, "reference": right} for name, (q, _, right) in rows]
    )


def thinking(source: Path, folder: Path, *, own_template: bool = True) -> Path:
    """The model trained on ROWS through TEMPLATE, which stands in its folder or else nowhere."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.data.tokenization import IGNORED, encode_row
    from harness.types import Row

    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    rows = []
    for question, answer, _ in ROWS:
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        rows.append(encode_row(tokenizer, Row("", messages=turns), chat_template=TEMPLATE))
    longest = max(len(row.input_ids) for row in rows)

    def padded(values: Sequence[int], filler: int) -> list[int]:
        return [*values, *[filler] * (longest - len(values))]

    ids = torch.tensor([padded(row.input_ids, 0) for row in rows])
    labels = torch.tensor([padded(row.labels, IGNORED) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(400):
        loss = model(input_ids=ids, labels=labels).loss
        if loss.item() < 0.01:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    else:
        raise AssertionError(f"the rows are not known yet: {loss.item()}")
    if own_template:
        tokenizer.chat_template = TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
