"""Where steps lie, as sums by trace: what figures of steps need, in memory that is small."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cotlens import stats
from cotlens.detect.unsafe import SELF_JAILBREAK
from cotlens.measures.groups import is_true, need, need_known
from cotlens.measures.unsafe import safety_states
from cotlens.stats.bootstrap import Flags
from cotlens.stats.estimates import bins_of

Counts = NDArray[np.integer]
EXCUSES = tuple(kind.value for kind in SELF_JAILBREAK)
_STATES = ("risk_awareness", "is_self_jailbreak", "refusal_intent")


class Places(NamedTuple):
    """How many steps of each trace lie in each part of the thinking, and how many of them are what.

    Sums of several tables are joined by `join`; those of steps of unknown language are left out.

    Attributes:
        traces: a row a trace with such steps, in their order, by its place in the arrays: trace_id,
            columns that were asked for, `first_FLAG` for the first step, `any_FLAG`.
        n: steps, (traces, bins).
        flagged: by name of the flag those that carry it, (traces, bins).
    """

    traces: pd.DataFrame
    n: Counts
    flagged: Mapping[str, Counts]

    @classmethod
    def join(cls, tables: Sequence["Places"]) -> "Places":
        """The traces of several tables one after the other."""
        flagged = {}
        for flag in tables[0].flagged:
            flagged[flag] = np.concatenate([table.flagged[flag] for table in tables])
        return cls(
            traces=pd.concat([table.traces for table in tables], ignore_index=True),
            n=np.concatenate([table.n for table in tables]),
            flagged=flagged,
        )

    def of(self, traces: pd.DataFrame) -> "Places":
        """Those of some traces, in the order that they have here.

        Args:
            traces: a row a trace, with `trace_id`; its other columns are added.
        """
        places = self.traces.reset_index(names="place")
        kept = places.merge(traces, on="trace_id")
        rows = kept.pop("place").to_numpy()
        flagged = {flag: counts[rows] for flag, counts in self.flagged.items()}
        return Places(kept, self.n[rows], flagged)

    def curve(self, flag: str, rows: pd.DataFrame) -> pd.DataFrame:
        """The share of steps that carry a flag by position, as `stats.curve` gives it of the steps.

        Args:
            flag: name of the flag.
            rows: of `traces`, with `prompt_id`.
        """
        return stats.curve_of_sums(
            self.flagged[flag][rows.index],
            self.n[rows.index],
            rows["prompt_id"],
        )


def reflection_places(
    steps: pd.DataFrame, bins: int = 20, columns: Sequence[str] = ("prompt_id",)
) -> Places:
    """Where the steps lie that reflect, of those whose language is known.

    Args:
        steps: a step table.
        bins: equal parts of the thinking.
        columns: of the step table, alike in all steps of a trace, to keep.
    """
    need(steps, "trace_id", "position", "is_reflection", *columns)
    known = steps[steps["is_reflection"].notna()]
    need_known(known)
    reflects = is_true(known["is_reflection"])
    return _places(known, bins, columns, {"reflects": reflects}, {"reflects": reflects}, {})


def unsafe_places(
    steps: pd.DataFrame, bins: int = 10, columns: Sequence[str] = ("prompt_id",)
) -> Places:
    """Where the steps lie that notice a risk, are unsafe, excuse it, or intend to refuse.

    `is_self_jailbreak` and each of `EXCUSES` count in unsafe steps only.

    Args:
        steps: a step table.
        bins: equal parts of the thinking.
        columns: of the step table, alike in all steps of a trace, to keep.
    """
    markers = (*_STATES, "compliance_cue", *EXCUSES)
    need(steps, "trace_id", "position", "is_unsafe", *markers, *columns)
    known = steps[steps["is_self_jailbreak"].notna()]
    need_known(known)

    unsafe = safety_states(known) > 0
    flags = {name: is_true(known[name]) for name in _STATES}
    flags["is_self_jailbreak"] = flags["is_self_jailbreak"] & unsafe
    flags["unsafe"] = unsafe
    first = {"unsafe": unsafe, "compliance_cue": unsafe & is_true(known["compliance_cue"])}
    excuses = {name: unsafe & is_true(known[name]) for name in EXCUSES}
    return _places(known, bins, columns, flags, first, excuses)


def _places(
    steps: pd.DataFrame,
    bins: int,
    columns: Sequence[str],
    flags: Mapping[str, Flags],
    first: Mapping[str, Flags],
    anywhere: Mapping[str, Flags],
) -> Places:
    """The sums of some steps: flags by part of the thinking, of first steps, and anywhere."""
    # Ids may occur again in another group.
    by_trace = steps.groupby(["trace_id", *columns], sort=False, dropna=False, observed=True)
    trace_of = by_trace.ngroup().to_numpy()
    n_traces = by_trace.ngroups
    positions = steps["position"].to_numpy(float)
    shape = (n_traces, bins)
    cell_of = trace_of * bins + bins_of(positions, bins)

    def count(is_counted: Flags) -> Counts:
        counts = np.bincount(cell_of[is_counted], minlength=n_traces * bins)
        smallest = np.min_scalar_type(counts.max(initial=0))
        return counts.astype(smallest).reshape(shape)

    # The first row of each trace, and its first step: the one that lies first.
    _, first_rows = np.unique(trace_of, return_index=True)
    by_position = np.lexsort((positions, trace_of))
    _, beginnings = np.unique(trace_of[by_position], return_index=True)
    first_steps = by_position[beginnings]

    traces = steps[["trace_id", *columns]].iloc[first_rows].reset_index(drop=True)
    for flag, values in first.items():
        traces[f"first_{flag}"] = values[first_steps]
    for flag, values in anywhere.items():
        traces[f"any_{flag}"] = np.bincount(trace_of[values], minlength=n_traces) > 0
    return Places(
        traces=traces,
        n=count(np.ones(len(steps), bool)),
        flagged={flag: count(values) for flag, values in flags.items()},
    )
