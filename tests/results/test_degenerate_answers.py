"""Degenerate answers: one to everything, empty, looping, cut; told of any sample file."""

from pathlib import Path

import pytest

from harness.results import gate, lookup, policy
from harness.results.comparison import compare
from harness.stats.degenerate_answers import detect, loops

REFERENCE = Path(__file__).parents[2] / "results/reference/boilerplate"
RULES = "rules: [{metric: similarity.cosine, max_drop: 0.5}]\n"


def rows(outputs, references=None, capped=()):
    references = references or [f"answer {i}" for i in range(len(outputs))]
    return [
        {"id": str(i), "output": output, "reference": reference, "capped": i in capped}
        for i, (output, reference) in enumerate(zip(outputs, references, strict=True))
    ]


def names(sample_rows):
    return [finding.name for finding in detect("quiz", sample_rows)]


VARIED = [f"The answer to question {i} is {i * 7}." for i in range(10)]


def test_one_answer_to_more_than_a_fifth_is_told_with_its_count():
    assert names(rows(VARIED)) == []
    assert names(rows(["Hi. ", "Hi.", *VARIED[2:]])) == []
    (one,) = detect("quiz", rows(["Hi. ", "Hi.", "Hi.", *VARIED[3:]]))
    assert str(one).startswith("suite 'quiz': degenerate.same_answer: 3 of 10 prompts have one")


def test_answers_as_alike_as_their_references_are_no_fault():
    assert names(rows(["yes"] * 6 + ["no"] * 4, ["yes"] * 5 + ["no"] * 5)) == []
    assert names(rows(["yes"] * 10, ["yes"] * 5 + ["no"] * 5)) == ["same_answer"]


def test_empty_looping_and_cut_answers_are_told():
    assert names(rows(["", " ", "", *VARIED[3:]])) == ["empty"]
    loop = "It is good to be there" + " and so it goes" * 6
    assert names(rows([f"{i} {loop}" for i in range(3)] + VARIED[3:])) == ["loops"]
    assert names(rows(VARIED, capped=range(5))) == []
    assert names(rows(VARIED, capped=range(6))) == ["capped"]


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("no no no no no no no no", True),
        ("we ship it today, we ship it today, we ship it today, we ship it today, we sh", True),
        ("abcabcabcabcabcabcabcabcabcabcabcabcabc", True),
        ("No, no, no: we do not ship on Sundays, and we do not ship on Mondays.", False),
        ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10", False),
        ("", False),
    ],
)
def test_a_loop_is_a_short_part_many_times_at_the_end(text, loop):
    assert loops(text) is loop


def test_rows_of_choices_have_no_answers_of_their_own():
    assert (
        detect("picks", [{"id": str(i), "output": "A", "reference": "B"} for i in range(9)]) == []
    )


def arms(name):
    candidate = lookup.find(name, [REFERENCE])
    return candidate, lookup.baseline("base", candidate, [REFERENCE])


def test_records_of_older_versions_are_told_of_in_comparisons_and_gates(tmp_path):
    told = "suite 'similarity': degenerate.same_answer: 19 of 20 prompts have one same answer"
    assert any(told in line for line in compare(*arms("lora"))["warnings"])
    unequal = [line for line in compare(*arms("lora"))["warnings"] if "unequal" in line]
    assert "80% of base's" in unequal[0]
    verdicts = {}
    for key in ("warn", "fail"):
        file = tmp_path / f"{key}.yaml"
        file.write_text(RULES + f"degenerate: {key}\n")
        decision = gate.decide(*arms("lora"), policy.load(file))
        assert any(told in line for line in decision.warnings)
        verdicts[key] = decision.verdict
    assert verdicts == {"warn": "pass", "fail": "fail"}
    assert decision.findings[-1].name == "judge.degenerate.same_answer"
