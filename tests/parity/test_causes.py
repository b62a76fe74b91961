"""Rules that name a cause, on evidence that is made up: each alone, and what is not enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.parity import figures as of_figures
from harness.parity.causes import QUANTISED_GAP, causes, reading
from harness.parity.observing import divergence
from harness.parity.seen import Answer, FirstDifference, Limits, Position, Seen

BOS = 1
LIMITS = Limits(changed=0.05, mean=0.01, largest=0.1)
PROMPT = (BOS, 7, 8, 9)
SAME = Position(ours=-0.5, theirs=-0.501, agrees=True, kl=1e-6)


def answer(text, ended=True):
    return Answer(text, ended, tuple(map(ord, text)))


def one(number=0, **changes):
    """A prompt of which all is the same."""
    own = answer(f"The lamp costs {number} coins.")
    seen = Seen(
        "answers",
        f"{number}",
        PROMPT,
        "<s>Lamp?",
        own,
        own.text,
        their_prompt=PROMPT,
        their_text="<s>Lamp?",
        their_count=len(PROMPT),
        theirs=own,
        exact=own,
        positions=(SAME,) * 6,
    )
    return replace(seen, **changes)


def many(count=12, **changes):
    return [one(number, **changes) for number in range(count)]


def named(seen, **how):
    return [cause.name for cause in causes(seen, LIMITS, bos=BOS, **how)]


def test_what_is_the_same_is_the_same():
    (cause,) = causes(many(), LIMITS, bos=BOS)
    assert (cause.name, cause.because) == ("same", "12 of 12 answers are the same")


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ((BOS, *PROMPT), "BOS doubled"),
        (PROMPT[1:], "BOS missing"),
        ((BOS, 7, 5, 9), "other chat template"),
        ((8, 9), "truncated context"),
        ((*PROMPT, 3), "other chat template"),
    ],
)
def test_prompts_by_their_token_ids(theirs, name):
    assert named(many(their_prompt=theirs, their_count=len(theirs))) == [name]
    assert reading(one(their_prompt=theirs), BOS) == name


@pytest.mark.parametrize(
    ("count", "name"),
    [(4, "same"), (5, "BOS doubled"), (3, "BOS missing"), (9, "other chat template")],
)
def test_prompts_by_their_count_alone(count, name):
    seen = many(their_prompt=None, their_text=None, their_count=count)
    found = causes(seen, LIMITS, bos=BOS)
    assert [cause.name for cause in found] == [name]
    if name != "same":
        assert "by the count of tokens alone" in found[0].because
        assert found[0].shown == {}


def test_a_bos_that_the_evaluation_lacked_is_added():
    seen = many(prompt=PROMPT[1:], their_prompt=PROMPT)
    assert named(seen) == ["BOS added"]


def test_all_prompts_shorter_is_a_template_and_the_longer_ones_a_context():
    unknown = {"their_prompt": None, "their_text": None}
    assert named(many(**unknown, their_count=2)) == ["other chat template"]
    longer = (BOS, *range(2, 40))
    cut = [one(n, **unknown, prompt=longer, their_count=20) for n in range(4)]
    assert named([*many(8, **unknown), *cut]) == ["truncated context"]


def test_a_server_that_refuses_long_prompts_has_a_short_context():
    refused = one(9, theirs=None, exact=None, positions=(), failure="HTTP 400", too_long=True)
    assert named([*many(5), refused], context=64) == ["truncated context"]


def test_where_both_renderings_part_is_shown():
    seen = many(their_text="<s>Lump?", their_prompt=(BOS, 7, 5, 9))
    (cause,) = causes(seen, LIMITS, bos=BOS)
    assert cause.shown == {
        "ours": "<s>Lamp?",
        "theirs": "<s>Lump?",
        "difference": "at character 5",
    }


# ---- weights -------------------------------------------------------------------------------------


def far(by, base=None, **changes):
    """Answers that part, by log-probabilities that far off."""
    position = Position(-0.5, -0.5 - by, False, by, base=base)
    other = answer("A tent is here.")
    first = FirstDifference(0, "The", "A", 0.4)
    return many(positions=(position,) * 6, theirs=other, exact=other, first=first, **changes)


def test_an_adapter_that_is_not_applied_is_nearer_to_the_base():
    assert named(far(1.5, base=-2.01)) == ["adapter not applied"]
    assert named(far(1.5, base=-0.4)) == ["other weights"]
    assert named(far(1.5)) == ["other weights"]


def test_quantisation_is_near_and_flips_ties_alone():
    (cause,) = causes(far(0.05), LIMITS, bos=BOS, quantisation="Q8_0")
    assert cause.name == "quantisation only"
    assert "Q8_0" in cause.because
    assert named(far(0.05)) == ["quantisation only"]
    wide = [replace(s, first=FirstDifference(0, "a", "b", 2 * QUANTISED_GAP)) for s in far(0.05)]
    assert named(wide, quantisation="Q8_0") == ["other weights"]
    # 0.3 nats are of 4 bits, or of another training: 8 bits do not make them
    assert named(far(0.3), quantisation="Q8_0") == ["other weights"]
    (cause,) = causes(far(0.3), LIMITS, bos=BOS, quantisation="Q4_K_M")
    assert cause.name == "quantisation only"
    assert "another training of the same recipe would be as near" in cause.because
    # a file that is not quantised has no such excuse
    assert named(far(0.05), quantisation="F16") == ["other weights"]


def test_the_base_in_few_bits_is_the_base_still():
    assert named(far(1.5, base=-1.7), quantisation="Q4_K_M") == ["adapter not applied"]


def bare(theirs, base="The base says this.", **changes):
    """By answers alone."""
    given = {"exact": None, "positions": (), "base": answer(base), **changes}
    return [replace(s, theirs=answer(theirs or s.ours.text), **given) for s in many()]


def test_by_answers_alone():
    gap = FirstDifference(4, "a", "b", 0.3)
    assert named(bare(None)) == ["same"]
    assert named(bare("The base says this.", first=gap)) == ["adapter not applied"]
    assert named(bare("The lamp is free.", first=gap)) == ["quantisation only"]
    wide = FirstDifference(4, "a", "b", 9.0)
    assert named(bare("The lamp is free.", first=wide)) == ["other weights"]
    # an answer to another prompt tells nothing of the weights
    other = bare("The base says this.", first=wide, their_prompt=(BOS, 7, 5, 9))
    assert named(other) == ["other chat template"]


def test_three_answers_of_the_base_are_too_few_to_be_sure():
    gap = FirstDifference(4, "a", "b", 0.3)
    assert "adapter not applied" not in named(bare("The base says this.", first=gap)[:3])


def test_answers_that_part_at_a_tie_count_as_the_same():
    tie = FirstDifference(2, "a", "b", LIMITS.mean / 2)
    changed = [replace(s, theirs=answer("The bell."), first=tie) for s in many(4)]
    assert named([*changed, *many(8)]) == ["same"]
    apart = [replace(s, first=replace(tie, gap=5 * LIMITS.mean)) for s in changed]
    assert named([*apart, *many(8)]) == ["something else"]
    assert of_figures.figures(changed)["identical"].value == 0


# ---- ends and sampling ---------------------------------------------------------------------------


def running(count, **changes):
    return [
        replace(
            s,
            theirs=answer(f"{s.ours.text} And so on", False),
            exact=answer(f"{s.ours.text} And so on", False),
            first=FirstDifference(9, "</s>", " And", 3.0),
            **changes,
        )
        for s in many(count)
    ]


def test_a_stop_is_missing_where_answers_run_on():
    assert named(running(12)) == ["stop token missing"]
    assert named([*running(2), *many(10)]) == ["something else"]
    # ours were cut: nothing is known of their ends
    cut = [replace(s, ours=replace(s.ours, ended=False)) for s in running(12)]
    assert "stop token missing" not in named(cut)


def test_a_longer_answer_to_another_prompt_is_no_missing_stop():
    other = [replace(s, exact=s.ours, their_prompt=(BOS, 7, 5, 9)) for s in running(12)]
    assert named(other) == ["other chat template"]


def test_sampling_answers_the_same_question_twice_otherwise():
    twice = [replace(s, again=answer("A bell.")) for s in many(4)]
    assert named([*twice, *many(8)]) == ["sampling not greedy"]
    rarely = [replace(s, again=s.ours) for s in many(7)]
    assert named([*rarely, replace(one(9), again=answer("A bell."))]) == ["same"]


def test_tokens_that_are_not_the_likeliest_were_drawn_or_penalised():
    drawn = replace(SAME, chosen=False)
    assert named(many(positions=(SAME, drawn))) == ["sampling not greedy"]


def test_several_causes_begin_with_what_is_read():
    seen = [replace(s, their_prompt=(BOS, *PROMPT), their_count=5) for s in far(1.5, base=-2.0)]
    assert named(seen) == ["BOS doubled", "adapter not applied"]
    # rounding explains nothing beside another cause
    seen = [replace(s, their_prompt=(BOS, *PROMPT), their_count=5) for s in far(0.05)]
    assert named(seen, quantisation="Q8_0") == ["BOS doubled"]


# ---- figures -------------------------------------------------------------------------------------


def test_figures_and_their_intervals():
    changed = [replace(s, theirs=answer("No.")) for s in many(3)]
    found = of_figures.figures([*many(9), *changed])
    assert found["identical"].value == 0.75
    assert found["identical"].ci_low < 0.5 < found["identical"].ci_high
    assert found["mean_difference"].value == pytest.approx(0.001)
    assert found["top1"] == of_figures.Figure(1.0, 1.0, 1.0, 72)
    assert found["max_difference"].ci_low is None
    assert "kl" not in of_figures.figures(bare(None))


def test_what_is_asked_for_its_end_alone_counts_in_no_figure():
    longer = [replace(s, ends=True, theirs=answer("No.")) for s in many(6)]
    assert of_figures.figures([*many(6), *longer])["identical"].value == 1


def test_divergence_is_that_of_the_whole_where_all_is_listed():
    import math

    ours, theirs = [0.5, 0.3, 0.2], [0.6, 0.1, 0.3]
    logs = [(math.log(p), math.log(q)) for p, q in zip(ours, theirs, strict=True)]
    whole = sum(p * math.log(p / q) for p, q in zip(ours, theirs, strict=True))
    assert divergence(logs) == pytest.approx(whole, rel=1e-4)
    assert 0 < divergence(logs[:1]) < whole
    assert divergence([(p, p) for p, _ in logs]) == pytest.approx(0, abs=1e-9)
    assert divergence([]) == 0
