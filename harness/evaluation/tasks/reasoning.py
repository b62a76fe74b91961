"""Answers of thinking models: the reasoning before an answer is separated from it.

Where the reasoning stands between markers, such as `<think>` and `</think>`, what is scored and
judged is the text after the end marker. Reasoning that never ends leaves no answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from harness.api.model import Generation, Model
from harness.config.reasoning import AUTO, NONE, ReasoningSettings
from harness.stats.answers import reasoning as written
from harness.stats.answers.degenerate_answers import MANY
from harness.stats.metric_summary import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Answer",
    "Markers",
    "answers",
    "final_text",
    "markers_for",
    "notes",
    "of_row",
    "separates",
    "template_of",
    "warnings",
]


@dataclass(frozen=True)
class Markers:
    """What stands before and after the reasoning."""

    end: str
    start: str | None
    """None where only the end is known."""
    source: Literal["suite", "template"]
    """Who says so: the suite or its experiment, or the model's chat template."""


@dataclass(frozen=True)
class Answer:
    """What a model generated, with the reasoning and the answer apart."""

    text: str
    """The answer; empty where the reasoning is unfinished."""
    tokens: int
    """All generated tokens, without the end token."""
    reasoning: str = ""
    """Empty where the model gave none."""
    reasoning_tokens: int = 0
    """With its markers, as far as they were generated."""
    unfinished: bool = False
    """Whether the reasoning has no end, though the model's logits were finite."""


def separates(wanted: object) -> bool:
    """Whether a suite's `reasoning`, as plain data, has the reasoning taken from answers."""
    return wanted is not None and wanted != NONE


def markers_for(wanted: object, template: str | None) -> Markers | None:
    """The markers of a suite's `reasoning`, as plain data, for a model; None: there are none.

    `template` is the chat template that renders the model's prompts.
    """
    if not separates(wanted):
        return None
    if wanted == AUTO:
        for start, end in written.MARKERS if template else ():
            if end in str(template) or start in str(template):
                return Markers(end, start, "template")
        return None
    settings = ReasoningSettings.model_validate(wanted)
    return Markers(settings.end, settings.start or _opening(settings.end), "suite")


def _opening(end: str) -> str | None:
    """The start marker of an end marker; None where it has no slash to leave out."""
    known = {known_end: start for start, known_end in written.MARKERS}
    return known.get(end) or (end.replace("/", "", 1) if "/" in end else None)


def answers(
    markers: Markers | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    generated: Sequence[Generation],
    decode: Callable[[Sequence[int]], str],
) -> list[Answer]:
    """The answers to prompts; `decode` gives the text of token ids without special tokens."""
    found = [
        Answer(decode(one.ids), len(one.ids))
        if markers is None
        else _separated(markers, tokenizer, prompt, one, decode)
        for prompt, one in zip(prompts, generated, strict=True)
    ]
    return [_counted(answer, one) for answer, one in zip(found, generated, strict=True)]


def _counted(answer: Answer, generated: Generation) -> Answer:
    """With a server's own count of tokens, where the ids are another tokenizer's."""
    if not answer.tokens or generated.tokens == answer.tokens:
        return answer
    thought = round(answer.reasoning_tokens / answer.tokens * generated.tokens)
    return replace(answer, tokens=generated.tokens, reasoning_tokens=thought)


def final_text(wanted: object, model: Model, prompt: Sequence[int], generated: Generation) -> str:
    """The answer alone, by a suite's `reasoning`."""
    markers = markers_for(wanted, template_of(model))

    def decode(ids: Sequence[int]) -> str:
        return model.text(ids).strip()

    return answers(markers, model.tokenizer, [prompt], [generated], decode)[0].text


def template_of(model: Model) -> str | None:
    """The chat template that renders a model's prompts; None where it has none."""
    template = model.chat_template or model.tokenizer.chat_template
    if isinstance(template, Mapping):  # several, by name
        template = template.get("default")
    return template if isinstance(template, str) else None


