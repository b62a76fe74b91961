"""The suite that `harness suites new --ask lm-eval` writes."""

from __future__ import annotations

import re

from harness.api.task import SuiteExample
from harness.evaluation.tasks.examples import CHOICES, jsonl

SETTINGS = """\
ask: lm-eval  # tasks of EleutherAI's lm-eval, unchanged
include_path: {name}-tasks  # a folder of task files
trust_task_code: true  # the !function of a task file runs Python from that folder
tasks: [{task}]  # lm-eval's own tasks can stand here too: arc_easy, mmlu ...
num_fewshot: 0  # solved examples before each question
"""

TASK = """\
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

READER = '''\
"""The rows beside this file, as lm-eval wants them."""

from pathlib import Path

import datasets


def questions(**_):
    """One split, `test`."""
    file = Path(__file__).with_suffix(".jsonl")
    return {"test": datasets.Dataset.from_json(str(file))}
'''


def example(name: str) -> SuiteExample:
    """A suite with one task file, its rows and the code that reads them."""
    # lm-eval reads `module.function`, so that the file's name can hold neither '.' nor '-'.
    task = re.sub(r"\W", "_", f"{name}_task")
    rows = [{**row, "answer": number} for row, number in zip(CHOICES, (0, 1, 2), strict=True)]
    files = {
        f"{name}-tasks/{task}.yaml": TASK.format(task=task),
        f"{name}-tasks/{task}.jsonl": jsonl(rows),
        f"{name}-tasks/{task}.py": READER,
    }
    return SuiteExample(SETTINGS.format(name=name, task=task), files)
