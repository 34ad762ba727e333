"""The rules that turn differences into verdicts: each compares two arms, then decides.

Comparing reads the numbers of a study and decides nothing. Deciding reads differences alone, after
`claims.verdicts` has adjusted their p-values for the other arms of the same claim.

A difference decides where its 95% interval excludes zero and its p-value, adjusted if the claim is
about several arms, is below 0.05. A value is *kept* if its whole interval lies within a margin.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from cotlens.stats import RESAMPLES, Estimate
from cotlens.studies.arms import LEAST_SEEDS, difference, list_measures, over_seeds, select, to_row
from cotlens.studies.confounds import recall_at_splits

LEVEL = 0.05  # of the tests; intervals are of 95%


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim about the arms of a study, and the rule that decides it.

    Attributes:
        claim: the sentence.
        rule: a name in `RULES`.
        arm: the role in the study whose arms the claim is about (`rl`, `sft`, ...), the name of an
            arm, or a list of these. Several arms make one verdict each.
        against: the same for what it is compared with; "" is the base.
        measure: name of a measure (`COLUMN_WHERE`), for rules that speak of one.
        margin: absolute margin within which a value counts as kept.
        margin_of_base: the same as a share of the base's value, where `margin` is 0.
    """

    claim: str
    rule: str
    arm: str | Sequence[str] = "rl"
    against: str | Sequence[str] = ""
    measure: str = ""
    margin: float = 0.0
    margin_of_base: float = 0.0


class Verdict(NamedTuple):
    """What a study says of a claim."""

    claim: str
    verdict: str  # seen, not seen, opposite, undecided
    because: str  # each difference with interval, number of seeds, and adjusted p-value
    would_change: str  # what would have to be different for another verdict


class Change(NamedTuple):
    """A difference of two arms.

    Attributes:
        value: the first arm less the second; NaN without data.
        low: lower limit of the 95% interval.
        high: upper limit.
        n_units: seeds or prompts that the interval is over.
        units: "seeds" or "prompts".
        arm: the first arm.
        against: the second.
        measure: what differs.
        p: p-value of no difference, from Student's t over seeds, adjusted; NaN over prompts.
        n_tests: differences that it was adjusted for, itself among them.
    """

    value: float
    low: float
    high: float
    n_units: int = 0
    units: str = "seeds"
    arm: str = ""
    against: str = ""
    measure: str = ""
    p: float = math.nan
    n_tests: int = 1

    @classmethod
    def from_row(cls, row: Any, arm: str, against: str, measure: str) -> "Change":
        """A row of `studies.differences`, with its p-value before any adjustment."""
        change = cls(
            value=float(row["value"]),
            low=float(row["low"]),
            high=float(row["high"]),
            n_units=int(row["n_units"]),
            units=str(row["units"]),
            arm=arm,
            against=against,
            measure=measure,
        )
        return change._replace(p=p_value(change))

    @property
    def name(self) -> str:
        """What differs between which arms."""
        return f"{self.measure}: {self.arm} less {self.against}"

    @property
    def direction(self) -> int:
        """1: above zero, -1: below, 0: neither is shown."""
        if self.p >= LEVEL:
            return 0
        if self.low > 0:
            return 1
        return -1 if self.high < 0 else 0


NO_CHANGE = Change(math.nan, math.nan, math.nan)


def p_value(change: Change) -> float:
    """The two-sided p-value of no difference that belongs to Student's interval over seeds.

    p = 2 P(T > |value| / error), T with n - 1 degrees of freedom, where the half width of the
    interval is t(0.975, n - 1) times the error. NaN for intervals over prompts.
    """
    n = change.n_units
    if change.units != "seeds" or n < LEAST_SEEDS or math.isnan(change.low):
        return math.nan
    half = change.high - change.value
    if half <= 0:  # all seeds agree
        return 0.0 if change.value else 1.0

    quantile = stdtrit(n - 1, 0.975)
    error = half / quantile
    statistic = abs(change.value) / error
    return float(2 * stdtr(n - 1, -statistic))


def is_kept(change: Any, margin: float) -> bool:
    """Equivalence: whether the whole interval lies within the margin of zero, limits included."""
    return -margin <= change.low and change.high <= margin


