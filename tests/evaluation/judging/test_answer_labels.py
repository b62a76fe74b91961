"""A team's own labels: read, and refused in one line with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.evaluation.judging.answer_labels import read

SAMPLES = {"s1", "s2", "s3"}


def written(folder: Path, *rows: dict[str, object]) -> Path:
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def row(sample: object, answer: object, label: object, **more: object) -> dict[str, object]:
    return {"id": sample, "answer": answer, "label": label, **more}


def test_a_label_belongs_to_an_answer_of_a_sample(tmp_path: Path) -> None:
    labels = read(
        written(tmp_path, row("s1", "41 days.", "good"), row("s1", "14 days.", "bad")), SAMPLES
    )
    assert labels.of("s1", "41 days.") == 1
    assert labels.of("s1", " 14 days.\n") == 0
    assert labels.of("s2", "41 days.") is None
    assert labels.of("s1", "42 days.") is None
    assert len(labels.sha256) == 64


@pytest.mark.parametrize(("good", "bad"), [(True, False), (1, 0), ("GOOD", "bad"), (1.0, 0.0)])
def test_labels_may_be_words_truth_values_and_numbers(
    tmp_path: Path, good: object, bad: object
) -> None:
    labels = read(written(tmp_path, row("s1", "a", good), row("s2", "b", bad)), SAMPLES)
    assert (labels.of("s1", "a"), labels.of("s2", "b")) == (1, 0)


def test_a_csv_serves_too(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("id,answer,label\ns1,yes,good\ns2,no,bad\n", encoding="utf-8")
    assert read(file, SAMPLES).of("s2", "no") == 0


def test_the_majority_of_people_counts_and_a_tie_is_no_label(tmp_path: Path) -> None:
    people = [("s1", "a", (1, 1, 0)), ("s2", "b", (1, 0)), ("s3", "c", (0, 0))]
    rows = [
        row(sample, answer, label, by=f"p{i}")
        for sample, answer, given in people
        for i, label in enumerate(given)
    ]
    labels = read(written(tmp_path, *rows), SAMPLES)
    assert [labels.of(sample, answer) for sample, answer, _ in people] == [1, None, 0]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (row("s9", "x", "good"), "2: the suite has no sample 's9': did you mean 's"),
        (row("s2", "x", "fine"), "2: a label must be good or bad, got 'fine'"),
        (row("s2", "x", 3), "2: a label must be good or bad, got '3'"),
        ({"id": "s2", "label": "good"}, "2: no value for 'answer'"),
        ({"answer": "x", "label": "good"}, "2: no value for 'id'"),
        ({"id": "s2", "answer": "x"}, "(columns there: id, answer)"),
        (row("s1", "a ", "bad"), "2: 'a' to sample 's1' is labelled on line 1, too"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(
    tmp_path: Path, wrong: dict[str, object], problem: str
) -> None:
    file = written(tmp_path, row("s1", "a", "good"), wrong)
    with pytest.raises(DataError) as caught:
        read(file, SAMPLES)
    assert str(caught.value).startswith(str(file))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_of_one_kind_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, row("s1", "a", "good"), row("s2", "b", "good"))
    with pytest.raises(DataError, match="all 2 labelled answers are good"):
        read(file, SAMPLES)
