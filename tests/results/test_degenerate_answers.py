"""Degenerate answers: one to everything, empty, looping, cut; told of any sample file."""

from pathlib import Path

import pytest

from harness.results import gate, lookup, policy
from harness.results.comparison import compare
from harness.stats.answers.degenerate_answers import detect, loops

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


def test_reasoning_that_is_scored_whole_is_told_with_what_ends_it():
    thought = [f"<think>No. {text}</think>{text}" for text in VARIED]
    assert names(rows([*thought[:2], *VARIED[2:]])) == []
    (one,) = detect("quiz", rows([*thought[:3], *VARIED[3:]]))
    assert one.name == "reasoning"
    assert "3 of 10 answers hold reasoning" in str(one)
    assert "`reasoning: {end: '</think>'}`" in str(one)
    # the template opened it; a beginning that was cut; another pair of markers
    assert names(rows([text.removeprefix("<think>") for text in thought])) == ["reasoning"]
    assert names(rows([text.partition("</think>")[0] for text in thought])) == ["reasoning"]
    (one,) = detect("quiz", rows([f"[THINK]{text}[/THINK]{text}" for text in VARIED]))
    assert "{end: '[/THINK]'}" in str(one)
    # with `reasoning: none` a suite wants it; under a wrong marker nothing was found
    wanted, found = ([row | {"reasoning": is_} for row in rows(thought)] for is_ in (None, ""))
    assert names(wanted) == []
    assert names(found) == ["reasoning"]


def unfinished(thoughts, capped=True):
    told = {"output": "", "unfinished_reasoning": True, "capped": capped}
    return [
        row
        | (told if i < len(thoughts) else {"unfinished_reasoning": False})
        | {"reasoning": thoughts[i] if i < len(thoughts) else "Yes."}
        for i, row in enumerate(rows(VARIED))
    ]


def test_unfinished_reasoning_is_told_once_with_what_helps():
    """It is neither an empty answer nor a cut one: those are told of answers."""
    assert names(unfinished(["Let me see"] * 2)) == []
    (one,) = detect("quiz", unfinished(["Let me see"] * 8))
    assert one.name == "unfinished_reasoning"
    assert one.share == 0.8
    assert str(one).endswith(
        "8 of 10 answers never end their reasoning and count as empty: raise max_new_tokens"
    )
    (one,) = detect("quiz", unfinished(["Hm." + " wait, no" * 20] * 8))
    assert "8 of them end in a loop" in str(one)
    (one,) = detect("quiz", unfinished(["Let me see"] * 8, capped=False))
    assert "8 of them end without the end marker: it is another, or" in str(one)


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