def _separated(
    markers: Markers,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    generated: Generation,
    decode: Callable[[Sequence[int]], str],
) -> Answer:
    ids = generated.ids
    whole = _shown(tokenizer, ids)
    ends = whole.count(markers.end)
    after = whole.rpartition(markers.end)[2] if ends else ""
    if ends and not (markers.start and markers.start in after):
        return _answered(markers, tokenizer, ids, ends, decode)
    if not ends and not _is_open(markers, tokenizer, prompt, whole, capped=generated.capped):
        return Answer(decode(ids), len(ids))
    thought = _inside(whole, markers)
    return Answer("", len(ids), thought, len(ids), unfinished=generated.finite)


def _answered(
    markers: Markers,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    ends: int,
    decode: Callable[[Sequence[int]], str],
) -> Answer:
    """An answer whose token ids hold the end marker, `ends` times."""
    at = _first_with(tokenizer, ids, markers.end, ends)
    before, _, joined = _shown(tokenizer, ids[:at]).rpartition(markers.end)
    # a token may hold the end of the marker and the beginning of the answer
    text = (joined + decode(ids[at:])).strip()
    return Answer(text, len(ids), _inside(before, markers), at)


def _is_open(
    markers: Markers,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    whole: str,
    *,
    capped: bool,
) -> bool:
    """Whether an answer without the end marker is reasoning that never ended."""
    if markers.start is None:
        return capped
    return markers.start in whole or _opens(markers.start, tokenizer, prompt)


def _opens(start: str, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends with the start marker, as some templates have the model begin."""
    longest = len(start.encode()) + 8  # tokens that the marker and blanks after it can take
    return _shown(tokenizer, prompt[-longest:]).rstrip().endswith(start)


def _inside(text: str, markers: Markers) -> str:
    """Reasoning without the start marker, which may stand in the prompt."""
    return text.strip().removeprefix(markers.start or "").strip()


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text with special tokens: a marker may be one."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _first_with(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], marker: str, count: int
) -> int:
    """The fewest tokens whose text holds the marker `count` times, by bisection."""
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        if _shown(tokenizer, ids[:middle]).count(marker) >= count:
            high = middle
        else:
            low = middle + 1
    return low


# What a record and its samples have of it


def of_row(answer: Answer) -> dict[str, object]:
    """What a sample row keeps of the reasoning."""
    return {
        "reasoning": answer.reasoning,
        "reasoning_tokens": answer.reasoning_tokens,
        "unfinished_reasoning": answer.unfinished,
    }


def notes(markers: Markers | None, rows: Rows) -> dict[str, object]:
    """What a suite's notes have of its reasoning; `end` is None where the model has no markers."""
    if markers is None:
        return {"end": None, "start": None, "source": None}
    return {**vars(markers), **written.figures(rows)}


def warnings(
    suite: str,
    wanted: object,
    markers: Markers | None,
    model: Model,
    prompts: Sequence[Sequence[int]],
    generated: Sequence[Generation],
) -> list[str]:
    """What is wrong with a suite's `reasoning`, beside what the texts of the answers show.

    Reasoning that nobody takes away although the prompt opens it, or its markers are special
    tokens, which no text shows; and an end marker that no answer holds.
    """
    if wanted == NONE or not prompts:
        return []
    shown = [_shown(model.tokenizer, one.ids) for one in generated]
    if markers is None:
        return _left_in(suite, model.tokenizer, prompts[0], shown)
    if markers.source == "suite" and not any(markers.end in text for text in shown):
        if any(_opens(markers.start or "\0", model.tokenizer, prompt) for prompt in prompts):
            return []  # unfinished, all of it
        return [
            f"suite '{suite}': no answer holds reasoning.end {markers.end!r}: right for a model "
            "that does not reason, else write what ends its reasoning"
        ]
    return []


def _left_in(
    suite: str, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], shown: Sequence[str]
) -> list[str]:
    """Where reasoning is scored as the answer."""
    opened = [end for start, end in written.MARKERS if _opens(start, tokenizer, prompt)]
    ends = written.marked(shown)
    if opened:
        what, end = "every prompt opens reasoning", opened[0]
    elif len(ends) > MANY * len(shown):
        what = f"{len(ends)} of {len(shown)} answers hold reasoning"
        end = Counter(ends).most_common(1)[0][0]
    else:
        return []
    return [f"suite '{suite}': {what}, {written.advice(end)}"]
