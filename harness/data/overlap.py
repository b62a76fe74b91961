"""Near-duplicates between training rows and evaluation samples.

`python -m harness.data.overlap TRAIN TEST` prints the closest pairs and exits 1 where one is too
close.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.data.near_duplicates import JaccardIndex, boilerplate_limit, trigrams
from harness.data.text_normalization import matching_words
from harness.data.tool_calls.given import turn_text
from harness.types import Message, Row, Sample

__all__ = ["Overlap", "closest", "normalised_prompt", "overlaps", "row_ngrams"]


@dataclass(frozen=True)
class Overlap:
    """A prompt or an n-gram that a training row and a sample share."""

    sample_id: str
    row_id: str
    row_line: int | None
    kind: str
    """`same prompt`, or `13-gram`."""
    text: str
    """The shared text, in normalised words."""


def overlaps(train: Sequence[Row], samples: Sequence[Sample], n: int = 13) -> list[Overlap]:
    """One Overlap per sample and row with the same normalised prompt or a shared word n-gram.

    Words are compared in lower case without punctuation. N-grams do not reach over the border of
    a message; those of system messages, and those in more than a tenth of the training rows (and
    in more than three), do not count. In the samples' order, then the rows'.
    """
    prompts: dict[str, list[int]] = defaultdict(list)
    grams: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        prompts[_prompt(_sample_prompts(sample))].append(i)
        for gram in _grams(_sample_texts(sample), n):
            grams[gram].append(i)
    shared, system = _shared(train, samples, grams.keys(), n)
    limit = boilerplate_limit(len(train))
    first: dict[tuple[int, int], Overlap] = {}
    for r, row in enumerate(train):
        prompt = _prompt(_row_prompts(row))
        hits = [("same prompt", prompt, prompts.get(prompt, []) if prompt else [])]
        hits += [
            (f"{n}-gram", gram, grams[gram])
            for gram in shared.rows[r]
            if gram not in system and shared.counts[gram] <= limit
        ]
        for kind, text, where in hits:
            for i in where:
                overlap = Overlap(samples[i].id, row.id, row.line, kind, text)
                first.setdefault((i, r), overlap)
    return [first[pair] for pair in sorted(first)]


@dataclass(frozen=True)
class _Shared:
    """The n-grams of the samples that occur in training rows."""

    rows: list[list[str]]
    counts: Counter[str]


def _shared(
    train: Sequence[Row], samples: Sequence[Sample], sample_ngrams: Iterable[str], n: int
) -> tuple[_Shared, set[str]]:
    """Each row's n-grams among the samples' with their counts, and those of system messages."""
    wanted = set(sample_ngrams)
    rows = [
        [gram for gram in dict.fromkeys(_grams(_row_texts(row), n)) if gram in wanted]
        for row in train
    ]
    counts = Counter(gram for row in rows for gram in row)
    conversations = [row.messages for row in train] + [sample.messages for sample in samples]
    texts = {text for turns in conversations for text in _turns(turns, ("system",))}
    return _Shared(rows, counts), set(_grams(texts, n))


def closest(
    train: Sequence[Row], samples: Sequence[Sample], top: int = 10
) -> list[tuple[float, str, str]]:
    """The `top` most similar pairs as (similarity 0 to 1, sample id, row id), closest first.

    Similarity is the larger Jaccard index of word trigrams and of word sets, of the two user
    turns (or plain prompts, or texts) that are most alike. Exact: a pair is passed over only
    where it is less similar than `top` others.
    """
    turns = [(r, matching_words(text)) for r, row in enumerate(train) for text in _row_prompts(row)]
    rows = [r for r, _ in turns]
    word_index, trigram_index = JaccardIndex[str](), JaccardIndex[tuple[str, ...]]()
    for _, words in turns:
        word_index.add(set(words))
        trigram_index.add(trigrams(words))
    pairs: list[tuple[float, int, int]] = []
    for i, sample in enumerate(samples if top > 0 else ()):
        at_least = pairs[-1][0] if len(pairs) == top else 0.0
        similar: dict[int, float] = {}
        for text in _sample_prompts(sample):
            words = matching_words(text)
            for matches in (
                word_index.matches(set(words), at_least),
                trigram_index.matches(trigrams(words), at_least),
            ):
                for turn, similarity in matches.items():
                    row = rows[turn]
                    similar[row] = max(similarity, similar.get(row, 0.0))
        pairs += [(similarity, i, r) for r, similarity in similar.items()]
        pairs = sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:top]
    return [(similarity, samples[i].id, train[r].id) for similarity, i, r in pairs]


# Texts of a row or sample


def normalised_prompt(row: Row) -> str:
    """A row's prompt, or its text, in normalised words."""
    return _prompt(_row_prompts(row))


