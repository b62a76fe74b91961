"""Why a form is not the model that was measured: named by rules on what was seen.

What the form reads is looked at first (its prompts), then what it holds (its weights, judged on our
own token ids where it takes them, so that no template is in the way), then how it ends and draws.
Each rule states the evidence that it needs; several may hold, and the most fundamental comes first.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from harness.export.differences import answer_runs_on, first_difference, prompt_difference
from harness.parity.figures import beyond, difference, positions, same, tied
from harness.parity.seen import Answer, Limits, Seen
from harness.stats.proportions import mid_p

Name = Literal[
    "truncated context",
    "BOS doubled",
    "BOS added",
    "BOS missing",
    "other chat template",
    "adapter not applied",
    "other weights",
    "stop token missing",
    "sampling not greedy",
    "quantisation only",
    "something else",
    "same",
]

CLOSER = 0.5
"""The base's log-probabilities must be nearer to the form's than this part of the cell's distance,
for the form to be the base. An F16 file of SmolLM2-135M's base was 0.0016 nats from the base and
1.55 from its LoRA; 4 bits add 0.33 to either."""
SURE = 0.01
"""Without log-probabilities: two-sided mid-p of McNemar's test over prompts, of answers that have
more of their beginning in common with the base's than with the cell's."""
QUANTISED_MEAN = 0.5
"""Nats, of the mean difference that quantisation alone makes. SmolLM2-135M, which suffers more
from it than larger models do, with a LoRA: nf4 0.33; fp4 0.51 is called other weights. The LoRA of
another seed is 0.37 away, so that few bits cannot be told from another training; the base 1.5."""
EIGHT_BITS_MEAN = 0.15
"""The same of a form that says it has 8 bits: Q8_0 made 0.04."""
QUANTISED_GAP = 2.0
"""Nats by which the cell's model may prefer its own token where quantisation chose another. Of 20
answers that part in nf4, 18 did so within 2 nats; the base's parted at up to 7.4."""
GAPS = 0.9
"""Share of the answers that part whose gap must be within QUANTISED_GAP."""
RUNS_ON = 0.5
"""Share of the answers that begin with ours and must go on beyond its end, for the stop to be
missing."""
REPEATED = 0.25
"""Share of the questions asked twice that must be answered otherwise, for sampling to be named.
Batches of other shapes round otherwise, and flip an answer of equals now and then."""
UNLIKELY = 0.02
"""The same of tokens that are not the form's own likeliest."""
NOT_QUANTISED = ("F32", "F16", "BF16", "float32", "float16", "bfloat16")
"""What forms call weights that are not quantised."""


