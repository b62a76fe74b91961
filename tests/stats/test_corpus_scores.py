"""Scores of a corpus: figures, seeds, differences, and what is no statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness import stats
from harness.stats import corpus_scores
from harness.stats.metric_summary import metrics_of, pairwise, pool, scored, summarise
from harness.types import Metric

BLEU = Metric("bleu", True, "corpus_bleu", bounds=(0.0, 100.0))


def statistics(n: int, quality: float, seed: int = 0) -> np.ndarray[Any, Any]:
    """Of BLEU: `n` answers of 5 to 15 tokens of which about `quality` are matched."""
    rng = np.random.default_rng(seed)
    length = rng.integers(5, 16, n)
    ngrams = np.stack([length - k for k in range(4)], axis=1)
    shares = np.clip(rng.normal(quality, 0.15, n), 0, 1)[:, None] ** np.arange(1, 5)
    return np.column_stack([length, length + rng.integers(-1, 3, n), ngrams * shares // 1, ngrams])


def rows(values: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    return [
        {"id": f"q{i:03}", "group": None, "scores": {}, "statistics": {"bleu": own.tolist()}}
        for i, own in enumerate(values)
    ]


def test_a_figure_of_several_seeds_is_the_mean_of_the_corpus_scores() -> None:
    runs = np.stack([statistics(60, quality, seed) for seed, quality in enumerate((0.5, 0.6, 0.7))])
    each = [corpus_scores.bleu(run.sum(axis=0)) for run in runs]
    found = stats.estimate("corpus_bleu", runs)
    assert found.value == pytest.approx(np.mean(each))
    assert found.value == pytest.approx(stats.point_estimate("corpus_bleu", runs))
    assert found.ci_low < min(each) < max(each) < found.ci_high
    assert found.n == 60


def test_an_interval_covers_what_a_brute_force_bootstrap_does() -> None:
    own = statistics(80, 0.6)
    rng = np.random.default_rng(7)
    draws = [corpus_scores.bleu(own[rng.integers(0, 80, 80)].sum(axis=0)) for _ in range(2000)]
    found = stats.estimate("corpus_bleu", own)
    assert found.stderr == pytest.approx(np.std(draws), rel=0.1)
    assert found.ci_low < np.quantile(draws, 0.05) < np.quantile(draws, 0.95) < found.ci_high


def test_whole_clusters_are_drawn() -> None:
    own = np.repeat(statistics(20, 0.6), 4, axis=0)
    names = [i // 4 for i in range(80)]
    alone, together = (
        stats.estimate("corpus_bleu", own),
        stats.estimate("corpus_bleu", own, clusters=names),
    )
    assert together.value == alone.value
    assert together.stderr == pytest.approx(2 * alone.stderr, rel=0.25)


def test_a_difference_is_paired_by_the_draws_of_both_arms() -> None:
    better, worse = statistics(60, 0.65), statistics(60, 0.65)
    worse[::6, 2:6] = 0  # the same answers but for a sixth of them
    change = stats.paired("corpus_bleu", better, worse)
    scores = [float(corpus_scores.bleu(run.sum(axis=0))) for run in (better, worse)]
    assert change.delta == pytest.approx(scores[0] - scores[1])
    assert 0 < change.ci_low < change.delta < change.ci_high
    assert change.p < 0.05
    widths = [stats.estimate("corpus_bleu", run) for run in (better, worse)]
    unpaired = np.hypot(*(width.stderr for width in widths))
    assert change.ci_high - change.ci_low < 3.5 * unpaired
    same = stats.paired("corpus_bleu", better, better)
    assert (same.delta, same.ci_low, same.ci_high, same.p) == (0, 0, 0, 1)


def test_a_record_has_the_corpus_score_of_samples_with_statistics() -> None:
    own, base = statistics(40, 0.6), statistics(40, 0.5, seed=1)
    answers = rows(own)
    answers[3]["statistics"]["bleu"] = None
    found = summarise([BLEU], answers, rows(base))["bleu"]
    kept = np.delete(own, 3, axis=0).sum(axis=0), np.delete(base, 3, axis=0).sum(axis=0)
    ours, theirs = (float(corpus_scores.bleu(sums)) for sums in kept)
    assert found["value"] == pytest.approx(ours)
    assert found["delta"] == pytest.approx(ours - theirs)
    assert (found["n"], found["left_out"]) == (39, 1)
    assert found["estimator"]["kind"] == "corpus_bleu"
    assert metrics_of({"bleu": found}) == [
        Metric("bleu", True, "corpus_bleu", score="bleu", bounds=(0.0, 100.0))
    ]
    table = pool([scored(found["estimator"], answers)])
    alone = [float(corpus_scores.bleu(row)) for row in np.delete(own, 3, axis=0)]
    assert table.scores[0] == pytest.approx(alone)
    [test] = pairwise(
        found["estimator"],
        {n: ([scored(found["estimator"], rows(run))], None) for n, run in enumerate((own, base))},
    )
    assert test.p < 0.05


def test_an_interval_of_a_corpus_score_stays_from_0_to_100() -> None:
    own = statistics(4, 0.98)
    own[:, 2:6] = own[:, 6:]
    own[:, 1] = own[:, 0]
    own[0, 2:6] = 0
    found = summarise([BLEU], rows(own))["bleu"]
    assert found["ci_low"] >= 0
    assert found["ci_high"] == 100


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("corpus_bleu", [[1.0] * 9]),
        ("corpus_bleu", [[1.0] * 9 + [np.nan]]),
        ("corpus_bleu", [[1.0] * 9 + [-1.0]]),
        ("corpus_bleu", [1.0] * 10),
        ("corpus_bleu", np.empty((0, 10))),
        ("corpus_chrf", [[1.0] * 17]),
        ("corpus_chrf", [[]]),
    ],
)
def test_what_is_no_statistics_is_refused(kind: Any, given: Any) -> None:
    with pytest.raises(ValueError, match=f"statistics of {kind}"):
        stats.estimate(kind, given)
