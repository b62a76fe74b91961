"""The formulas of docs/measurement/, in a few lines each, give what the reference records hold."""

from __future__ import annotations

import gzip
import json
import math
from statistics import NormalDist, mean
from typing import Any

import pytest

from tests.conftest import ROOT

REFERENCE = ROOT / "results/reference"


class Cell:
    """A recorded cell: the figures of its suites, and the rows that they are of."""

    def __init__(self, board: str, label: str) -> None:
        self.folder = REFERENCE / board
        records = [json.loads(file.read_text()) for file in self.folder.glob("cells/*.json")]
        (self.record,) = [one for one in records if one["plan"]["label"] == label]
        self.suites = self.record["evaluation"]["suites"]

    def metric(self, suite: str, name: str) -> dict[str, Any]:
        metric: dict[str, Any] = self.suites[suite]["metrics"][name]
        return metric

    def rows(self, suite: str) -> list[dict[str, Any]]:
        file = self.folder / self.suites[suite]["samples"]["file"]
        return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]

    def scores(self, suite: str, name: str, group: str | None = None) -> list[float]:
        rows = [row for row in self.rows(suite) if group in (None, row.get("group"))]
        return [row["scores"][name] for row in rows]


@pytest.fixture(scope="module")
def lora() -> Cell:
    return Cell("quickstart", "lora")


def test_perplexity_and_bits_per_byte(lora: Cell) -> None:
    columns = ("nll", "tokens", "bits", "bytes")
    nll, tokens, bits, size = (lora.scores("perplexity", name, "support") for name in columns)
    perplexity = lora.metric("perplexity", "perplexity")["value"]
    assert math.exp(sum(nll) / sum(tokens)) == pytest.approx(perplexity)
    assert sum(bits) / sum(size) == pytest.approx(
        lora.metric("perplexity", "bits_per_byte")["value"]
    )
    # a mean over rows is another figure
    of_rows = mean(math.exp(a / b) for a, b in zip(nll, tokens, strict=True))
    assert of_rows != pytest.approx(perplexity, rel=0.01)


def test_the_negative_control(lora: Cell) -> None:
    own, other = lora.scores("similarity", "cosine"), lora.scores("similarity", "cosine_other")
    figure = lora.metric("similarity", "cosine_own_minus_other")["value"]
    assert mean(a - b for a, b in zip(own, other, strict=True)) == pytest.approx(figure)
    assert figure < mean(own)


def test_wilsons_interval(lora: Cell) -> None:
    metric = lora.metric("similarity", "must_contain")
    n, p, z = metric["n"], metric["value"], NormalDist().inv_cdf(0.975)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    assert (low, high) == pytest.approx((metric["ci_low"], metric["ci_high"]))


def test_retained(lora: Cell) -> None:
    base = Cell("quickstart", "base")
    pairs = list(
        zip(base.scores("forgetting", "right"), lora.scores("forgetting", "right"), strict=True)
    )
    retained = lora.metric("forgetting", "retained")["value"]
    assert mean(after for before, after in pairs if before) == pytest.approx(retained)
    assert mean(after for _, after in pairs) != pytest.approx(retained)


def test_micro_and_macro() -> None:
    cell = Cell("mmlu-arc", "lora")
    rows = [row["scores"] for row in cell.rows("forgetting") if "mmlu" in row["scores"]]
    micro = mean(row["mmlu"] for row in rows)
    macro = sum(row["weight"] * row["mmlu"] for row in rows) / sum(row["weight"] for row in rows)
    assert micro == pytest.approx(cell.metric("forgetting", "mmlu")["value"])
    assert macro == pytest.approx(cell.metric("forgetting", "mmlu.macro")["value"])


def test_the_correction_of_a_judges_verdicts(lora: Cell) -> None:
    metric = lora.metric("judge", "score")
    errors = metric["estimator"]["judge"]
    good, bad = errors["good"]["value"], errors["bad"]["value"]
    passed = mean(score >= errors["threshold"] for score in lora.scores("judge", "score"))
    assert passed == pytest.approx(metric["correction"]["raw"])
    assert (passed - bad) / (good - bad) == pytest.approx(metric["value"])
    assert passed != pytest.approx(metric["value"], abs=0.01)
