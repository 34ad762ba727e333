"""StepSums: what figures of runs need of the steps, shard by shard."""

import pandas as pd

from cotlens.detect.words import WORD_LISTS
from cotlens.measures.places import Places, reflection_places, unsafe_places
from cotlens.measures.reflection import marker_counts, transitions
from cotlens.runs.by_shard import DYNAMICS_COLUMNS

# What figures read of a step.
STEP_COLUMNS = [*DYNAMICS_COLUMNS, "kind", "p_reflect", *(f"n_{name}" for name in WORD_LISTS)]


class StepSums:
    """What figures need of the steps of all runs: sums, and a row a trace.

    Attributes:
        n: steps.
        transitions: as `measures.transitions` gives them; None before a step was added.
        markers: as `measures.reflection.marker_counts` gives them; likewise.
    """

    def __init__(self) -> None:
        self.n = 0
        self.transitions: pd.DataFrame | None = None
        self.markers: pd.DataFrame | None = None
        self._reflection: list[Places] = []
        self._unsafe: list[Places] = []

    def add(self, steps: pd.DataFrame) -> None:
        """Add the steps of some traces, all of each, whose ids are unique over all runs."""
        if steps.empty:
            return
        self.n += len(steps)
        self.transitions = _sum(self.transitions, transitions(steps))
        self.markers = _sum(self.markers, marker_counts(steps))
        if steps["is_reflection"].notna().any():
            self._reflection.append(reflection_places(steps, columns=()))
        if steps["is_self_jailbreak"].notna().any():
            self._unsafe.append(unsafe_places(steps, columns=()))

    def reflection_places(self, traces: pd.DataFrame, by: str) -> Places:
        """Where steps reflect, of some traces in their groups."""
        return Places.join(self._reflection).of(group_columns(traces, by))

    def unsafe_places(self, traces: pd.DataFrame, by: str) -> Places:
        """Where steps explore something unsafe, of some traces in their groups."""
        return Places.join(self._unsafe).of(group_columns(traces, by))


def _sum(total: pd.DataFrame | None, more: pd.DataFrame) -> pd.DataFrame:
    return more if total is None else total + more


def group_columns(traces: pd.DataFrame, by: str) -> pd.DataFrame:
    """The columns of traces that figures of steps need: trace, prompt and group."""
    return traces[["trace_id", "prompt_id", *{by} - {"prompt_id"}]]
