"""Which correction applies is decided by what is known, and a failed judge says nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness import stats
from harness.stats.judges import (
    Judged,
    KnownErrors,
    LengthBias,
    calibration_of_counts,
    corrected_difference_by_system,
    judged_difference,
    judged_rate,
)
from harness.stats.judges.judged_figures import at_confidence

CERTIFICATE = KnownErrors(calibration_of_counts(90, 10, 85, 15), "trusted")
RNG = np.random.default_rng


def system(
    rng: np.random.Generator,
    rate: float,
    judge: tuple[float, float] = (0.9, 0.85),
    *,
    runs: int = 1,
    labelled: int = 0,
    length: float | None = None,
) -> Judged:
    good = rng.random((runs, 400)) < rate
    verdicts = (rng.random(good.shape) < np.where(good, judge[0], 1 - judge[1])) * 1.0
    labels = np.full(good.shape, np.nan)
    labels[:, :labelled] = good[:, :labelled]
    raw = stats.estimate("share", verdicts)
    return Judged(raw, verdicts, labels if labelled else None, length)


def apart(a: Judged, b: Judged) -> stats.Difference:
    return stats.paired("share", a.verdicts, b.verdicts)


def test_the_certificate_corrects_what_nobody_labelled() -> None:
    a, b = system(RNG(0), 0.7), system(RNG(1), 0.4)
    rate, change = judged_rate(CERTIFICATE, a), judged_difference(CERTIFICATE, a, b, apart(a, b))
    assert rate.assumption == "errors as labelled"
    assert change.assumption == "equal errors"
    assert rate.ci_low < 0.7 < rate.ci_high
    assert 0 < change.ci_low < 0.3 < change.ci_high


def test_labels_of_the_suite_come_before_the_certificate() -> None:
    a, b = system(RNG(0), 0.7, labelled=60), system(RNG(1), 0.4, labelled=60)
    rate, change = judged_rate(CERTIFICATE, a), judged_difference(CERTIFICATE, a, b, apart(a, b))
    assert rate.assumption == change.assumption == "random labels"
    assert rate.labels == 60
    assert rate.ci_low < 0.7 < rate.ci_high
    assert 0 < change.ci_low < 0.3 < change.ci_high
    # negative control: labels of one system alone say nothing of the difference
    assert judged_difference(CERTIFICATE, a, system(RNG(1), 0.4), apart(a, b)).assumption == (
        "equal errors"
    )
    few = system(RNG(0), 0.7, labelled=9)
    assert judged_rate(CERTIFICATE, few).assumption == "errors as labelled"


def test_several_runs_keep_the_spread_between_them() -> None:
    a = system(RNG(2), 0.7, runs=3, labelled=60)
    b = system(RNG(3), 0.4, runs=3, labelled=60)
    change = judged_difference(CERTIFICATE, a, b, apart(a, b))
    assert change.assumption == "errors by system"
    assert change.ci_low < 0.3 < change.ci_high
    steady = corrected_difference_by_system(
        a.raw, b.raw, stats.Difference(0.2, 0.19, 0.21, 0.0, 400), a.own, b.own
    )
    assert change.ci_high - change.ci_low > 1.3 * (steady.ci_high - steady.ci_low)


def test_a_failed_judge_says_nothing_whatever_the_labels() -> None:
    failed = KnownErrors(CERTIFICATE.calibration, "failed", "kappa is 0.02 [-0.1, 0.1]")
    a, b = system(RNG(0), 0.9, labelled=60), system(RNG(1), 0.2, labelled=60)
    rate, change = judged_rate(failed, a), judged_difference(failed, a, b, apart(a, b))
    assert (rate.ci_low, rate.ci_high, rate.p) == (0, 1, 1)
    assert (change.ci_low, change.ci_high, change.p) == (-1, 1, 1)
    assert change.reason == "the judge failed its certificate: kappa is 0.02 [-0.1, 0.1]"
    nothing = judged_rate(KnownErrors(None, "weak"), system(RNG(0), 0.5))
    assert (nothing.ci_low, nothing.ci_high) == (0, 1)
    assert nothing.reason


def test_the_certificates_love_of_length_counts_where_answers_differ_in_length() -> None:
    padded = stats.paired("share", [1] * 30 + [0] * 70, [0] * 100)
    loving = KnownErrors(CERTIFICATE.calibration, "weak", "", LengthBias(padded, 2.0))
    short = system(RNG(0), 0.6, length=40.0)
    wordy = system(RNG(1), 0.6, (0.98, 0.5), length=80.0)
    change = apart(wordy, short)
    assert change.ci_low > 0
    assert judged_difference(CERTIFICATE, wordy, short, change).ci_low > 0
    assert judged_difference(loving, wordy, short, change).ci_low < 0
    # negative control: the same verdicts on answers of one length
    alike = Judged(wordy.raw, wordy.verdicts, length=40.0)
    assert judged_difference(loving, alike, short, change).ci_low > 0


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_another_confidence_asks_for_other_limits(confidence: float) -> None:
    counts = (180, 20, 170, 30)
    scaled = at_confidence(calibration_of_counts(*counts), confidence)
    exact = calibration_of_counts(*counts, confidence=confidence)
    for part, own in ((scaled.good, exact.good), (scaled.bad, exact.bad)):
        assert part is not None
        assert own is not None
        assert part.ci_low == pytest.approx(own.ci_low, abs=0.01)
        assert part.ci_high == pytest.approx(own.ci_high, abs=0.01)
    widths = [at_confidence(scaled, c).good for c in (0.9, 0.95)]
    assert not any(part is None or math.isnan(part.ci_low) for part in widths)


def test_without_certificate_and_labels_enough_the_reason_says_what_is_missing() -> None:
    nothing = KnownErrors(None, "weak", "the judge has no certificate")
    few, none = system(RNG(0), 0.7, labelled=9), system(RNG(1), 0.4)
    reason = "the judge has no certificate, and {} labelled answers are fewer than the 10"
    assert reason.format(9) in str(judged_rate(nothing, few).reason)
    change = judged_difference(nothing, few, none, apart(few, none))
    assert reason.format(0) in str(change.reason)
    assert (change.ci_low, change.ci_high, change.p) == (-1, 1, 1)
    enough = system(RNG(0), 0.7, labelled=10)
    assert judged_rate(nothing, enough).reason is None


def test_a_system_that_is_judged_otherwise_is_compared_by_its_own_rate() -> None:
    """Corrected as if it erred alike, the difference would be larger than the better rate."""
    better, worse = system(RNG(0), 0.6), system(RNG(1), 0.0, judge=(0.9, 1.0))
    change = judged_difference(CERTIFICATE, better, worse, apart(better, worse))
    own = judged_rate(CERTIFICATE, better)
    assert own.value == pytest.approx(0.6, abs=0.1)
    assert change.value == pytest.approx(own.value)
    assert change.ci_high <= own.ci_high + 1e-9
    assert change.assumption == "errors at most as labelled"
    naive = apart(better, worse).delta / (0.9 + 0.85 - 1)
    assert naive > own.value + 0.15
    # negative control: a system that passes more than good answers do tells nothing
    praised = system(RNG(2), 0.5, judge=(1.0, 0.0))
    assert judged_difference(CERTIFICATE, praised, worse, apart(praised, worse)).reason