def row_ngrams(row: Row, n: int = 13) -> set[str]:
    """The word n-grams of a row's user and assistant turns, or of its text."""
    return set(_grams(_row_texts(row), n))


def _grams(texts: Iterable[str], n: int) -> Iterator[str]:
    for text in texts:
        words = matching_words(text)
        for i in range(len(words) - n + 1):
            yield " ".join(words[i : i + n])


def _turns(messages: Sequence[Message] | None, roles: tuple[str, ...]) -> list[str]:
    return [turn_text(turn) for turn in messages or () if turn["role"] in roles]


def _prompt(texts: Iterable[str]) -> str:
    return " ".join(word for text in texts for word in matching_words(text))


def _row_prompts(row: Row) -> list[str]:
    """The user turns of a row, or its prompt or text."""
    return _turns(row.messages, ("user",)) or _non_empty(row.prompt, row.text)


def _sample_prompts(sample: Sample) -> list[str]:
    text = sample.reference if sample.prompt is None and not sample.messages else None
    return _turns(sample.messages, ("user",)) or _non_empty(sample.prompt, text)


def _row_texts(row: Row) -> list[str]:
    turns = _turns(row.messages, ("user", "assistant"))
    return turns + _non_empty(row.prompt, row.completion, row.text)


def _sample_texts(sample: Sample) -> list[str]:
    turns = _turns(sample.messages, ("user", "assistant"))
    return turns + _non_empty(sample.prompt, sample.reference)


def _non_empty(*texts: str | None) -> list[str]:
    return [text for text in texts if text]


# The script


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the closest pairs; 1 where one is above the maximum, 2 where a file is wrong."""
    import argparse
    import sys
    from pathlib import Path

    from harness.data.rows import load_rows, load_samples
    from harness.errors import UserError

    parser = argparse.ArgumentParser(
        prog="python -m harness.data.overlap",
        description="Closest pairs of training rows and test samples; exit 1 if one is too close.",
    )
    parser.add_argument("train", type=Path, metavar="TRAIN")
    parser.add_argument("test", type=Path, metavar="TEST")
    parser.add_argument("--max", type=float, default=0.6, help="similarity allowed (%(default)s)")
    parser.add_argument("--top", type=int, default=10, help="pairs to print (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        train, samples = load_rows(given.train), load_samples(given.test)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    pairs = closest(train, samples, max(1, given.top))
    rows = {row.id: " / ".join(_row_prompts(row)) for row in train}
    prompts = {sample.id: " / ".join(_sample_prompts(sample)) for sample in samples}
    for similarity, sample_id, row_id in pairs:
        print(f"{similarity:.2f}  {sample_id}: {prompts[sample_id][:160]}")
        print(f"      {row_id}: {rows[row_id][:160]}")
    worst = pairs[0][0] if pairs else 0.0
    close = worst > given.max
    print(
        f"{len(train)} rows, {len(samples)} samples, closest {worst:.2f}, allowed {given.max:.2f}"
    )
    return 1 if close else 0


if __name__ == "__main__":
    from harness.system.console import standard_streams

    with standard_streams():
        raise SystemExit(main())