@dataclass(frozen=True, slots=True)
class Evidence:
    """The numbers that the rules read.

    Attributes:
        samples: of `Study.samples`.
        measures: of `studies.measures`.
        changes: of `studies.differences`.
        base: the arm that the changes are relative to.
    """

    samples: pd.DataFrame
    measures: pd.DataFrame
    changes: pd.DataFrame
    base: str

    def change(self, arm: str, measure: str) -> Change:
        """The arm's difference to the base; NaN where the study has none."""
        is_arm = self.changes["arm"] == arm
        is_measure = self.changes["measure"] == measure
        rows = self.changes[is_arm & is_measure]
        if rows.empty:
            return _unknown(arm, self.base, measure)
        return Change.from_row(rows.iloc[0], arm, self.base, measure)

    def difference(self, arm: str, against: str, measure: str) -> Change:
        """The arm's measure less that of another arm."""
        if against == self.base:
            return self.change(arm, measure)

        listed = {known.name: known for known in list_measures(self.samples)}
        if measure not in listed:
            return _unknown(arm, against, measure)
        known = listed[measure]
        rows = select(self.samples, known.column, known.where)
        arm_rows = rows[rows["arm"] == arm]
        other_rows = rows[rows["arm"] == against]
        estimate = difference(arm_rows, other_rows)
        return Change.from_row(to_row(estimate), arm, against, measure)

    def base_value(self, measure: str) -> float:
        """The base's value of a measure; NaN where the study has none."""
        is_base = self.measures["arm"] == self.base
        is_measure = self.measures["measure"] == measure
        rows = self.measures[is_base & is_measure]
        if rows.empty:
            return math.nan
        return float(rows["value"].iloc[0])


def _unknown(arm: str, against: str, measure: str) -> Change:
    return NO_CHANGE._replace(
        arm=arm,
        against=against,
        measure=measure,
    )


class Comparison(NamedTuple):
    """What a rule has found between two arms: differences by name, a margin, facts in words."""

    changes: Mapping[str, Change]
    margin: float = 0.0
    facts: str = ""


class Rule(NamedTuple):
    """How two arms are compared, and what the comparison says of a claim.

    Attributes:
        compare: the comparison of `arm` and `against`; None if the study cannot tell.
        decide: the verdict on a claim's sentence.
    """

    compare: Callable[[Claim, Evidence, str, str], Comparison | None]
    decide: Callable[[str, Comparison], Verdict]


# --- one difference ----------------------------------------------------------------------------


def compare_measure(claim: Claim, evidence: Evidence, arm: str, against: str) -> Comparison:
    """The difference of a measure, `arm` less `against`."""
    change = evidence.difference(arm, against, claim.measure)
    return Comparison({"difference": change}, claim.margin)


def decide_fall(claim: str, comparison: Comparison) -> Verdict:
    """Seen if the difference is below zero."""
    change = comparison.changes["difference"]
    verdict = {-1: "seen", 1: "opposite", 0: "undecided"}[change.direction]
    because = f"difference {describe(change)}{comparison.facts}"
    return Verdict(claim, verdict, because, what_would_change(change))


def decide_same(claim: str, comparison: Comparison) -> Verdict:
    """Seen if the difference is kept within the margin; not seen if it lies wholly beyond it."""
    change = comparison.changes["difference"]
    margin = comparison.margin
    if is_kept(change, margin):
        verdict = "seen"
    elif change.low > margin or change.high < -margin:
        verdict = "not seen"
    else:
        verdict = "undecided"
    because = f"difference {describe(change)}; margin {margin:.3f}"
    would_change = f"to be seen: the whole interval within {margin:.3f} of zero"
    if verdict == "seen":
        room = margin - max(abs(change.low), abs(change.high))
        would_change = f"a shift of the interval by {room:.3f} away from zero"
    return Verdict(claim, verdict, because, would_change)


def compare_hidden(_claim: Claim, evidence: Evidence, arm: str, _against: str) -> Comparison | None:
    """Unsafe thinking that the reward's guard does not flag; None unless both judged the base's."""
    if math.isnan(evidence.base_value("hidden_forbidden")):
        return None
    at_splits = Change.from_row(
        to_row(recall_at_splits(evidence.samples, arm, evidence.base)),
        arm,
        evidence.base,
        "guard_recall_at_splits",
    )
    facts = (
        f"; recall of the guard {describe(evidence.change(arm, 'guard_recall_forbidden'))}"
        f", on equal splits {describe(at_splits)}"
        f", all unsafe thinking {describe(evidence.change(arm, 'thinking_unsafe_forbidden'))}"
    )
    return Comparison({"difference": evidence.change(arm, "hidden_forbidden")}, facts=facts)


# --- entropy on two texts ----------------------------------------------------------------------


def compare_texts(_claim: Claim, evidence: Evidence, arm: str, _against: str) -> Comparison:
    """Entropy on the arm's own samples and on one text for both, the base's samples.

    Own samples alone cannot tell: the arm writes other texts than the base.
    """
    changes = {
        "own": evidence.change(arm, "entropy_think_forbidden"),
        "common": evidence.change(arm, "entropy_common_forbidden"),
    }

    # The same on prompts that are not about harm, for comparison.
    elsewhere = []
    for domain in ("harmless", "maths"):
        change = evidence.change(arm, f"entropy_think_{domain}")
        elsewhere.append(f"{domain} {describe(change)}")
    return Comparison(changes, facts=f"; for comparison own {', '.join(elsewhere)}")


