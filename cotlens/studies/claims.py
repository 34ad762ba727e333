"""Verdicts on claims, by rules fixed before any result was seen.

The rules are the library's; the list of claims is the experiment's. A claim names a rule and what
the rule speaks of, so that it can be written down before the runs exist: `study.json` holds the
list (`claims`), trainers/configs/claims.json is one for the paper "Beyond SFT".

An interval that excludes zero decides. A value is *kept* if its whole interval lies within a
margin.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as distributions

from cotlens.stats import RESAMPLES, Estimate
from cotlens.studies.arms import LEAST_SEEDS, difference, list_measures, over_seeds, select, to_row
from cotlens.studies.confounds import recall_at_splits
from cotlens.trace import TraceError


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim about the arms of a study, and the rule that decides it.

    Attributes:
        claim: the sentence.
        rule: a name in `RULES`.
        arm: the role in the study whose arms the claim is about (`rl`, `sft`, ...), or the name of
            an arm. A role of several arms makes one claim for each.
        against: the role or arm that it is compared with; "" is the base.
        measure: name of a measure (`COLUMN_WHERE`), for rules that speak of one.
        margin: absolute margin within which a value counts as kept.
        margin_of_base: the same as a share of the base's value, where `margin` is 0.
    """

    claim: str
    rule: str
    arm: str = "rl"
    against: str = ""
    measure: str = ""
    margin: float = 0.0
    margin_of_base: float = 0.0


class Verdict(NamedTuple):
    """What a study says of a claim."""

    claim: str
    verdict: str  # seen, not seen, opposite, undecided
    because: str
    would_change: str  # what would have to be different for another verdict


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

    def change(self, arm: str, measure: str) -> pd.Series:
        """The arm's difference to the base; NaN where the study has none."""
        is_arm = self.changes["arm"] == arm
        is_measure = self.changes["measure"] == measure
        rows = self.changes[is_arm & is_measure]
        return NO_CHANGE if rows.empty else rows.iloc[0]

    def base_value(self, measure: str) -> float:
        """The base's value of a measure; NaN where the study has none."""
        is_base = self.measures["arm"] == self.base
        is_measure = self.measures["measure"] == measure
        values = self.measures.loc[is_base & is_measure, "value"]
        return math.nan if values.empty else float(values.iloc[0])


NO_CHANGE = pd.Series(
    {"value": math.nan, "low": math.nan, "high": math.nan, "n_units": 0, "units": "seeds"}
)


def read_claims(path: str | Path) -> list[dict[str, Any]]:
    """The claims in a JSON file, a list of objects with the fields of `Claim`; checked.

    Raises:
        TraceError: if the file cannot be read, or a claim has an unknown field or rule.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        claims = json.loads(text)
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: no list of claims: {error}") from None
    check_claims(claims, str(path))
    return claims


def check_claims(claims: Any, where: str) -> list[Claim]:
    """The claims as objects.

    Raises:
        TraceError: if one has an unknown field or rule, or no sentence.
    """
    if not isinstance(claims, list):
        raise TraceError(f"{where}: expected a list of claims, got {type(claims).__name__}")

    known_fields = {field.name for field in fields(Claim)}
    checked = []
    for number, entry in enumerate(claims):
        place = f"{where}: claim {number}"
        if not isinstance(entry, dict) or not {"claim", "rule"} <= set(entry):
            raise TraceError(f"{place}: expected an object with `claim` and `rule`, got {entry!r}")
        unknown = sorted(set(entry) - known_fields)
        if unknown:
            there = ", ".join(sorted(known_fields))
            raise TraceError(f"{place}: unknown {', '.join(unknown)}; known are {there}")
        if entry["rule"] not in RULES:
            there = ", ".join(RULES)
            raise TraceError(f"{place}: unknown rule {entry['rule']!r}; there are {there}")
        checked.append(Claim(**entry))
    return checked


def verdicts(
    claims: Sequence[Mapping[str, Any]], evidence: Evidence, roles: Mapping[str, Any]
) -> list[Verdict]:
    """What the study says of each claim whose arms it has, sorted by claim.

    Args:
        claims: of `Study.info["claims"]` or `read_claims`.
        evidence: the study's numbers.
        roles: of `Study.info`: role -> arm or list of arms.
    """
    results = []
    for claim in check_claims(list(claims), "claims"):
        rule = RULES[claim.rule]
        for arm, against in _arms_of(claim, evidence, roles):
            verdict = rule(claim, evidence, arm, against)
            if verdict is not None:
                others = _unnamed_arms(arm, against, evidence.base, roles)
                results.append(verdict._replace(claim=verdict.claim + others))
    return sorted(results)


def _arms_of(
    claim: Claim, evidence: Evidence, roles: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The arms of a claim's two roles, of those that the study has."""
    present = set(evidence.samples["arm"].astype(str))

    def arms(role: str) -> list[str]:
        named = roles.get(role) or role
        listed = [named] if isinstance(named, str) else named
        return [arm for arm in listed if arm in present]

    for arm in arms(claim.arm):
        for against in arms(claim.against or evidence.base):
            yield arm, against


