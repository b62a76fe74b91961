"""Figures with their uncertainty, paired differences, and what a test can see.

- `estimates`: a figure with its interval, and the paired difference of two.
- `bootstrapping`: the bootstrap over samples or clusters, and seeds.
- `perplexity`: those through their logarithms.
- `proportions`: those, alone and paired, in closed form.
- `means`: the t interval and clustered standard errors.
- `ties`: which of many sides cannot be told apart, from one bootstrap of all.
- `power`: the smallest difference that a test can see, and the samples that a margin needs.
- `multiple_testing`: several tests at once, and looks at growing data.
- `metric_summary`: from a suite's scores to a record's metrics.

Every layer above `hookspecs` may import it.
"""

from harness.stats.bootstrapping import Bootstrap, Kind, bootstrap
from harness.stats.estimates import Difference, Estimate, against, estimate, figure, paired
from harness.stats.means import clustered_stderr, t_interval
from harness.stats.multiple_testing import holm, spent
from harness.stats.power import detectable, samples_needed, stderr_of
from harness.stats.proportions import clopper_pearson, mcnemar, paired_shares, tango, wilson
from harness.stats.ties import tied

__all__ = [
    "Bootstrap",
    "Difference",
    "Estimate",
    "Kind",
    "against",
    "bootstrap",
    "clopper_pearson",
    "clustered_stderr",
    "detectable",
    "estimate",
    "figure",
    "holm",
    "mcnemar",
    "paired",
    "paired_shares",
    "samples_needed",
    "spent",
    "stderr_of",
    "t_interval",
    "tango",
    "tied",
    "wilson",
]
