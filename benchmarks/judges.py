"""How far judges that need no network can be believed: certificates, side by side.

    python benchmarks/judges.py --to DIR [--pandalm FILE] [--pairs N] [--only NAME,NAME]

On the harness's labelled pairs, and on N pairs of PandaLM's test set (FILE as WeOpenML/PandaLM has
it, one pair a line with three people's verdicts). Models: smollm2-135m and, for the cosine,
minilm-l6. Writes DIR/<set>-<judge>.json, each a certificate, and a table of all that lie there,
DIR/judges.md.

Judges of the harness (`expected_score`, `rubric`, `pairwise`) are asked as a suite asks them. The
others are functions of question, reference and answer:

- `length`, `random`: negative controls;
- `cosine`: of answer and reference; without a reference, of answer and question;
- `facts`: the share of the reference's numbers and names that the answer has, less a half where
  the answer has a number that is in neither reference nor question;
- `likelihood`: log P(answer | question, reference) - log P(answer | question), a token, in nats;
- `backward`: the same of the reference, given the answer; the judge `reference_gain`;
- `mutual`: the sum of both;
- `weakest`: the least likely token of the answer, given question and reference;
- `texts`, `likelihoods`, `all`: logistic regressions of these, fitted on one half of the pairs and
  certified on the other, both ways.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.evaluation.evaluate import Bench
from harness.evaluation.judging import certificate, certify, labels
from harness.evaluation.judging.labels import LabelledSet, Pair
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.prompts import encode_continuations
from harness.manager import plugins
from harness.models.packaged import resolve_model
from harness.results.store import write_json, write_text
from harness.system.environment import environment
from harness.system.hub import file_sha256
from harness.types import Artifact, Output, Sample

HELPFUL = "The better answer does what it is asked to, is right, and says no more than is needed."
OWN = {"smollm2-135m"}
"""Whose labelled answers are the judging model's own, and those of its fine-tunes."""
Key = tuple[str, str | None, str]
"""Question, reference and answer."""

CRITERIA = [
    {
        "name": "accuracy",
        "levels": {
            "1": "it states a wrong fact, or does not answer the question",
            "2": "it is on the subject, but a fact of the right answer is missing",
            "3": "it has all the facts of the right answer, and none that is wrong",
        },
    }
]
HELP_CRITERIA = [
    {
        "name": "help",
        "levels": {
            "1": "it does not do what was asked, or is wrong",
            "2": "it does a part of what was asked",
            "3": "it does all that was asked, and is right",
        },
    }
]


# ---- features ------------------------------------------------------------------------------------

UNITS = {
    word: value
    for value, word in enumerate(
        re.findall(
            r"\w+",
            "zero one two three four five six seven eight nine ten eleven twelve thirteen "
            "fourteen fifteen sixteen seventeen eighteen nineteen",
        )
    )
}
TENS = {
    word: 10 * value
    for value, word in enumerate(
        re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety"), 2
    )
}
SMALL = {"one", "two"}
"""Words that are seldom a figure."""


def numbers(text: str) -> set[str]:
    """Numbers of a text, written in digits or words, without commas and trailing zeros."""
    found = {f"{float(n.replace(',', '')):g}" for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}
    words = re.findall(r"[a-z]+", text.lower())
    place = 0
    while place < len(words):
        word, following = words[place], words[place + 1] if place + 1 < len(words) else ""
        if word in TENS:
            unit = UNITS.get(following, 0)
            found.add(str(TENS[word] + (unit if 0 < unit < 10 else 0)))
            place += 1 + (0 < unit < 10)
            continue
        if word in UNITS and word not in SMALL:
            found.add(str(UNITS[word]))
        place += 1
    return found


def names(text: str) -> set[str]:
    """Words in capitals, and capitalised words that begin no sentence."""
    inside = re.findall(r"(?<=[a-z,;:0-9] )[A-Z][\w']+", text)
    return {word.lower() for word in [*inside, *re.findall(r"\b[A-Z]{4,}\b", text)]}


