"""MMLU's dev questions, read out of the installed lm-eval package."""

import re
from pathlib import Path

import datasets
import yaml

_CHOICES = re.compile(
    r"^(.*?)\s*\(A\)\s*(.*?)\s*\(B\)\s*(.*?)\s*\(C\)\s*(.*?)\s*\(D\)\s*(.*)$", re.DOTALL
)
_ANSWER = re.compile(r"The answer is \(([ABCD])\)")


def questions(**_: object) -> dict[str, datasets.Dataset]:
    """One split, `test`: subject, question, choices, answer; one of each subject in turn."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "mmlu" / "flan_cot_fewshot"
    subjects = [_subject(file) for file in sorted(folder.glob("mmlu_*.yaml"))]
    longest = max(map(len, subjects), default=0)
    rows = [subject[i] for i in range(longest) for subject in subjects if i < len(subject)]
    if not rows:
        raise FileNotFoundError(f"this lm-eval carries no MMLU examples in {folder}")
    return {"test": datasets.Dataset.from_list(rows)}


def _subject(file: Path) -> list[dict[str, object]]:
    # The files hold tags such as !function, which a plain YAML loader refuses.
    config = yaml.safe_load(re.sub(r"!\w+", "", file.read_text(encoding="utf-8")))
    rows = []
    for sample in config["fewshot_config"]["samples"]:
        parts = _CHOICES.match(sample["question"])
        answer = _ANSWER.search(sample["target"])
        if parts and answer:
            question, *choices = parts.groups()
            rows.append(
                {
                    "subject": config["dataset_name"],
                    "question": question,
                    "choices": choices,
                    "answer": "ABCD".index(answer.group(1)),
                }
            )
    return rows