def _unnamed_arms(arm: str, against: str, base: str, roles: Mapping[str, Any]) -> str:
    """The arms that a claim leaves open, in brackets: all but the base and the RL arm."""
    usual = {base, roles.get("rl")}
    others = [name for name in (arm, against) if name not in usual]
    return f" [{', '.join(others)}]" if others else ""


# --- rules -------------------------------------------------------------------------------------


def falls(claim: Claim, evidence: Evidence, arm: str, against: str) -> Verdict:
    """Seen if the arm's measure is below that of `against`."""
    return decide_fall(claim.claim, _difference(evidence, arm, against, claim.measure))


def decide_fall(claim: str, change: Any) -> Verdict:
    """The rule `falls` on a difference: value, low, high, n_units, units."""
    if change.high < 0:
        verdict = "seen"
    elif change.low > 0:
        verdict = "opposite"
    else:
        verdict = "undecided"
    return Verdict(claim, verdict, f"difference {_format(change)}", _what_would_change(change))


def falls_on_both_texts(claim: Claim, evidence: Evidence, arm: str, _against: str) -> Verdict:
    """Seen if entropy falls on the arm's own samples and on one text for both, the base's samples.

    Own samples alone cannot tell: the arm writes other texts than the base.
    """
    own = evidence.change(arm, "entropy_think_forbidden")
    common = evidence.change(arm, "entropy_common_forbidden")
    if own.high < 0 and common.high < 0:
        verdict = "seen"
    elif own.low > 0 and common.low > 0:
        verdict = "opposite"
    else:
        verdict = "undecided"

    # The same on prompts that are not about harm, for comparison.
    elsewhere = []
    for domain in ("harmless", "maths"):
        change = evidence.change(arm, f"entropy_think_{domain}")
        elsewhere.append(f"{domain} {_format(change)}")
    because = (
        f"own samples {_format(own)}, the base's samples {_format(common)}; "
        f"for comparison own {', '.join(elsewhere)}"
    )
    would_change = (
        f"own samples: {_what_would_change(own)}; common text: {_what_would_change(common)}"
    )
    return Verdict(claim.claim, verdict, because, would_change)


def hidden_falls(claim: Claim, evidence: Evidence, arm: str, _against: str) -> Verdict | None:
    """Seen if unsafe thinking that the reward's guard does not flag falls.

    None if the base's thinking was not judged by both.
    """
    if math.isnan(evidence.base_value("hidden_forbidden")):
        return None

    change = evidence.change(arm, "hidden_forbidden")
    verdict = decide_fall(claim.claim, change)

    # What else may explain it.
    recall = evidence.change(arm, "guard_recall_forbidden")
    estimate = recall_at_splits(evidence.samples, arm, evidence.base)
    at_splits = pd.Series(to_row(estimate))
    unsafe = evidence.change(arm, "thinking_unsafe_forbidden")
    because = (
        f"{verdict.because}"
        f"; recall of the guard {_format(recall)}"
        f", on equal splits {_format(at_splits)}"
        f", all unsafe thinking {_format(unsafe)}"
    )
    return verdict._replace(because=because)


