"""What a judge's verdicts are worth: agreement with people, and figures corrected for its errors.

- `kappa`: agreement and Cohen's kappa, of a judge with people and of people with each other.
- `alpha`: Krippendorff's alpha, of several judges with each other.
- `stability`: the same verdict in either order, again, and on changed words of equal worth.
- `error_rates`: sensitivity and specificity, and whether they are the same for several systems.
- `correction`: rates and paired differences corrected for these, and what that assumes.
- `prediction_powered`: the same from a few labels of the suite's own answers, assuming nothing.
- `strengths`: strengths of many rows after Bradley and Terry from verdicts on pairs.
- `ranking`: who is best of them, and which ranks the differences leave open.
- `judged_figures`: which correction applies to a figure, by what is known of its judge.
- `level`: how far a judge can be believed, by stated thresholds.
"""

from harness.stats.judges.alpha import krippendorff_alpha
from harness.stats.judges.correction import (
    Assumption,
    Corrected,
    allowance_for_length,
    corrected_difference,
    corrected_difference_by_system,
    corrected_rate,
    difference_of_rates,
)
from harness.stats.judges.error_rates import (
    Calibration,
    EqualErrors,
    calibrate,
    calibration_of_counts,
    equal_errors,
)
from harness.stats.judges.judged_figures import (
    Judged,
    KnownErrors,
    LengthBias,
    judged_difference,
    judged_rate,
    known_errors,
)
from harness.stats.judges.kappa import Agreement, agreement, human_agreement, majority
from harness.stats.judges.level import JudgeFigures, Level, Rating, rate
from harness.stats.judges.prediction_powered import (
    powered_difference,
    powered_mean,
    random_labels,
)
from harness.stats.judges.ranking import Ranking, ranking
from harness.stats.judges.stability import (
    PositionConsistency,
    Shift,
    position_consistency,
    repeatability,
    shift,
    validity,
)
from harness.stats.judges.strengths import BradleyTerry, Comparison, bradley_terry

__all__ = [
    "Agreement",
    "Assumption",
    "BradleyTerry",
    "Calibration",
    "Comparison",
    "Corrected",
    "EqualErrors",
    "JudgeFigures",
    "Judged",
    "KnownErrors",
    "LengthBias",
    "Level",
    "PositionConsistency",
    "Ranking",
    "Rating",
    "Shift",
    "agreement",
    "allowance_for_length",
    "bradley_terry",
    "calibrate",
    "calibration_of_counts",
    "corrected_difference",
    "corrected_difference_by_system",
    "corrected_rate",
    "difference_of_rates",
    "equal_errors",
    "human_agreement",
    "judged_difference",
    "judged_rate",
    "known_errors",
    "krippendorff_alpha",
    "majority",
    "position_consistency",
    "powered_difference",
    "powered_mean",
    "random_labels",
    "ranking",
    "rate",
    "repeatability",
    "shift",
    "validity",
]
