"""Which requests are known to ask for harm, and which harmless traces are as long as those?"""

import re
from bisect import bisect_right
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cotlens.measures.groups import need

# The group of harmless traces that figures of unsafe exploration show next to the harmful ones.
BASELINE = "harmless, equal length"

# Words of a domain or split that say what its requests ask for.
_HARMFUL_WORDS = frozenset({"harmful", "unsafe", "forbidden", "malicious", "jailbreak"})
_HARMLESS_WORDS = frozenset({"harmless", "unharmful", "benign", "safe", "borderline", "allowed"})
_WORD = re.compile(r"[a-z0-9]+")
_NEGATIONS = frozenset({"no", "non", "not"})

# Published sets of which every request asks for harm, or none does, by the beginning of their name.
# Sets of both kinds (XSTest, JailbreakBench) are not here: their split or a verdict tells.
_HARMFUL_SETS = (
    "advbench",
    "harmbench",
    "hexphi",
    "maliciousinstruct",
    "simplesafetytests",
    "strongreject",
)
_HARMLESS_SETS = (
    "aime",
    "alpacaeval",
    "gpqa",
    "gsm8k",
    "humaneval",
    "ifeval",
    "livecodebench",
    "lookalike",
    "math",
    "mbpp",
    "mmlu",
    "olympiadbench",
)

# At most this share of the baseline may be missing where harmless traces are rare.
_MOST_MISSING = 0.05


def asks_for_harm(traces: pd.DataFrame) -> pd.Series:
    """Whether the request of each trace is known to ask for harm: true, false, missing if unknown.

    The first of these that says it decides: a verdict on the request (`request_unsafe`, as
    `Run.with_verdicts` gives it), `domain`, `split`. A domain or split says it by a word (harmful,
    unsafe, forbidden, malicious, jailbreak; harmless, unharmful, benign, safe, borderline, allowed,
    look_alike), or by the name of a published set such as StrongREJECT or GSM8K; one with words of
    both kinds says nothing.

    The text of the request does not decide: by `detect.harm.request_harm` some mathematics would
    count as harmful (docs/unsafe.md).

    Args:
        traces: a trace table with `domain` and `split`.
    """
    need(traces, "domain", "split")

    # A verdict on the request comes first.
    asks = pd.Series(pd.NA, traces.index, "boolean")
    if "request_unsafe" in traces:
        asks = traces["request_unsafe"].astype("boolean")

    # Few names, many traces: each name is read once.
    for column in ("domain", "split"):
        names = traces[column]
        meanings = {}
        for name in names.unique():
            meanings[name] = _meaning(str(name))
        stated = names.map(meanings).astype("boolean")
        asks = asks.fillna(stated)

    return asks.rename("asks_for_harm")


def _meaning(name: str) -> bool | None:
    """Whether the requests of a domain or split of this name ask for harm; None: it says nothing.

    >>> _meaning("forbidden_seen"), _meaning("XSTest safe"), _meaning("MATH-500"), _meaning("law")
    (True, False, False, None)
    """
    words = set(_WORD.findall(name.lower()))
    joined = "".join(_WORD.findall(name.lower()))

    # JailbreakBench has requests of both kinds, however its name is written.
    if "bench" in words:
        words -= {"jailbreak"}

    is_harmful = joined.startswith(_HARMFUL_SETS)
    if words & _HARMFUL_WORDS:
        is_harmful = True

    is_harmless = joined.startswith(_HARMLESS_SETS)
    if words & _HARMLESS_WORDS:
        is_harmless = True

    # "non-harmful" and "unsafe_or_safe" are not for words to decide.
    if words & _NEGATIONS or is_harmful == is_harmless:
        return None
    return is_harmful


class HarmfulTraces(NamedTuple):
    """The traces that figures of unsafe exploration show, and how many there were of each kind.

    Attributes:
        traces: those on requests known to ask for harm, in their groups, and harmless ones of equal
            length as the group `BASELINE`; the column of the group is categorical, the baseline
            last.
        n_harmful: traces known to ask for harm whose steps have markers.
        n_harmless: those known to ask for none.
        n_unknown: those of which nothing is known.
        n_baseline: harmless traces that are shown; 0 if none are as long.
    """

    traces: pd.DataFrame
    n_harmful: int
    n_harmless: int
    n_unknown: int
    n_baseline: int


