"""Numbers with intervals. Knows arrays and clusters, no traces.

bootstrap    Estimate, and the cluster bootstrap that every interval comes from
estimates    one group: mean, ratio, proportion, quantile, curve
groups       two groups: difference, Cliff's delta
matched      the same difference among rows of equal length
agreement    two judges (kappa), a detector against a judge, and a rate corrected for what it misses
"""

from cotlens.stats.agreement import Agreement, Detection, agreement, corrected_rate, detection
from cotlens.stats.bootstrap import RESAMPLES, Estimate
from cotlens.stats.estimates import curve, mean, proportion, quantile, ratio
from cotlens.stats.groups import cliffs_delta, difference, hedges_g, holm, permutation_test
from cotlens.stats.matched import matched_difference

__all__ = [
    "RESAMPLES",
    "Agreement",
    "Detection",
    "Estimate",
    "agreement",
    "cliffs_delta",
    "corrected_rate",
    "curve",
    "detection",
    "difference",
    "hedges_g",
    "holm",
    "matched_difference",
    "mean",
    "permutation_test",
    "proportion",
    "quantile",
    "ratio",
]  # fmt: skip
