"""Writes a new suite that works as it is: a YAML file and three example rows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import strict_yaml
from harness.errors import UserError

__all__ = ["new_suite"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def new_suite(name: str, ask: str, folder: Path, taken: Sequence[str] = ()) -> list[Path]:
    """Write the suite `name` into `folder`, which is made where it is missing; its files.

    Raises UserError, having written nothing, where the name is none, is one of `taken`, or a file
    of it is there already.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"'{name}' cannot name a suite: use letters, digits, '.', '_' and '-', with a letter "
            "or a digit first"
        )
    if name in taken:
        raise UserError(f"a suite '{name}' is built in, or of a plugin: choose another name")
    files = {folder / place: text for place, text in _TEMPLATES[ask](name).items()}
    there = [file for file in files if file.exists()]
    if there:
        raise UserError(f"{there[0]} is there already: choose another name, or remove it")
    try:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; name a folder to write to") from None
    return list(files)


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


_HEAD = """\
name: {written}  # as the file is called
version: 1  # raise it with every change of this file or its rows
description: What this suite measures, in one sentence.
"""

_GENERATE = """\
ask: generate  # the model answers in its own words
data: {name}.jsonl  # rows with prompt (or messages), reference, must_contain
max_new_tokens: 64  # where an answer is cut
scorers: [rougeL, exact_match, must_contain]  # `harness plugins` lists them all
# A model can judge as well, from 1 to 5; `base` is the untouched base of what is judged.
# judge:
#   name: expected_score
#   model: base
#   rubric: "5: the same facts as the reference answer. 1: wrong facts."
"""

_QUESTIONS = """\
{"id": "opening-hours", "prompt": "When is the shop open on Saturdays?", \
"reference": "On Saturdays we are open from 9 to 13 o'clock.", "must_contain": ["9", "13"]}
{"id": "return-window", "prompt": "How long can I return a lamp?", \
"reference": "You can return it within 30 days.", "must_contain": ["30 days"]}
{"id": "delivery", "prompt": "Do you deliver to islands?", \
"reference": "Yes, and it takes two days longer.", "must_contain": ["two days"]}
"""

_CHOICE = """\
ask: choice  # the likeliest of several choices is the model's answer
data: {name}.jsonl  # rows with question, choices, answer (a number from 0, or A, B, C ...)
prompt: "Question: {{question}}\\nAnswer:"  # what each choice is appended to, after a space
"""

_CHOICES: list[dict[str, Any]] = [
    {"id": "ice", "question": "What is ice made of?", "choices": ["water", "sand"], "answer": 0},
    {
        "id": "legs",
        "question": "How many legs has a spider?",
        "choices": ["six", "eight", "ten"],
        "answer": 1,
    },
    {
        "id": "east",
        "question": "Where does the sun rise?",
        "choices": ["in the north", "in the west", "in the east"],
        "answer": "C",
    },
]

_PERPLEXITY = """\
ask: perplexity  # how well the answers are predicted
data: {name}.jsonl  # rows with messages (the assistant's turns count), or with text
"""

_TALKS = [
    ("hello", "Hello, is anybody there?", "Yes, how can I help you?"),
    ("thanks", "Thank you for the quick delivery.", "You are welcome, enjoy your new lamp."),
    ("broken", "The lamp arrived broken.", "I am sorry. A new one is on its way to you."),
]

_LM_EVAL = """\
ask: lm-eval  # tasks of EleutherAI's lm-eval, unchanged
include_path: {name}-tasks  # a folder of task files
trust_task_code: true  # the !function of a task file runs Python from that folder
tasks: [{task}]  # lm-eval's own tasks can stand here too: arc_easy, mmlu ...
num_fewshot: 0  # solved examples before each question
"""

_TASK = """\
# The fields: https://github.com/EleutherAI/lm-evaluation-harness, docs/task_guide.md
task: {task}
custom_dataset: !function {task}.questions
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""

_READER = '''\
"""The rows beside this file, as lm-eval wants them."""

from pathlib import Path

import datasets


def questions(**_):
    """One split, `test`."""
    file = Path(__file__).with_suffix(".jsonl")
    return {"test": datasets.Dataset.from_json(str(file))}
'''


def _head(name: str, body: str, **more: str) -> str:
    # 123 and true are no text in YAML.
    written = name if strict_yaml.parse(name, name).data == name else f'"{name}"'
    return _aligned((_HEAD + body).format(name=name, written=written, **more))


def _aligned(text: str) -> str:
    """The comments at the ends of lines under each other."""
    lines = [line.partition("  # ") for line in text.splitlines()]
    width = max(len(before) for before, mark, _ in lines if mark)
    return "".join(
        f"{before:<{width}}{mark}{comment}\n" if mark else f"{before}\n"
        for before, mark, comment in lines
    )


def _generate(name: str) -> dict[str, str]:
    return {f"{name}.yaml": _head(name, _GENERATE), f"{name}.jsonl": _QUESTIONS}


def _choice(name: str) -> dict[str, str]:
    return {f"{name}.yaml": _head(name, _CHOICE), f"{name}.jsonl": _rows(_CHOICES)}


def _perplexity(name: str) -> dict[str, str]:
    rows = [
        {
            "id": key,
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            ],
        }
        for key, asked, answer in _TALKS
    ]
    return {f"{name}.yaml": _head(name, _PERPLEXITY), f"{name}.jsonl": _rows(rows)}


def _lm_eval(name: str) -> dict[str, str]:
    # lm-eval reads `module.function`, so that the file's name can hold neither '.' nor '-'.
    task = re.sub(r"\W", "_", f"{name}_task")
    answers = [{**row, "answer": number} for row, number in zip(_CHOICES, (0, 1, 2), strict=True)]
    return {
        f"{name}.yaml": _head(name, _LM_EVAL, task=task),
        f"{name}-tasks/{task}.yaml": _TASK.format(task=task),
        f"{name}-tasks/{task}.jsonl": _rows(answers),
        f"{name}-tasks/{task}.py": _READER,
    }


_TEMPLATES = {
    "generate": _generate,
    "choice": _choice,
    "perplexity": _perplexity,
    "lm-eval": _lm_eval,
}
