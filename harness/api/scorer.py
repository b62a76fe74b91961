"""A function that rates answers, as a scorer that suites name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.api.tools import Tools
from harness.types import Bounds, ModelRef, Output, Sample

if TYPE_CHECKING:
    from harness.config.strict_yaml import StrictModel

ScorerKind = Literal["mean", "share", "corpus_bleu", "corpus_chrf"]
"""How a scorer's metric follows from what it gives for each answer."""


@dataclass(frozen=True)
class Scorer:
    """A function that rates answers, with the name of its metric."""

    name: str
    rate: Callable[..., Sequence[float | None] | Sequence[Sequence[float] | None]]
    """`rate(outputs, samples, tools, **options)`; its keyword-only parameters are its options."""
    kind: ScorerKind = "mean"
    higher_is_better: bool = True
    version: int = 1
    """Raise it when the same answer would get another score: it is part of the suite's hash."""
    embeds: bool = False
    """Whether it calls `Tools.embed`, so that the suite's embedder must be there."""
    needs_reference: bool = False
    """Whether a sample without a reference is refused before anything runs."""
    check: Callable[..., None] | None = None
    """`check(samples, **options)` raises UserError for what cannot be scored."""
    version_beyond_ascii: int | None = None
    """Counts in place of `version` for a suite with a reference that has letters beyond ASCII,
    where answers to such references alone would get another score."""
    reference: bool | None = None
    """Whether it grades how near an answer is to the reference, so that the score against other
    samples' references is its negative control; None: where it needs a reference and is a mean.
    A corpus score has none: no sample of it has a score to take another from."""
    bounds: Bounds | None = None
    """The range of its scores, which intervals do not leave; a share's is 0 to 1."""

    @property
    def controlled(self) -> bool:
        """Whether suites also have its `_own_minus_other`."""
        inferred = self.needs_reference and self.kind == "mean"
        return inferred if self.reference is None else self.reference

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The options: keyword-only parameters of the function."""
        return [
            parameter
            for parameter in inspect.signature(self.rate).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]

    @property
    def models(self) -> list[str]:
        """Options annotated ModelRef: named in the suite, resolved before anything runs."""
        return [p.name for p in self.parameters if p.annotation in (ModelRef, "ModelRef")]

    def options_model(self) -> type[StrictModel]:
        """What checks the options; one without a default is required."""
        from pydantic import create_model

        from harness.config.strict_yaml import StrictModel

        fields: dict[str, Any] = {}
        for parameter in self.parameters:
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            kind = str if parameter.name in self.models else kind
            required = parameter.default is parameter.empty
            fields[parameter.name] = (kind, ... if required else parameter.default)
        home = inspect.unwrap(self.rate).__module__  # where text annotations are looked up
        title = f"Options of {self.name}"
        return create_model(title, __base__=StrictModel, __module__=home, **fields)


def scorer(
    name: str,
    *,
    kind: ScorerKind = "mean",
    higher_is_better: bool = True,
    version: int = 1,
    batch: bool = False,
    embeds: bool = False,
    needs_reference: bool = False,
    check: Callable[..., None] | None = None,
    version_beyond_ascii: int | None = None,
    reference: bool | None = None,
    bounds: Bounds | None = None,
) -> Callable[[Callable[..., Any]], Scorer]:
    """Make a scorer of a function.

    The function gets an answer's text and its Sample and returns a number, or None where the
    sample cannot be scored; with `batch=True` it gets all outputs, all samples and the Tools,
    and returns a list. Its keyword-only parameters are the options that a suite may set, checked
    by their annotations; one annotated ModelRef is a model's name there and resolved here.

    `kind="share"` says that scores are 0 or 1. With `kind="corpus_bleu"` or `"corpus_chrf"` the
    metric is the score of the whole corpus, and the function gives for each answer the numbers
    that `harness.stats.corpus_scores` sums up: for BLEU, say, with a tokenizer of one's own.

    `embeds=True` says that it calls `Tools.embed`; `needs_reference=True` that a sample without a
    reference is an error. `check(samples, **options)` is called before anything runs and raises
    UserError for what cannot be scored.

    A score of how near answer and reference are is also computed against the references of other
    samples, as `<label>_other`, and suites have the metric `<label>_own_minus_other`; `reference`
    says whether, by default where the scorer needs a reference and is no share.

    `bounds=(0.0, 1.0)` is the range of the scores, None on a side without an end: a score beyond
    it is an error, and no interval leaves it. Without it intervals are as wide as they are.
    """
    if bounds is not None and None not in bounds and not bounds[0] < bounds[1]:  # type: ignore[operator]
        raise TypeError(f"scorer '{name}': bounds are (least, greatest), got {bounds}")
    if reference and kind not in ("mean", "share"):
        raise TypeError(f"scorer '{name}': a corpus score has no negative control")

    def make(function: Callable[..., Any]) -> Scorer:
        @functools.wraps(function)
        def each(
            outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools, **options: object
        ) -> list[float | None]:
            pairs = zip(outputs, samples, strict=True)
            return [function(output.text, sample, **options) for output, sample in pairs]

        rate = function if batch else each
        made = Scorer(
            name,
            rate,
            kind,
            higher_is_better,
            version,
            embeds,
            needs_reference,
            check,
            version_beyond_ascii,
            reference,
            bounds,
        )
        taken = {"name", "label"} & {parameter.name for parameter in made.parameters}
        if taken:
            raise TypeError(f"scorer '{name}': no option may be called '{taken.pop()}'")
        return made

    return make