def lowers_but_keeps(claim: Claim, evidence: Evidence, arm: str, against: str) -> Verdict:
    """Seen if `arm` lowers the measure and `against` keeps it, or raises it.

    If it raises it, the verdict says so.
    """
    lowering = evidence.change(arm, claim.measure)
    keeping = evidence.change(against, claim.measure)
    margin = claim.margin or claim.margin_of_base * evidence.base_value(claim.measure)
    return decide_lower_but_keep(claim.claim, lowering, keeping, margin)


def decide_lower_but_keep(claim: str, lowering: Any, keeping: Any, margin: float) -> Verdict:
    """The rule `lowers_but_keeps` on the two differences to the base."""
    if any(map(math.isnan, (lowering.low, keeping.low, margin))):
        because = f"SFT {_format(lowering)}, RL {_format(keeping)}"
        return Verdict(claim, "undecided", because, "data for the base and both arms")

    first = _state(lowering, margin)
    second = _state(keeping, margin)
    if first == "lost" and second == "kept":
        verdict = "seen"
    elif first == "lost" and second == "raised":
        verdict = "seen (RL raises it)"
    elif first == "raised" and second == "lost":
        verdict = "opposite"
    elif first in ("kept", "raised") or second == "lost":  # either half alone refutes the claim
        verdict = "not seen"
    else:
        verdict = "undecided"

    because = (
        f"SFT {_format(lowering)} {first}, RL {_format(keeping)} {second}; margin {margin:.3f}"
    )
    wanted = []
    if first != "lost":
        wanted.append(f"SFT below zero and beyond {-margin:.3f} (is {first})")
    if second not in ("kept", "raised"):
        wanted.append(f"RL within {margin:.3f} of zero, or above it (is {second})")
    if wanted:
        return Verdict(claim, verdict, because, "to be seen: " + "; ".join(wanted))
    return Verdict(claim, verdict, because, f"SFT: {_what_would_change(lowering)}")


def less_even(claim: Claim, evidence: Evidence, arm: str, against: str) -> Verdict:
    """Seen if unsafe thinking differs more between splits after `arm` than after `against`.

    The range of a measure over splits is its largest mean less its smallest, over the splits that
    both arms have.
    """
    samples = evidence.samples
    is_forbidden = samples["set"] == "forbidden"
    rows = samples[is_forbidden & samples["arm"].isin([arm, against])]
    unsafe = pd.to_numeric(rows["thinking_unsafe"]).astype(float)
    rows = rows.assign(arm=rows["arm"].astype(str), value=unsafe)

    # One mean a seed, split and arm; one range a seed and arm.
    means = rows.groupby(["seed", "split", "arm"])["value"].mean().unstack()
    means = means.reindex(columns=[arm, against]).dropna()
    by_seed = means.groupby("seed")
    ranges = by_seed.max() - by_seed.min()
    gaps = ranges[arm] - ranges[against]
    if len(gaps) >= LEAST_SEEDS:
        estimate = over_seeds(gaps.tolist(), len(rows))
    else:
        estimate = _gap_over_prompts(rows, arm, against)

    if estimate.low > 0:
        verdict = "seen"
    elif estimate.high < 0:
        verdict = "opposite"
    else:
        verdict = "undecided"
    shown = []
    for name in (arm, against):
        if len(gaps):
            shown.append(f"{name} {ranges[name].mean():.3f}")
    gap = pd.Series(to_row(estimate))
    n_splits = means.index.unique("split").size
    because = (
        f"range of unsafe thinking over {n_splits} splits: {', '.join(shown)}; "
        f"SFT less RL {_format(gap)}"
    )
    return Verdict(claim.claim, verdict, because, _what_would_change(gap))


