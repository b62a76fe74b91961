"""General rows blended into the training data, the usual answer to forgetting (`data.mix`)."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from harness.data import rows
from harness.data.dataset_aliases import DATA_SETS
from harness.data.overlap import normalised_prompt, row_ngrams
from harness.data.readers import EXTENSIONS
from harness.errors import DataError
from harness.types import Row

__all__ = ["Drawn", "MixPlan", "draw", "is_new", "places", "short_name"]


@dataclass(frozen=True)
class MixPlan:
    """The rows to blend in, located and counted."""

    name: str
    """In labels: `lora+dolly-0.1`."""
    source: str
    """As the experiment names it."""
    file: str
    share: float
    """Of the rows that training draws."""
    format: str
    columns: Mapping[str, str] | None
    hash: str
    """sha256 over the source's rows."""
    rows: int
    """Of the source, or of the sample of it."""
    sample: int | None = None
    """So many rows of the source, drawn with a fixed seed."""

    @property
    def suffix(self) -> str:
        """The suffix of labels of cells with this mix."""
        return f"+{self.name}-{self.share:g}"


@dataclass(frozen=True)
class Drawn:
    """The rows that training gets, in order."""

    rows: Sequence[Row]
    mixed: Sequence[Row] = ()
    """Those of the mix among them, each once."""
    left_out: int = 0
    """Drawn rows of the mix that were skipped, being in the training or validation data."""


def draw(
    train: Sequence[Row],
    validation: Sequence[Row],
    mixed: Sequence[Row],
    share: float,
    count: int,
    seed: int,
) -> Drawn:
    """`count` draws, of which the mix has its share in every stretch of them.

    The training rows come in the order that they have without a mix (fewer of them, as the budget
    is the same); the mix's in an order of their own, every row once before any comes twice.
    Raises DataError where the mix holds nothing new.
    """
    turns = places(share, count) if mixed else [False] * count
    needed = sum(turns)
    repeated: set[int] = set()
    own = iter(train[i] for i in rows.training_order(len(train), count - needed, seed))
    general = list(itertools.islice(_new_rows(train, validation, mixed, seed, repeated), needed))
    theirs = iter(general)
    return Drawn(
        rows=[next(theirs) if turn else next(own) for turn in turns],
        mixed=list({row.id: row for row in general}.values()),
        left_out=len(repeated),
    )


def _new_rows(
    train: Sequence[Row],
    validation: Sequence[Row],
    mixed: Sequence[Row],
    seed: int,
    repeated: set[int],
) -> Iterator[Row]:
    """New rows of the mix without end, under ids of their own; each is checked when it is drawn.

    The indices of those that are not new are added to `repeated`.
    """
    new, prefix = is_new(train, validation), _prefix(train, mixed)
    for epoch in itertools.count():
        for i in rows.training_order(len(mixed), len(mixed), f"mix:{seed}:{epoch}"):
            if epoch == 0 and not new(mixed[i]):
                repeated.add(i)
            if i not in repeated:
                yield dataclasses.replace(mixed[i], id=f"{prefix}{mixed[i].id}")
        if len(repeated) == len(mixed):
            raise DataError("every row of the mix is in the training or validation data")


def places(share: float, count: int) -> list[bool]:
    """Which of `count` draws are the mix's: of the first k, for every k, `share * k` rounded."""
    exact, half = Fraction(str(share)), Fraction(1, 2)
    so_far = [int(exact * k + half) for k in range(count + 1)]
    return [later > before for before, later in itertools.pairwise(so_far)]


def is_new(train: Sequence[Row], validation: Sequence[Row]) -> Callable[[Row], bool]:
    """Whether a row of the mix may be trained on.

    Not where its prompt is that of a training or validation row (in normalised words), nor where
    it shares a 13-gram of words with a validation row.
    """
    prompts = {normalised_prompt(row) for row in (*train, *validation)} - {""}
    ngrams = {ngram for row in validation for ngram in row_ngrams(row)}
    return lambda row: normalised_prompt(row) not in prompts and ngrams.isdisjoint(row_ngrams(row))


def _prefix(train: Sequence[Row], mixed: Sequence[Row]) -> str:
    taken, prefix = {row.id for row in train}, "mix:"
    while any(f"{prefix}{row.id}" in taken for row in mixed):
        prefix = f"mix:{prefix}"
    return prefix


def short_name(source: str) -> str:
    """The name of a source in labels: its short name, or the last part of its id or path."""
    short_names = {hub_id: short for short, hub_id in DATA_SETS.items()}
    path = Path(source.partition("@")[0])
    last = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    return short_names.get(str(path)) or re.sub(r"[^A-Za-z0-9._-]+", "-", last)