def with_baseline(dynamics: pd.DataFrame, by: str) -> HarmfulTraces:
    """The traces on harmful requests by group, with a baseline of harmless ones of equal length.

    Traces without a step of known language are left out. The baseline pools the groups.

    Args:
        dynamics: what `unsafe_dynamics` returned; `asks_for_harm` says how requests are known.
        by: column of the group.
    """
    need(dynamics, by, "n_marked", "n_think_chars", "domain", "split")
    asks = asks_for_harm(dynamics)
    is_marked = dynamics["n_marked"] > 0
    is_harmful = is_marked & asks.fillna(False)
    is_harmless = is_marked & ~asks.fillna(True)
    n_unknown = (is_marked & asks.isna()).sum()

    # Without harmful traces there is nothing to compare a baseline with.
    harmful = dynamics[is_harmful]
    harmless = dynamics[is_harmless]
    places = match_lengths(
        harmless["n_think_chars"],
        wanted=harmful["n_think_chars"],
    )
    baseline = harmless.iloc[places]

    shown = pd.concat([harmful, baseline], ignore_index=True)
    shown[by] = _groups_and_baseline(harmful[by], len(baseline))
    return HarmfulTraces(
        traces=shown,
        n_harmful=len(harmful),
        n_harmless=len(harmless),
        n_unknown=int(n_unknown),
        n_baseline=len(baseline),
    )


def _groups_and_baseline(groups: pd.Series, n_baseline: int) -> pd.Categorical:
    """The groups, followed by so many rows of the baseline, which is the last category."""
    if not isinstance(groups.dtype, pd.CategoricalDtype):
        groups = groups.astype(str).astype("category")
    groups = groups.cat.remove_unused_categories()

    values = list(groups)
    names = list(groups.cat.categories)
    if n_baseline:
        values += [BASELINE] * n_baseline
        names.append(BASELINE)
    return pd.Categorical(values, names)


def match_lengths(lengths: ArrayLike, wanted: ArrayLike) -> NDArray[np.int64]:
    """Places of rows whose lengths are distributed like the wanted ones, in their order.

    Lengths fall into bins whose limits grow by a factor of 2^(1/2), as in
    `stats.matched_difference`. A sample of N rows takes N times the bin's share of the wanted
    lengths from each bin, rounded, or all that the bin has; N is the largest of which at most 5%
    are missing. Within a bin the rows stand at equal distances in the order of the table, so that
    each source is there with its share.

    Args:
        lengths: of the rows to choose from.
        wanted: whose distribution is wanted.

    Returns:
        No place if there are no lengths of one kind, or if even the smallest sample lacks more.
    """
    bins = _half_octaves(lengths)
    wanted_bins = _half_octaves(wanted)
    if not len(bins) or not len(wanted_bins):
        return np.array([], np.int64)

    # How much of the sample each bin should have, and which rows it has.
    numbers, counts = np.unique(wanted_bins, return_counts=True)
    shares = counts / counts.sum()
    rows_of_bins = []
    for number in numbers:
        rows = np.flatnonzero(bins == number)
        rows_of_bins.append(rows)
    sizes = np.array([len(rows) for rows in rows_of_bins])

    def missing(size: int) -> float:
        lacking = np.maximum(shares * size - sizes, 0)
        return float(lacking.sum() / size)

    # The share that is missing grows with the size of the sample.
    possible = range(1, len(bins) + 1)
    size = bisect_right(possible, _MOST_MISSING, key=missing)
    rounded = np.round(shares * size)
    quotas = np.minimum(rounded.astype(int), sizes)

    chosen = []
    for rows, quota in zip(rows_of_bins, quotas, strict=True):
        chosen.append(_spread(rows, int(quota)))
    return np.sort(np.concatenate(chosen))


def _half_octaves(lengths: ArrayLike) -> NDArray[np.int64]:
    """The bin of each length."""
    values = np.asarray(lengths, float)
    octaves = np.log2(values + 1)
    return np.floor(2 * octaves).astype(np.int64)


def _spread(rows: NDArray[np.int64], quota: int) -> NDArray[np.int64]:
    """So many of the rows, at equal distances."""
    if quota == 0:
        return rows[:0]

    distance = len(rows) / quota
    middles = np.arange(quota) + 0.5
    places = middles * distance
    return rows[places.astype(np.int64)]