@dataclass(frozen=True)
class Cause:
    """A reason, and what shows it."""

    name: Name
    because: str
    """One sentence with the figures."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """Of prompts that differ: `ours`, `theirs` and the first `difference`."""


def causes(
    seen: Sequence[Seen],
    limits: Limits,
    *,
    bos: int | None = None,
    quantisation: str | None = None,
    context: int | None = None,
) -> list[Cause]:
    """Why the form differs, the most fundamental first; [`same`] where it does not.

    `bos` is the token that the tokenizer begins texts with, `quantisation` what the form says of
    itself, `context` its length.
    """
    found = [
        *_of_prompts(seen, bos, context),
        *_of_weights(seen, limits, quantisation),
        *_of_ends(seen),
        *_of_sampling(seen),
    ]
    named = [cause for cause in found if cause is not None]
    if len(named) > 1:  # what merely rounds otherwise is no reason beside another
        named = [cause for cause in named if cause.name != "quantisation only"]
    if named:
        return named
    reasons = [*beyond(seen, limits), *_failed(seen)]
    if reasons:
        return [Cause("something else", "; ".join(reasons))]
    return [Cause("same", _sameness(seen))]


# ---- what the form reads -------------------------------------------------------------------------

Reading = Literal[
    "same",
    "unknown",
    "truncated context",
    "BOS doubled",
    "BOS added",
    "BOS missing",
    "other chat template",
]


def reading(one: Seen, bos: int | None) -> Reading:
    """How the form reads a prompt, by its token ids, its text or its count of tokens."""
    if one.too_long:
        return "truncated context"
    ours, theirs, count = one.prompt, one.their_prompt, one.their_count
    if theirs is None and one.their_text is None:
        return "unknown" if count is None else _by_count(len(ours), count, ours, bos)
    if theirs is not None and theirs != ours:
        return _by_ids(ours, theirs, bos)
    if theirs is None and one.their_text != one.text:
        return "other chat template"
    # it renders alike, and may still add a token or cut
    return "same" if count is None else _by_count(len(ours), count, ours, bos)


def _by_ids(ours: tuple[int, ...], theirs: tuple[int, ...], bos: int | None) -> Reading:
    found = prompt_difference(ours, theirs, bos)
    if found is not None and found.cause != "other tokens":
        return found.cause
    shorter = len(theirs) < len(ours)
    ends_alike = ours[-len(theirs) :] == theirs or ours[: len(theirs)] == theirs
    return "truncated context" if shorter and ends_alike else "other chat template"


def _by_count(ours: int, theirs: int, prompt: tuple[int, ...], bos: int | None) -> Reading:
    if theirs == ours:
        return "same"
    if theirs == ours + 1:
        return "BOS doubled" if bos in prompt[:1] else "BOS added"
    if theirs == ours - 1 and bos in prompt[:1]:
        return "BOS missing"
    return "truncated context" if theirs < ours else "other chat template"


def _of_prompts(seen: Sequence[Seen], bos: int | None, context: int | None) -> list[Cause]:
    asked = [one for one in seen if one.theirs is not None or one.too_long]
    readings = [reading(one, bos) for one in asked]
    counts = Counter(readings)
    by_count = all(one.their_prompt is None and one.their_text is None for one in asked)
    refused = any(one.too_long for one in asked)
    if by_count and not refused and not counts["same"]:
        # every prompt is shorter: a template that writes less, and no context that cuts
        readings = [_not_cut(r) for r in readings]
    found = []
    order: tuple[Name, ...] = (
        "truncated context",
        "BOS doubled",
        "BOS added",
        "BOS missing",
        "other chat template",
    )
    for name in order:
        whose = [one for one, its in zip(asked, readings, strict=True) if its == name]
        if whose:
            found.append(_prompts(name, whose, len(asked), by_count, context))
    return found


def _not_cut(of: Reading) -> Reading:
    return "other chat template" if of == "truncated context" else of


def _prompts(
    name: Name, whose: Sequence[Seen], asked: int, by_count: bool, context: int | None
) -> Cause:
    one = whose[0]
    what = {
        "truncated context": "do not reach the form whole",
        "BOS doubled": "begin with BOS twice, and once in the evaluation",
        "BOS added": "begin with a BOS token that they lacked in the evaluation",
        "BOS missing": "lack the BOS token that they began with in the evaluation",
        "other chat template": "are rendered otherwise",
    }[name]
    counted = f"{len(whose)} of {asked} prompts {what}"
    if name == "truncated context" and context is not None:
        counted += f" (its context holds {context} tokens)"
    if by_count and not one.too_long:
        counted += f", by the count of tokens alone ({one.their_count} for our {len(one.prompt)})"
    return Cause(name, counted, shown(one))


def shown(one: Seen) -> dict[str, str]:
    """Both renderings of a prompt around where they first differ; empty where it is not known."""
    if one.their_text is None and one.their_prompt is None:
        return {}
    theirs = one.their_text
    at = None if theirs is None else first_difference(one.text, theirs)
    if theirs is None or at is None:
        ours, its = list(one.prompt), list(one.their_prompt or ())
        at = first_difference(ours, its) or 0
        begin = max(0, at - 2)
        return {
            "ours": f"{ours[begin : begin + 8]}",
            "theirs": f"{its[begin : begin + 8]}",
            "difference": f"at token {at + 1}",
        }
    begin = max(0, at - 20)
    return {
        "ours": _around(one.text, begin),
        "theirs": _around(theirs, begin),
        "difference": f"at character {at + 1}",
    }


_SHOWN = 80
"""Characters of a prompt that are shown."""


def _around(text: str, begin: int) -> str:
    part = text[begin : begin + _SHOWN]
    return f"{'...' if begin else ''}{part}{'...' if begin + _SHOWN < len(text) else ''}"


# ---- what it holds -------------------------------------------------------------------------------


def _of_weights(seen: Sequence[Seen], limits: Limits, quantisation: str | None) -> list[Cause]:
    known = list(positions(seen))
    if known:
        distances = list(map(difference, known))
        mean, largest = fmean(distances), max(distances)
        if mean <= limits.mean and largest <= limits.largest:
            return []
        of_base = [abs(p.base - p.theirs) for p in known if p.base is not None]
        words = f"log-probabilities differ by {mean:.3g} nats on average and {largest:.3g} at most"
        if of_base and fmean(of_base) < CLOSER * mean:
            return [
                Cause(
                    "adapter not applied",
                    f"{words}; the untouched base's by {fmean(of_base):.3g}: these are its answers",
                )
            ]
        most = EIGHT_BITS_MEAN if _has_8_bits(quantisation) else QUANTISED_MEAN
        return [_quantised(seen, words, quantisation, mean <= most)]
    return _by_answers(seen, limits, quantisation)


def _by_answers(seen: Sequence[Seen], limits: Limits, quantisation: str | None) -> list[Cause]:
    """Where no log-probabilities of our own prompts are to be had: by the answers alone."""
    pairs = [(one, one.exact or one.theirs) for one in seen if not one.ends]
    # an answer to another prompt says nothing of the weights
    asked = [
        (one, its)
        for one, its in pairs
        if its is not None and (one.exact is not None or reading(one, None) in ("same", "unknown"))
    ]
    changed = [
        (one, its) for one, its in asked if its.text != one.ours.text and not tied(one, limits)
    ]
    if not asked or len(changed) <= limits.changed * len(asked) or _of_sampling(seen):
        return []
    words = f"{len(changed)} of {len(asked)} answers changed"
    nearer = [
        (common(its, one.base), common(its, one.ours)) for one, its in asked if one.base is not None
    ]
    base, cell = sum(a > b for a, b in nearer), sum(b > a for a, b in nearer)
    if base > cell and mid_p(base, cell) < SURE:
        return [
            Cause(
                "adapter not applied",
                f"{words}; {base} have more in common with the untouched base's answer, {cell} "
                "with the cell's",
            )
        ]
    return [_quantised(seen, words, quantisation, True)] if _ends_alike(changed) else []


def _ends_alike(changed: Sequence[tuple[Seen, Answer]]) -> bool:
    """Whether answers part, and do not merely run on."""
    return any(not _runs_on(one, its) for one, its in changed)


def common(one: Answer, other: Answer | None) -> float:
    """The share of the longer answer that both begin with, in characters."""
    if other is None:
        return 0.0
    longest = max(len(one.text), len(other.text))
    at = first_difference(one.text, other.text)
    return 1.0 if at is None or not longest else at / longest


def _quantised(seen: Sequence[Seen], words: str, quantisation: str | None, near: bool) -> Cause:
    gaps = [one.first.gap for one in seen if one.first is not None and not one.ends]
    small = [gap for gap in gaps if math.isfinite(gap) and gap <= QUANTISED_GAP]
    if gaps:
        words += (
            f"; where answers part the cell prefers its own token by {max(gaps):.2g} nats at most"
        )
    whole = quantisation is not None and quantisation.split(" ")[0] in NOT_QUANTISED
    if near and not whole and len(small) >= GAPS * len(gaps):
        says = f"the form says {quantisation}" if quantisation else "the form does not say which"
        if not _has_8_bits(quantisation):
            says += "; another training of the same recipe would be as near"
        return Cause("quantisation only", f"{words}; {says}")
    if whole and near:
        words += f"; the form says {quantisation}, which rounds less"
    return Cause("other weights", words)


def _has_8_bits(quantisation: str | None) -> bool:
    """Whether a form says that its weights have 8 bits, as in `Q8_0`, `int8` or `FP8`."""
    return re.match(r"(?:IQ|Q|INT|FP)8(?!\d)", quantisation or "", re.IGNORECASE) is not None


# ---- how it ends, and how it draws ---------------------------------------------------------------


def _runs_on(one: Seen, its: Answer) -> bool:
    """Whether an answer goes on where ours came to its end."""
    mine, other = one.ours.text.encode(), its.text.encode()
    return answer_runs_on(mine, other, ours_ended=one.ours.ended, theirs_ended=its.ended)


def _of_ends(seen: Sequence[Seen]) -> list[Cause]:
    on = [(one, one.theirs) for one in seen if one.theirs is not None and one.ours.ended]
    # another prompt's answer may be longer for many reasons: our own token ids tell then
    pairs = [(one, its if one.exact is None or same(one) else one.exact) for one, its in on]
    begun = [(one, its) for one, its in pairs if its.text.startswith(one.ours.text)]
    running = [one for one, its in begun if _runs_on(one, its)]
    if len(running) < 2 or len(running) < RUNS_ON * len(begun):
        return []
    return [
        Cause(
            "stop token missing",
            f"{len(running)} of {len(begun)} answers that begin as ours go on beyond its end",
        )
    ]


def _of_sampling(seen: Sequence[Seen]) -> list[Cause]:
    twice = [one for one in seen if one.again is not None and one.theirs is not None]
    other = [one for one in twice if one.again and one.theirs and one.again.text != one.theirs.text]
    if len(other) >= 2 and len(other) >= REPEATED * len(twice):
        words = f"{len(other)} of {len(twice)} questions asked twice have two answers"
        return [Cause("sampling not greedy", words)]
    known = list(positions(seen))
    unlikely = sum(not position.chosen for position in known)
    if unlikely >= 3 and unlikely >= UNLIKELY * len(known):
        words = f"{unlikely} of {len(known)} tokens are not the likeliest by the form's own word"
        return [Cause("sampling not greedy", words)]
    return []


# ---- nothing -------------------------------------------------------------------------------------


def _failed(seen: Sequence[Seen]) -> list[str]:
    failed = [one for one in seen if one.failure is not None]
    return [f"{len(failed)} of {len(seen)} questions failed: {failed[0].failure}"] if failed else []


def _sameness(seen: Sequence[Seen]) -> str:
    answered = [one for one in seen if one.theirs is not None and not one.ends]
    count = sum(map(same, answered))
    return f"{count} of {len(answered)} answers are the same"