def decide_fall_on_both(claim: str, comparison: Comparison) -> Verdict:
    """Seen if both differences are below zero."""
    own = comparison.changes["own"]
    common = comparison.changes["common"]
    if own.direction == common.direction:
        verdict = {-1: "seen", 1: "opposite", 0: "undecided"}[own.direction]
    else:
        verdict = "undecided"
    because = (
        f"own samples {describe(own)}, the base's samples {describe(common)}{comparison.facts}"
    )
    would_change = (
        f"own samples: {what_would_change(own)}; common text: {what_would_change(common)}"
    )
    return Verdict(claim, verdict, because, would_change)


# --- lost by one, kept by the other ------------------------------------------------------------


def compare_with_base(claim: Claim, evidence: Evidence, arm: str, against: str) -> Comparison:
    """The differences of both arms to the base."""
    changes = {
        "lowering": evidence.change(arm, claim.measure),
        "keeping": evidence.change(against, claim.measure),
    }
    margin = claim.margin or claim.margin_of_base * evidence.base_value(claim.measure)
    return Comparison(changes, margin)


def decide_lower_but_keep(claim: str, comparison: Comparison) -> Verdict:
    """Seen if `arm` lowers the measure and `against` keeps it, or raises it (which is said)."""
    lowering = comparison.changes["lowering"]
    keeping = comparison.changes["keeping"]
    margin = comparison.margin
    first = state_of(lowering, margin)
    second = state_of(keeping, margin)
    if "unknown" in (first, second):
        because = f"{lowering.arm} {describe(lowering)}, {keeping.arm} {describe(keeping)}"
        return Verdict(claim, "undecided", because, "data for the base and both arms")

    if first == "lost" and second == "kept":
        verdict = "seen"
    elif first == "lost" and second == "raised":
        verdict = f"seen ({keeping.arm} raises it)"
    elif first == "raised" and second == "lost":
        verdict = "opposite"
    elif first in ("kept", "raised") or second == "lost":  # either half alone refutes the claim
        verdict = "not seen"
    else:
        verdict = "undecided"

    because = (
        f"{lowering.arm} {describe(lowering)} {first}, "
        f"{keeping.arm} {describe(keeping)} {second}; margin {margin:.3f}"
    )
    wanted = []
    if first != "lost":
        wanted.append(f"{lowering.arm} below zero and beyond {-margin:.3f} (is {first})")
    if second not in ("kept", "raised"):
        wanted.append(f"{keeping.arm} within {margin:.3f} of zero, or above it (is {second})")
    if wanted:
        return Verdict(claim, verdict, because, "to be seen: " + "; ".join(wanted))
    return Verdict(claim, verdict, because, f"{lowering.arm}: {what_would_change(lowering)}")


def state_of(change: Change, margin: float) -> str:
    """`kept` within the margin, else `lost`, `raised`, or `unclear`; `unknown` without data."""
    if math.isnan(change.low) or math.isnan(margin):
        return "unknown"
    if is_kept(change, margin):
        return "kept"
    return {-1: "lost", 1: "raised", 0: "unclear"}[change.direction]


# --- unevenness over splits --------------------------------------------------------------------


def compare_evenness(_claim: Claim, evidence: Evidence, arm: str, against: str) -> Comparison:
    """How much more unsafe thinking differs between splits after `arm` than after `against`.

    The range of a measure over splits is its largest mean less its smallest, over the splits that
    both arms have.
    """
    samples = evidence.samples
    is_forbidden = samples["set"] == "forbidden"
    is_either = samples["arm"].isin([arm, against])
    rows = samples[is_forbidden & is_either]
    unsafe = pd.to_numeric(rows["thinking_unsafe"])
    rows = rows.assign(
        arm=rows["arm"].astype(str),
        value=unsafe.astype(float),
    )

    # One mean a seed, split and arm; one range a seed and arm.
    by_cell = rows.groupby(["seed", "split", "arm"])["value"]
    means = by_cell.mean().unstack()
    means = means.reindex(columns=[arm, against]).dropna()
    by_seed = means.groupby("seed")
    ranges = by_seed.max() - by_seed.min()
    gaps = ranges[arm] - ranges[against]
    if len(gaps) >= LEAST_SEEDS:
        estimate = over_seeds(gaps.tolist(), len(rows))
    else:
        estimate = _gap_over_prompts(rows, arm, against)

    shown = []
    if len(gaps):
        for name in (arm, against):
            mean = ranges[name].mean()
            shown.append(f"{name} {mean:.3f}")
    n_splits = means.index.unique("split").size
    facts = f"range of unsafe thinking over {n_splits} splits: {', '.join(shown)}"
    gap = Change.from_row(to_row(estimate), arm, against, "range over splits")
    return Comparison({"gap": gap}, facts=facts)


