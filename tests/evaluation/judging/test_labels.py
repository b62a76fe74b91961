"""The bundled labelled pairs are balanced, and a team's own file is read or refused by line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from harness.data.readers import read_records
from harness.errors import DataError
from harness.evaluation.judging import labels
from tests.conftest import ROOT, write_jsonl

KINDS = {"fact", "complete", "tone", "policy", "equal", "own"}


@pytest.fixture(scope="module")
def bundled() -> labels.LabelledSet:
    return labels.read(labels.BUNDLED)


def area(ahead: list[float], behind: list[float]) -> float:
    """The chance of one of `ahead` being larger than one of `behind` (area under the ROC)."""
    wins = sum((x > y) + (x == y) / 2 for x in ahead for y in behind)
    return wins / (len(ahead) * len(behind))


# ---- the bundled set -----------------------------------------------------------------------------


def test_it_has_every_kind_and_both_sides_in_balance(bundled):
    assert len(bundled.pairs) >= 200
    kinds = Counter(pair.kind for pair in bundled.pairs)
    assert kinds.keys() == KINDS
    assert min(kinds.values()) >= 30
    for kind in KINDS:
        sides = Counter(pair.labels[0] for pair in bundled.pairs if pair.kind == kind)
        assert abs(sides["a"] - sides["b"]) <= 0.05 * kinds[kind]
        assert (sides["tie"] > 0) == (kind in ("equal", "own"))


def test_length_predicts_no_label(bundled):
    """A judge that loves length, or brevity, has nothing to win; in no kind of pair."""
    for kind in (*KINDS - {"equal"}, None):
        longer: dict[str, list[float]] = {"a": [], "b": [], "tie": []}
        for pair in bundled.pairs:
            if kind in (None, pair.kind):
                longer[pair.labels[0]].append(len(pair.a) - len(pair.b))
        assert 0.4 < area(longer["a"], longer["b"]) < 0.6, kind
    answers = [(p.a_right, len(p.a)) for p in bundled.pairs]
    answers += [(p.b_right, len(p.b)) for p in bundled.pairs]
    lengths = {right: [size for r, size in answers if r is right] for right in (True, False)}
    assert 0.4 < area(lengths[True], lengths[False]) < 0.6


def test_labels_and_right_answers_agree(bundled):
    for pair in bundled.pairs:
        (label,) = pair.labels
        if label == "tie":
            assert pair.a_right == pair.b_right
        else:
            winner, loser = (pair.a_right, pair.b_right)[:: 1 if label == "a" else -1]
            assert winner
            assert loser is (pair.kind == "tone")


def test_no_text_stands_twice_and_none_is_of_the_suite(bundled):
    texts = [text for pair in bundled.pairs for text in (pair.question, pair.a, pair.b)]
    assert [text for text, count in Counter(texts).items() if count > 1] == []
    files = (ROOT / "harness/bundled/support-train.jsonl", ROOT / "suites/support/test.jsonl")
    turns = {
        turn["content"]
        for file in files
        for r in read_records(file)
        for turn in r.values["messages"]
    }
    # a fine-tuned model's own answers are often replies of its training
    own = {text for p in bundled.pairs for text, by in ((p.a, p.a_by), (p.b, p.b_by)) if by}
    assert not turns & (set(texts) - own)


def test_references_state_the_facts_of_the_shop(bundled):
    """Of every reference with a number or a name, these are in the list of facts."""
    facts = (ROOT / "suites/support/facts.md").read_text(encoding="utf-8")
    for pair in bundled.pairs:
        words = (word.strip(".,;:") for word in str(pair.reference).split())
        stated = [w for w in words if any(c.isdigit() for c in w) or (len(w) > 3 and w.isupper())]
        assert [word for word in stated if word not in facts] == [], pair.id


# ---- a file of one's own -------------------------------------------------------------------------

ROW = {"question": "When?", "a": "At nine.", "b": "At ten.", "label": "a"}


def test_a_file_needs_no_more_than_question_answers_and_label(tmp_path):
    file = write_jsonl(tmp_path / "own.jsonl", [ROW, {**ROW, "label": "tie"}])
    read = labels.read(file)
    assert [pair.labels for pair in read.pairs] == [("a",), ("tie",)]
    assert (read.people, read.has_right) == (1, False)
    assert read.pairs[0].reference is None


def test_several_people_and_a_csv(tmp_path):
    several = [{**ROW, "labels": ["a", "tie", "a"]}, {**ROW, "labels": ["b", "b", "b"]}]
    assert labels.read(write_jsonl(tmp_path / "own.jsonl", several)).people == 3
    text = "question,a,b,label,a_right,b_right\nWhen?,At nine.,At ten.,b,false,TRUE\n"
    (tmp_path / "own.csv").write_text(text + "Who?,Me.,You.,a,1,\n", encoding="utf-8")
    flags = [(p.a_right, p.b_right) for p in labels.read(tmp_path / "own.csv").pairs]
    assert flags == [(False, True), (True, None)]


WRONG = {
    "no value for 'b'": [ROW, {"question": "When?", "a": "x", "label": "a"}],
    "no value for 'label'": [ROW, {"question": "When?", "a": "x", "b": "y"}],
    "must be a, b or tie, got 'c'": [ROW, {**ROW, "label": "c"}],
    "must be true or false, got 'perhaps'": [ROW, {**ROW, "a_right": "perhaps"}],
    "'a' must be a text that is not empty": [ROW, {**ROW, "a": " "}],
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_row_is_refused_with_its_line(message, tmp_path):
    file = write_jsonl(tmp_path / "own.jsonl", WRONG[message])
    with pytest.raises(DataError, match=message) as refused:
        labels.read(file)
    assert str(refused.value).startswith(f"{file}:2: ")
    assert "\n" not in str(refused.value)


USELESS = {
    "all 2 pairs are labelled 'a'": [ROW, ROW],
    "all labelled answers are right": [
        {**ROW, "a_right": True},
        {**ROW, "label": "b", "b_right": True},
    ],
    "the id 'x' stands 2 times": [{**ROW, "id": "x"}, {**ROW, "id": "x", "label": "b"}],
    "pairs have 1 to 2 labels": [ROW, {**ROW, "labels": ["a", "b"]}],
}


@pytest.mark.parametrize("message", USELESS)
def test_a_set_that_can_certify_nobody_is_refused(message, tmp_path):
    with pytest.raises(DataError, match=message):
        labels.read(write_jsonl(tmp_path / "own.jsonl", USELESS[message]))


def test_the_bundled_file_is_one_row_a_line():
    for line in Path(labels.BUNDLED).read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["id"].startswith("support-pair-")


def test_answers_of_a_model_are_as_often_right_as_those_beside_them(bundled):
    """What a judge sees in its own model's answers is then not that they are better."""
    own, others = [], []
    for pair in bundled.pairs:
        if pair.kind == "own":
            assert (pair.a_by is None) != (pair.b_by is None)
            by_model = pair.a_by is not None
            own.append(pair.a_right if by_model else pair.b_right)
            others.append(pair.b_right if by_model else pair.a_right)
    assert sum(map(bool, own)) == sum(map(bool, others))
