"""Estimates with intervals, paired differences, power and multiple testing.

- `estimates`: a value with its interval, and the paired difference of two arms.
- `bootstrapping`: the bootstrap over samples or clusters, and seeds.
- `perplexity`: perplexities through their logarithms.
- `corpus_scores`: BLEU and chrF from the sums of samples' sufficient statistics.
- `proportions`: proportions, alone and paired, in closed form.
- `means`: the t interval and clustered standard errors of a mean.
- `ties`: every pair of many arms compared, from one bootstrap of all.
- `power`: the minimum detectable effect, and the samples that a margin needs.
- `variance_components`: the variance of a figure, split into samples, training and both.
- `planned_test`: the power of a test that is yet to be made, on so many samples and seeds.
- `multiple_testing`: several tests at once, and interim analyses of growing data.
- `answers`: of sample rows, what is degenerate in answers, and the reasoning before them.
- `metric_summary`: from a suite's scores to a record's metrics.

Every layer above `hookspecs` may import it.
"""

from harness.stats.bootstrapping import Bootstrap, Kind, SeedNames
from harness.stats.estimates import (
    Difference,
    Estimate,
    bootstraps,
    estimate,
    estimate_with_difference,
    paired,
    point_estimate,
)
from harness.stats.means import clustered_stderr, t_interval
from harness.stats.multiple_testing import alpha_spending, holm
from harness.stats.power import minimum_detectable_effect, samples_needed, stderr_of
from harness.stats.proportions import clopper_pearson, mcnemar, paired_shares, tango, wilson
from harness.stats.ties import PairTest, pairwise

__all__ = [
    "Bootstrap",
    "Difference",
    "Estimate",
    "Kind",
    "PairTest",
    "SeedNames",
    "alpha_spending",
    "bootstraps",
    "clopper_pearson",
    "clustered_stderr",
    "estimate",
    "estimate_with_difference",
    "holm",
    "mcnemar",
    "minimum_detectable_effect",
    "paired",
    "paired_shares",
    "pairwise",
    "point_estimate",
    "samples_needed",
    "stderr_of",
    "t_interval",
    "tango",
    "wilson",
]