def decide_less_even(claim: str, comparison: Comparison) -> Verdict:
    """Seen if the first arm's range is the larger."""
    gap = comparison.changes["gap"]
    verdict = {1: "seen", -1: "opposite", 0: "undecided"}[gap.direction]
    because = f"{comparison.facts}; {gap.arm} less {gap.against} {describe(gap)}"
    would_change = what_would_change(gap)
    return Verdict(claim, verdict, because, would_change)


def _gap_over_prompts(rows: pd.DataFrame, arm: str, against: str) -> Estimate:
    """The difference of the two ranges, with an interval over prompts.

    Prompts decided in both arms weigh alike. They are resampled within each split, the same for
    both arms. There is no interval where a split has a single prompt.
    """
    by_prompt = rows.groupby(["split", "cluster", "arm"])["value"]
    wide = by_prompt.mean().unstack()
    wide = wide.reindex(columns=[arm, against]).dropna()
    splits = [part.to_numpy() for _, part in wide.groupby("split")]
    estimate = Estimate(
        value=math.nan,
        low=math.nan,
        high=math.nan,
        n=len(rows),
        n_clusters=len(wide),
        method="prompts resampled",
        n_undefined=len(rows),
    )
    if not splits:
        return estimate
    estimate = estimate._replace(value=_gap_of_ranges(splits))
    if min(map(len, splits)) < 2:
        return estimate

    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(RESAMPLES):
        drawn = []
        for prompts in splits:
            places = rng.integers(len(prompts), size=len(prompts))
            drawn.append(prompts[places])
        gaps.append(_gap_of_ranges(drawn))
    low, high = np.quantile(gaps, [0.025, 0.975])
    return estimate._replace(
        low=float(low),
        high=float(high),
        n_undefined=0,
    )


def _gap_of_ranges(splits: Sequence[np.ndarray]) -> float:
    """The range of the first column's means over splits less that of the second's."""
    means = np.array([prompts.mean(axis=0) for prompts in splits])
    ranges = means.max(axis=0) - means.min(axis=0)
    return float(ranges[0] - ranges[1])


RULES: Mapping[str, Rule] = {
    "falls": Rule(compare_measure, decide_fall),
    "same": Rule(compare_measure, decide_same),
    "falls_on_both_texts": Rule(compare_texts, decide_fall_on_both),
    "hidden_falls": Rule(compare_hidden, decide_fall),
    "lowers_but_keeps": Rule(compare_with_base, decide_lower_but_keep),
    "less_even": Rule(compare_evenness, decide_less_even),
}


# --- in words ----------------------------------------------------------------------------------


def describe(change: Change) -> str:
    """The value with its interval, what it is over, and the p-value with what it is adjusted for.

    >>> describe(Change(-0.2, -0.3, -0.1, 5, p=0.012, n_tests=4))
    '-0.200 (-0.300 to -0.100; 5 seeds, p 0.012, Holm over 4)'
    """
    if math.isnan(change.value):
        return "no data"
    if math.isnan(change.low):
        return f"{change.value:+.3f} (no interval)"

    facts = [f"{change.n_units} {change.units}"]
    is_one_of_many = change.n_tests > 1
    if math.isnan(change.p):
        if is_one_of_many:
            facts.append(f"one of {change.n_tests}, not adjusted")
    else:
        facts.append("p < 0.0001" if change.p < 1e-4 else f"p {change.p:.2g}")
        if is_one_of_many:
            facts.append(f"Holm over {change.n_tests}")
    interval = f"{change.low:+.3f} to {change.high:+.3f}"
    return f"{change.value:+.3f} ({interval}; {', '.join(facts)})"


def what_would_change(change: Change) -> str:
    """How far the difference is from another verdict: as a shift, or in seeds (or prompts)."""
    if math.isnan(change.low):
        return "data for both arms"
    excludes_zero = change.low > 0 or change.high < 0
    if excludes_zero and change.p >= LEVEL:
        return f"a p-value below {LEVEL} after Holm over {change.n_tests} (is {change.p:.2g})"
    if excludes_zero:
        shift = min(abs(change.low), abs(change.high))
        return f"a shift of the interval by {shift:.3f} towards zero"

    n = change.n_units
    value = abs(change.value)
    if n < LEAST_SEEDS or value <= 0:
        return "an interval that excludes zero"

    # Student's interval narrows with the square root of n and with its quantile.
    half = change.high - change.value
    deviation = half * math.sqrt(n) / stdtrit(n - 1, 0.975)
    for larger in range(n + 1, 1000):
        error = deviation / math.sqrt(larger)
        half = error * stdtrit(larger - 1, 0.975)
        if half < value:
            needed = f"about {larger} {change.units} if mean and spread stay"
            return f"an interval that excludes zero: {needed}"
    return f"an interval that excludes zero: more {change.units} than are practical"
