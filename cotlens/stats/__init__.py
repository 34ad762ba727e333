"""Numbers with intervals, from plain arrays and the clusters (prompts) of their rows.

bootstrap    Estimate, and the cluster bootstrap that gives most of its intervals
estimates    one group: mean, ratio, proportion, quantile, curve
groups       two groups: difference of means, Cliff's delta
matched      the same difference among rows of equal length
agreement    two judges (kappa), a detector against a judge, a rate without detection errors
"""

from cotlens.stats.agreement import (
    Agreement,
    Detection,
    agreement,
    cohens_kappa,
    corrected_rate,
    detection,
    gwets_ac1,
)
from cotlens.stats.bootstrap import RESAMPLES, Estimate
from cotlens.stats.estimates import curve, mean, proportion, quantile, ratio
from cotlens.stats.groups import cliffs_delta, difference
from cotlens.stats.matched import matched_difference

__all__ = [
    "RESAMPLES",
    "Agreement",
    "Detection",
    "Estimate",
    "agreement",
    "cliffs_delta",
    "cohens_kappa",
    "corrected_rate",
    "curve",
    "detection",
    "difference",
    "gwets_ac1",
    "matched_difference",
    "mean",
    "proportion",
    "quantile",
    "ratio",
]