def facts(question: str, reference: str, text: str) -> float:
    wanted_numbers, wanted_names = numbers(reference), names(reference)
    has = len(wanted_numbers & numbers(text))
    has += sum(name in text.lower() for name in wanted_names)
    wanted = len(wanted_numbers) + len(wanted_names)
    if not wanted:  # a reference of common words
        words = set(re.findall(r"[a-z]{4,}", reference.lower()))
        words -= set(re.findall(r"[a-z]{4,}", question.lower()))
        has, wanted = sum(word in text.lower() for word in words), len(words)
    foreign = numbers(text) - wanted_numbers - numbers(question)
    return (has / wanted if wanted else 0.0) - (0.5 if foreign else 0.0)


@dataclass
class Features:
    """What is known of answers, computed once for each: their texts, and their likelihoods."""

    model: Any
    embedder: Any
    texts: dict[Key, dict[str, float]] = field(default_factory=dict)
    likelihoods: dict[Key, dict[str, float]] = field(default_factory=dict)

    def of(
        self, names: Sequence[str], outputs: Sequence[Output], samples: Sequence[Sample]
    ) -> list[list[float]]:
        """`(answers, names)`."""
        keys = [
            (sample.question, sample.reference, output.text)
            for output, sample in zip(outputs, samples, strict=True)
        ]
        distinct = list(dict.fromkeys(keys))
        if set(names) & set(TEXTUAL):
            self._add_texts([key for key in distinct if key not in self.texts])
        if set(names) - set(TEXTUAL):
            self._add_likelihoods([key for key in distinct if key not in self.likelihoods])
        empty: dict[str, float] = {}
        known = [{**self.texts.get(k, empty), **self.likelihoods.get(k, empty)} for k in keys]
        return [[one[name] for name in names] for one in known]

    def _add_texts(self, new: Sequence[Key]) -> None:
        if not new:
            return
        against = [reference or question for question, reference, _ in new]
        vectors = self.embedder.encode(
            [*(text for _, _, text in new), *against],
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        cosines = (vectors[: len(new)] * vectors[len(new) :]).sum(axis=1)
        for key, cosine in zip(new, cosines.tolist(), strict=True):
            question, reference, text = key
            self.texts[key] = {
                "cosine": cosine,
                "length": float(len(text)),
                "facts": facts(question, reference or "", text),
            }

    def _add_likelihoods(self, new: Sequence[Key]) -> None:
        asked: list[Key] = []
        for question, reference, text in new:
            asked += [(question, reference, text), (question, None, text)]
            if reference:
                asked += [(question, text, reference), (question, None, reference)]
        asked = list(dict.fromkeys(asked))
        requests = []
        for question, known, text in asked:
            told = f"\n\nThis is known: {known}" if known else ""
            message = {"role": "user", "content": f"{question}{told}"}
            requests += encode_continuations(self.model, [message], [text])
        scores = dict(zip(asked, self.model.loglikelihood(requests), strict=True))
        for key in new:
            self.likelihoods[key] = _likelihoods(key, scores)


def _likelihoods(key: Key, scores: Mapping[Key, Any]) -> dict[str, float]:
    question, reference, text = key
    plain = np.array(scores[question, None, text].token_logprobs)
    if not reference:
        return {"likelihood": float(plain.mean()), "weakest": float(plain.min())}
    given = np.array(scores[question, reference, text].token_logprobs)
    back = np.array(scores[question, text, reference].token_logprobs)
    alone = np.array(scores[question, None, reference].token_logprobs)
    forward, backward = float((given - plain).mean()), float((back - alone).mean())
    return {
        "likelihood": forward,
        "weakest": float(given.min()),
        "backward": backward,
        "mutual": forward + backward,
        "back_weakest": float(back.min()),
    }


TEXTS = ("cosine", "facts")
TEXTUAL = (*TEXTS, "length")
LIKELIHOODS = ("likelihood", "weakest", "backward", "back_weakest")


@dataclass
class Single:
    """One feature as a score."""

    features: Features
    name: str

    def __call__(self, outputs: Sequence[Output], samples: Sequence[Sample]) -> list[float]:
        return [one for (one,) in self.features.of([self.name], outputs, samples)]


class Fitted:
    """A logistic regression for each half of the pairs, fitted on the other half."""

    def __init__(self, features: Features, names: Sequence[str], labelled: LabelledSet) -> None:
        self.features, self.names = features, names
        self.half = {pair.id: i % 2 for i, pair in enumerate(labelled.pairs)}
        self.weights = {h: self._fit(labelled.pairs, 1 - h) for h in (0, 1)}

    def __call__(self, outputs: Sequence[Output], samples: Sequence[Sample]) -> list[float]:
        rows = self._rows(outputs, samples)
        scores = []
        for row, sample in zip(rows, samples, strict=True):
            mean, spread, weights = self.weights[self.half[sample.id.rpartition("-")[0]]]
            scores.append(float(weights[0] + (row - mean) / spread @ weights[1:]))
        return scores

    def _rows(self, outputs: Sequence[Output], samples: Sequence[Sample]) -> Any:
        return np.array(self.features.of(self.names, outputs, samples))

    def _fit(self, pairs: Sequence[Pair], half: int) -> tuple[Any, Any, Any]:
        own = [pair for i, pair in enumerate(pairs) if i % 2 == half]
        outputs = [Output("", text, 0, False) for pair in own for text in (pair.a, pair.b)]
        samples = [
            Sample("", prompt=p.question, reference=p.reference) for p in own for _ in range(2)
        ]
        right = np.array([float(bool(flag)) for p in own for flag in (p.a_right, p.b_right)])
        rows = self._rows(outputs, samples)
        mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
        return mean, spread, logistic((rows - mean) / spread, right)


def logistic(rows: Any, right: Any, ridge: float = 1.0) -> Any:
    """Weights, the constant first, by Newton's method under a ridge on the others."""
    design = np.hstack([np.ones((len(rows), 1)), rows])
    penalty = ridge * np.eye(design.shape[1])
    penalty[0, 0] = 0
    weights = np.zeros(design.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (right - chance) - penalty @ weights
        curve = (design.T * (chance * (1 - chance))) @ design + penalty
        weights = weights + np.linalg.solve(curve, slope)
    return weights


# ---- sets ----------------------------------------------------------------------------------------


def pandalm(file: Path, most: int) -> LabelledSet:
    """Pairs spread evenly over the file."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [rows[i * len(rows) // most] for i in range(min(most, len(rows)))]
    pairs = []
    for row in rows:
        first, second = row["cmp_key"].split("_", 1)
        question = f"{row['instruction']}\n\n{row['input']}".strip()
        voices = (row[f"annotator{i}"] for i in (1, 2, 3))
        pairs.append(
            Pair(
                f"pandalm-{row['idx']}",
                question,
                str(row["response1"]) or " ",
                str(row["response2"]) or " ",
                tuple(("tie", "a", "b")[voice] for voice in voices),
                a_by=first,
                b_by=second,
            )
        )
    return LabelledSet(tuple(pairs), file.name, file_sha256(file))


# ---- judges --------------------------------------------------------------------------------------


def judges(
    bench: Bench, features: Features, labelled: LabelledSet
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each judge's name and what certifies it."""
    referenced = labelled.pairs[0].reference is not None

    def rated(rate: Any) -> Callable[[], dict[str, Any]]:
        return lambda: certificate.of_rater(rate, labelled, OWN)

    yield "random", rated(lambda outputs, samples: [_noise(o.text) for o in outputs])
    yield "length", rated(Single(features, "length"))
    yield "cosine", rated(Single(features, "cosine"))
    for name in ("facts", "backward", "mutual") if referenced else ():
        yield name, rated(Single(features, name))
    for name in ("likelihood", "weakest"):
        yield name, rated(Single(features, name))
    if referenced:
        every = {"texts": TEXTS, "likelihoods": LIKELIHOODS, "all": (*TEXTS, *LIKELIHOODS)}
        for name, own in every.items():
            yield (
                name,
                lambda own=own: certificate.of_rater(
                    Fitted(features, own, labelled), labelled, OWN
                ),
            )
        yield (
            "expected_score",
            _registered(bench, labelled, "expected_score", {"rubric": certify.RUBRIC}),
        )
    criteria = CRITERIA if referenced else HELP_CRITERIA
    yield (
        "rubric",
        _registered(bench, labelled, "rubric", {"criteria": criteria, "reference": referenced}),
    )
    options = {"rubric": HELPFUL, "against": "base", "reference": referenced}
    yield "pairwise", _registered(bench, labelled, "pairwise", options)


def _registered(
    bench: Bench, labelled: LabelledSet, name: str, options: Mapping[str, Any]
) -> Callable[[], dict[str, Any]]:
    def certified() -> dict[str, Any]:
        suite = certify.suite_of(name, plugins(), options)
        bench.begin(suite)
        judge = judge_of(suite, plugins())
        return certify.of_judge(judge, certify.lent(bench), labelled, OWN)

    return certified


def _noise(text: str) -> float:
    """The same for the same text."""
    return math.sin(sum((i + 1) * ord(c) for i, c in enumerate(text)) * 12.9898) % 1.0


# ---- the table -----------------------------------------------------------------------------------

COLUMNS = (
    "set",
    "judge",
    "level",
    "kappa, right and wrong",
    "sensitivity",
    "specificity",
    "kappa, pairs",
    "people's kappa",
    "position",
    "padded",
    "injected",
    "own answers",
    "repeated",
    "valid",
    "seconds",
)


def table(found: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for where, name, one in found:
        answers, pairs = one["answers"] or {}, one["pairs"]
        cells = [
            where,
            name,
            one["level"],
            _cell(answers.get("kappa")),
            _cell(answers.get("sensitivity")),
            _cell(answers.get("specificity")),
            _cell(pairs["kappa"]),
            _cell(pairs["human_kappa"]),
            _cell((one["position"] or {}).get("consistent")),
            _cell((one["verbosity"] or {}).get("verdicts", {}).get("difference")),
            _cell((one["injection"] or {}).get("verdicts", {}).get("moved")),
            _cell(next(iter((one["self_preference"] or {}).values()), None)),
            _cell(one["repeatability"]["equal"]),
            _cell(one["validity"]),
            f"{one['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _written(folder: Path) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Every certificate in the folder, of this run and of earlier ones, best first in each set."""
    every = []
    for file in sorted(folder.glob("*-*.json")):
        where, _, name = file.stem.partition("-")
        every.append((where, name, json.loads(file.read_text(encoding="utf-8"))))

    def kappa(one: Mapping[str, Any]) -> float:
        found = (one["answers"] or one["pairs"])["kappa"]
        return found["value"] if found else -1.0

    return sorted(every, key=lambda row: (row[0] != "support", -kappa(row[2])))


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    value = figure.get("value", figure.get("delta"))
    low, high = figure["ci_low"], figure["ci_high"]
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--pandalm", type=Path)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    artifact = Artifact("base", resolve_model("smollm2-135m", mirror=None))
    encoder = resolve_model("minilm-l6", mirror=None, causal=False)
    bench = Bench(plugins().open_model(artifact, None), artifact, lambda **_: None)
    features = Features(bench.model, SentenceTransformer(encoder.path))
    sets = {"support": labels.read(labels.BUNDLED)}
    if arguments.pandalm:
        sets["pandalm"] = pandalm(arguments.pandalm, arguments.pairs)
    only = set(filter(None, arguments.only.split(",")))
    for where, labelled in sets.items():
        for name, certified in judges(bench, features, labelled):
            if only and name not in only:
                continue
            start = time.perf_counter()
            one = certified()
            one |= {"seconds": time.perf_counter() - start, "environment": environment()}
            write_json(arguments.to / f"{where}-{name}.json", one)
            print(table([(where, name, one)]).splitlines()[-1], flush=True)
    write_text(arguments.to / "judges.md", table(_written(arguments.to)))


if __name__ == "__main__":
    main()
