"""From rows to figures: each kind of metric, its change against the base, what is left out."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from harness import stats
from harness.results import store as records
from harness.stats.metric_summary import clipped, estimator, measure, metrics_of, summarise
from harness.types import Metric
from tests.results.test_store import PLAN


def sample(id: str, group: str = "all", **scores: float | None) -> dict[str, Any]:
    return {"id": id, "group": group, "scores": scores}


def holding(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"suites": {"quiz": {"hash": "5" * 64, "metrics": metrics}}}


PLAIN_RECORD: dict[str, Any] = {
    "schema": 1,
    "id": "a1",
    "status": "ok",
    "plan": PLAN,
    "training": None,
    "evaluation": None,
    "environment": {},
    "warnings": [],
    "error": None,
}


def test_summarise_computes_each_kind_of_metric() -> None:
    rows = [
        sample("a", "north", right=1, nll=2.0, tokens=4),
        sample("b", "south", right=0, nll=9.0, tokens=6),
        sample("c", "north", right=1, nll=None, tokens=5),
    ]
    found = summarise(
        [
            Metric("right", True, "share"),
            Metric("right_north", True, "share", score="right", where="north"),
            Metric("perplexity", False, "exp_ratio", score="nll", per="tokens"),
        ],
        rows,
    )
    assert found["right"]["value"] == pytest.approx(2 / 3)
    assert (found["right"]["n"], found["right"]["left_out"]) == (3, 0)
    assert (found["right_north"]["value"], found["right_north"]["n"]) == (1.0, 2)
    perplexity = found["perplexity"]
    assert perplexity["value"] == pytest.approx(math.exp(11 / 10))
    assert (perplexity["n"], perplexity["left_out"]) == (2, 1)
    assert perplexity["higher_is_better"] is False
    assert perplexity["delta"] is perplexity["delta_ci_low"] is perplexity["delta_p"] is None
    assert perplexity["estimator"] == {
        "kind": "exp_ratio",
        "score": "nll",
        "per": "tokens",
        "where": None,
    }


def test_the_delta_is_on_the_samples_that_both_have_whatever_their_order() -> None:
    rows = [sample(f"s{i}", x=i + 1.0 + 0.1 * (i % 3)) for i in range(12)]
    base = [sample(f"s{i}", x=float(i)) for i in range(11, 1, -1)]
    base += [sample("s0", x=None), sample("s1", x=math.nan), sample("other", x=50.0)]
    found = summarise([Metric("x", True)], rows, base)["x"]
    expected = np.mean([1 + 0.1 * (i % 3) for i in range(2, 12)])
    assert found["n"] == 12
    assert found["delta"] == pytest.approx(expected)
    assert 1.0 < found["delta_ci_low"] < expected < found["delta_ci_high"] < 1.2
    assert found["delta_p"] < 0.01


def test_delta_p_of_a_share_is_the_mid_p() -> None:
    rows = [sample(f"s{i}", x=1) for i in range(8)]
    base = [sample(f"s{i}", x=int(i >= 4)) for i in range(8)]
    found = summarise([Metric("x", True, "share")], rows, base)["x"]
    assert found["delta"] == 0.5
    assert found["delta_p"] == pytest.approx(0.5**4)


def test_flips_of_a_share_are_counted_both_ways() -> None:
    verdicts = [(1, 1), (0, 1), (0, 1), (0, 1), (1, 0), (0, 0)]  # (base, here)
    rows = [sample(f"s{i}", x=here) for i, (_, here) in enumerate(verdicts)]
    base = [sample(f"s{i}", x=there) for i, (there, _) in enumerate(verdicts)]
    metrics = [Metric("x", True, "share"), Metric("mean", True, score="x")]
    found = summarise(metrics, rows, base)
    assert (found["x"]["gained"], found["x"]["lost"]) == (3, 1)
    assert found["x"]["delta"] == pytest.approx((3 - 1) / 6)
    assert "gained" not in found["mean"]
    alone = summarise(metrics, rows)["x"]
    assert alone["gained"] is alone["lost"] is None


RETAINED = Metric("retained", True, "retained", score="x")


def test_retained_is_the_share_of_the_bases_right_answers_that_are_still_right() -> None:
    base = [sample(f"s{i}", x=int(i < 10)) for i in range(30)]
    base += [sample("gone", x=1), sample("unscored", x=None)]
    rows = [sample(f"s{i}", x=int(i < 7 or i > 20)) for i in range(30)]
    rows += [sample("gone", x=None), sample("unscored", x=1)]
    found = summarise([RETAINED], rows, base)["retained"]
    assert (found["value"], found["n"], found["left_out"]) == (0.7, 10, 1)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(stats.wilson(7, 10))
    assert found["delta"] is found["delta_p"] is None
    assert found["estimator"]["kind"] == "retained"
    records.validate({**PLAIN_RECORD, "evaluation": holding({"retained": found})}, "record")


@pytest.mark.parametrize("base", [None, [], [sample("s0", x=0)]])
def test_nothing_is_retained_where_the_base_has_nothing_right(
    base: list[dict[str, Any]] | None,
) -> None:
    found = summarise([RETAINED], [sample("s0", x=1)], base)["retained"]
    assert (found["value"], found["ci_low"], found["n"], found["left_out"]) == (None, None, 0, 0)


def test_retained_over_several_runs_is_their_mean() -> None:
    base = [sample(f"s{i}", x=int(i < 8)) for i in range(12)]
    runs = [[sample(f"s{i}", x=int(i < kept)) for i in range(12)] for kept in (4, 6)]
    found = measure(estimator(RETAINED), True, runs, [base])
    assert (found["value"], found["n"]) == ((4 + 6) / 2 / 8, 8)
    assert found["ci_low"] < found["value"] < found["ci_high"]


def test_a_metric_is_found_again_in_its_record() -> None:
    metrics = [
        Metric("x", True, "share", where="north"),
        Metric("y", False, "exp_ratio", "nll", "tokens", {"group": "all", "domain": "news"}),
        RETAINED,
    ]
    rows = [sample("a", group="north", x=1, nll=2.0, tokens=4), sample("b", x=0, nll=1, tokens=3)]
    rows[1]["domain"] = "news"
    told = summarise(metrics, rows)
    records.validate({**PLAIN_RECORD, "evaluation": holding(told)}, "record")
    again = metrics_of(json.loads(json.dumps(told)))
    assert summarise(again, rows) == told
    assert (told["x"]["n"], told["y"]["n"]) == (1, 1)
    assert told["y"]["value"] == pytest.approx(math.exp(1 / 3))


def test_a_metric_without_any_score_is_null_not_a_crash() -> None:
    found = summarise([Metric("x", True)], [sample("a", x=None)], [sample("a", x=1.0)])["x"]
    assert (found["value"], found["ci_low"], found["delta"], found["n"]) == (None, None, None, 0)
    assert found["left_out"] == 1


def test_a_sample_id_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' occurs twice"):
        summarise([Metric("x", True)], [sample("a", x=1.0), sample("a", x=2.0)])


@pytest.mark.parametrize("worse", [0.0, 0.05])
def test_an_interval_stays_in_the_range_of_its_figure_and_nothing_else_changes(
    worse: float,
) -> None:
    values = [1.0, 1.0, 0.9, 1.0, 0.98]
    rows = [sample(f"s{i}", x=value - worse) for i, value in enumerate(values)]
    base = [sample(f"s{i}", x=value - 0.9 * (i == 1)) for i, value in enumerate(values)]
    free, kept = (
        summarise([Metric("x", True, bounds=bounds)], rows, base)["x"]
        for bounds in (None, (0.95 - worse, 1.0 - worse))
    )
    assert free["ci_low"] < 0.95 - worse < 1 - worse < free["ci_high"]
    assert (kept["ci_low"], kept["ci_high"]) == (0.95 - worse, 1 - worse)
    assert free["delta_ci_low"] < -0.05 < 0.05 < free["delta_ci_high"]
    assert kept["delta_ci_low"] == pytest.approx(-0.05)
    assert kept["delta_ci_high"] == pytest.approx(max(0.05, kept["delta"]))  # which it holds
    for key in ("value", "stderr", "delta", "delta_p", "n"):
        assert kept[key] == free[key]
    assert metrics_of({"x": kept}) == [
        Metric("x", True, score="x", bounds=(0.95 - worse, 1 - worse))
    ]
    assert "bounds" not in free["estimator"]


def test_a_bound_on_one_side_leaves_the_other_and_differences_alone() -> None:
    rows = [sample(f"s{i}", bits=0.001 * (i == 0), bytes=9) for i in range(4)]
    base = [sample(f"s{i}", bits=0.5 * i, bytes=9) for i in range(4)]
    free, kept = (
        summarise([Metric("x", False, "ratio", "bits", "bytes", bounds=bounds)], rows, base)["x"]
        for bounds in (None, (0, None))
    )
    assert free["ci_low"] < 0 == kept["ci_low"]
    for key in ("ci_high", "delta_ci_low", "delta_ci_high"):
        assert kept[key] == free[key]


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        ((-0.5, 0.5, 1.5), (0.0, 1.0)),
        ((0.2, 0.5, 0.7), (0.2, 0.7)),
        ((0.9, 1.0000002, 1.2), (0.9, 1.0000002)),  # rounding of the figure itself
        ((math.nan, 0.5, math.nan), (math.nan, math.nan)),  # of one sample there is no interval
    ],
)
def test_clipping(interval: tuple[float, float, float], shown: tuple[float, float]) -> None:
    low, value, high = interval
    assert clipped((0.0, 1.0), value, low, high) == pytest.approx(shown, nan_ok=True, abs=0)
    assert clipped((None, None), value, low, high) == pytest.approx((low, high), nan_ok=True, abs=0)
