"""Numbers with intervals, from plain arrays and the clusters (prompts) of their rows.

bootstrap    Estimate, and the cluster bootstrap that gives most of its intervals
estimates    one group: mean, ratio, proportion, quantile, curve
groups       two groups: difference of means, Cliff's delta
matched      the same difference among rows of equal length
agreement    two judges (kappa, g-mean²), a detector against a judge, a rate without its errors
paired       the same prompts under two conditions: the exact McNemar test
power        the smallest difference that n prompts with m samples can show
"""

from cotlens.stats.agreement import (
    Agreement,
    Detection,
    agreement,
    cohens_kappa,
    corrected_rate,
    detection,
    g_mean_squared,
    gwets_ac1,
)
from cotlens.stats.bootstrap import RESAMPLES, Estimate
from cotlens.stats.estimates import curve, curve_of_sums, mean, proportion, quantile, ratio
from cotlens.stats.groups import cliffs_delta, difference
from cotlens.stats.matched import matched_difference
from cotlens.stats.paired import Pairs, mcnemar
from cotlens.stats.power import (
    Variation,
    difference_error,
    paired_variation,
    prompts_needed,
    smallest_difference,
    variation,
)

__all__ = [
    "RESAMPLES",
    "Agreement",
    "Detection",
    "Estimate",
    "Pairs",
    "Variation",
    "agreement",
    "cliffs_delta",
    "cohens_kappa",
    "corrected_rate",
    "curve",
    "curve_of_sums",
    "detection",
    "difference",
    "difference_error",
    "g_mean_squared",
    "gwets_ac1",
    "matched_difference",
    "mcnemar",
    "mean",
    "paired_variation",
    "prompts_needed",
    "proportion",
    "quantile",
    "ratio",
    "smallest_difference",
    "variation",
]