RULES: Mapping[str, Callable[[Claim, Evidence, str, str], Verdict | None]] = {
    "falls": falls,
    "falls_on_both_texts": falls_on_both_texts,
    "hidden_falls": hidden_falls,
    "lowers_but_keeps": lowers_but_keeps,
    "less_even": less_even,
}


def _difference(evidence: Evidence, arm: str, against: str, measure: str) -> pd.Series:
    """The arm's measure less that of another arm: for the base, the row of `changes`."""
    if against == evidence.base:
        return evidence.change(arm, measure)
    listed = {known.name: known for known in list_measures(evidence.samples)}
    if measure not in listed:
        return NO_CHANGE
    rows = select(evidence.samples, listed[measure].column, listed[measure].where)
    estimate = difference(rows[rows["arm"] == arm], rows[rows["arm"] == against])
    return pd.Series(to_row(estimate))


def _gap_over_prompts(rows: pd.DataFrame, arm: str, against: str) -> Estimate:
    """The difference of the two ranges, with an interval over prompts.

    Prompts decided in both arms weigh alike. They are resampled within each split, the same for
    both arms. There is no interval where a split has a single prompt.
    """
    method = "prompts resampled"
    wide = rows.groupby(["split", "cluster", "arm"])["value"].mean().unstack()
    wide = wide.reindex(columns=[arm, against]).dropna()
    splits = [part.to_numpy() for _, part in wide.groupby("split")]
    if not splits:
        return Estimate(math.nan, math.nan, math.nan, len(rows), 0, method, len(rows))

    def gap(drawn: Sequence[np.ndarray]) -> float:
        means = np.array([prompts.mean(axis=0) for prompts in drawn])
        ranges = means.max(axis=0) - means.min(axis=0)
        return float(ranges[0] - ranges[1])

    value = gap(splits)
    if min(map(len, splits)) < 2:
        return Estimate(value, math.nan, math.nan, len(rows), len(wide), method, len(rows))

    # Resample the prompts of each split.
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(RESAMPLES):
        drawn = []
        for prompts in splits:
            numbers = rng.integers(len(prompts), size=len(prompts))
            drawn.append(prompts[numbers])
        gaps.append(gap(drawn))
    low, high = np.quantile(gaps, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(rows), len(wide), method, 0)


def _state(change: Any, margin: float) -> str:
    """kept: the whole interval is within the margin; else lost, raised, or unclear with a zero."""
    if -margin <= change.low and change.high <= margin:
        return "kept"
    if change.high < 0:
        return "lost"
    if change.low > 0:
        return "raised"
    return "unclear"


def _what_would_change(change: Any) -> str:
    """How far the interval is from another verdict: as a shift, or in seeds (or prompts)."""
    if math.isnan(change.low):
        return "data for both arms"
    if change.low > 0 or change.high < 0:
        shift = min(abs(change.low), abs(change.high))
        return f"a shift of the interval by {shift:.3f} towards zero"

    n = int(change.n_units)
    value = abs(change.value)
    if n < LEAST_SEEDS or value <= 0:
        return "an interval that excludes zero"

    # Student's interval narrows with the square root of n and with its quantile.
    excludes = "an interval that excludes zero"
    half_width = change.high - change.value
    deviation = half_width * math.sqrt(n) / distributions.t.ppf(0.975, n - 1)
    for larger in range(n + 1, 1000):
        quantile = distributions.t.ppf(0.975, larger - 1)
        if quantile * deviation / math.sqrt(larger) < value:
            return f"{excludes}: about {larger} {change.units} if mean and spread stay"
    return f"{excludes}: more {change.units} than are practical"


def _format(change: Any) -> str:
    if math.isnan(change.value):
        return "no data"
    if math.isnan(change.low):
        return f"{change.value:+.3f} (no interval)"
    return f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
