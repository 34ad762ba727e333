"""How often, where and in what runs do traces reflect? From the kinds of their steps."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.detect.reflect import KINDS
from cotlens.detect.words import WORD_LISTS
from cotlens.measures.groups import (
    NOTHING_KNOWN,
    StepsByTrace,
    estimates_by,
    is_true,
    need,
    need_known,
    need_steps_of_traces,
)
from cotlens.trace import Span

# Columns that `reflection_dynamics` adds to the trace table.
_DYNAMICS = [
    "n_known",
    "n_known_chars",
    "n_reflect",
    "any_reflect",
    "share_reflect",
    "longest_run",
    "n_episodes",
    "revisits",
    "mean_gap",
    "first_reflect",
    "n_judged",
    "n_changed",
    "reflect_per_1000_chars",
    "reflect_per_1000_tokens",
]


def reflection_dynamics(steps: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """One row per trace: how much it reflects, how deeply, and where.

    Args:
        steps: a step table.
        traces: the trace table it belongs to; its columns come first in the result.

    Returns:
        The trace table with, for each trace,

        - `n_reflect`: reflecting steps, of `n_known` steps whose language the classifier knows
          (`n_known_chars` long);
        - `any_reflect`: whether there is any; `share_reflect`: n_reflect / n_known;
        - `reflect_per_1000_chars`, `reflect_per_1000_tokens`: of thinking; tokens are NaN where the
          source has none;
        - `longest_run`: most reflecting steps in a row; `n_episodes`: maximal runs; `revisits`:
          returns to reflecting after having gone on, max(n_episodes - 1, 0); `mean_gap`: mean
          number of steps between episodes;
        - `first_reflect`: position of the first reflecting step;
        - `n_judged`, `n_changed`: pairs of answers stated before and after reflecting, and those
          that differ.

        Everything is NaN for a trace without thinking, or with none in a known language; so are the
        last two in a light run, which holds no answers. Rates count the characters and tokens of
        steps of known language only.

    Raises:
        ValueError: if the step table lacks a column, or a trace id occurs twice.
    """
    needed = ["trace_id", "start", "stop", "position", "is_reflection"]
    need_steps_of_traces(steps, traces, needed)
    columns = _dynamics_columns(steps)
    rows = {}
    for trace_id, trace_columns in StepsByTrace.from_steps(steps).each(columns):
        rows[trace_id] = _trace_dynamics(trace_columns)
    dynamics = pd.DataFrame.from_dict(rows, orient="index", columns=_DYNAMICS).astype(float)

    # Columns of an earlier call are replaced.
    stale = [name for name in _DYNAMICS if name in traces]
    return traces.drop(columns=stale).merge(
        dynamics,
        left_on="trace_id",
        right_index=True,
        how="left",
    )


def _dynamics_columns(steps: pd.DataFrame) -> dict[str, np.ndarray]:
    """What `_trace_dynamics` reads of every step; not every source gives tokens and answers."""
    columns = {
        "is_known": steps["is_reflection"].notna().to_numpy(),
        "reflects": is_true(steps["is_reflection"]),
        "position": steps["position"].to_numpy(),
        "n_chars": (steps["stop"] - steps["start"]).to_numpy(float),
    }
    if "token_start" in steps:
        columns["n_tokens"] = (steps["token_stop"] - steps["token_start"]).to_numpy(float)
    if "answer" in steps:
        columns["answer"] = steps["answer"].fillna("").to_numpy(object)
    return columns


def _trace_dynamics(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The columns of `reflection_dynamics` for the steps of one trace."""
    is_known = columns["is_known"]
    if not is_known.any():
        return dict.fromkeys(_DYNAMICS, np.nan)

    # A step that is not known breaks a run.
    reflects = columns["reflects"]
    runs = _runs(reflects)
    lengths = [run.length for run in runs]
    gaps = [after.start - before.stop for before, after in pairwise(runs)]

    # What every trace has.
    n_known = is_known.sum()
    n_reflect = reflects.sum()
    n_chars = columns["n_chars"][is_known].sum()
    dynamics = {
        "n_known": n_known,
        "n_known_chars": n_chars,
        "n_reflect": n_reflect,
        "any_reflect": n_reflect > 0,
        "share_reflect": n_reflect / n_known,
        "longest_run": max(lengths, default=0),
        "n_episodes": len(runs),
        "revisits": max(len(runs) - 1, 0),
        "reflect_per_1000_chars": 1000 * n_reflect / n_chars,
    }
    if gaps:
        dynamics["mean_gap"] = sum(gaps) / len(gaps)
    if n_reflect:
        dynamics["first_reflect"] = columns["position"][reflects.argmax()]

    # Not every source gives tokens, and a light run holds no answers.
    if "n_tokens" in columns:
        n_tokens = columns["n_tokens"][is_known].sum()
        if n_tokens:
            dynamics["reflect_per_1000_tokens"] = 1000 * n_reflect / n_tokens
    if "answer" in columns:
        n_judged, n_changed = _count_changes(columns["answer"], runs)
        dynamics["n_judged"] = n_judged
        dynamics["n_changed"] = n_changed
    return dynamics


def _runs(flags: np.ndarray) -> list[Span]:
    """The maximal runs of true flags, as `group_runs` finds them, for an array."""
    changes = np.diff(flags.astype(np.int8), prepend=0, append=0)
    starts = np.flatnonzero(changes == 1).tolist()
    stops = np.flatnonzero(changes == -1).tolist()
    return list(map(Span, starts, stops))


def _count_changes(answers: np.ndarray, runs: Sequence[Span]) -> tuple[int, int]:
    """Pairs of answers around episodes, and how many of them differ.

    A pair is the last answer stated before an episode and the first from its start on. Several
    episodes between the same two statements are one pair.
    """
    places = np.flatnonzero(answers != "").tolist()
    pairs = set()
    for run in runs:
        # The first statement from the episode's start on, if there is one on either side.
        after = bisect_left(places, run.start)
        if 0 < after < len(places):
            pair = (places[after - 1], places[after])
            pairs.add(pair)

    n_changed = 0
    for before, after in pairs:
        n_changed += answers[before] != answers[after]
    return len(pairs), n_changed


def transitions(steps: pd.DataFrame) -> pd.DataFrame:
    """How often a step of one kind (row) is followed by one of another (column) in a trace.

    Steps of unknown kind take part in no transition, nor do those that rules decide on: rules name
    no kind but the reflective ones.

    Args:
        steps: a step table, in order.
    """
    need(steps, "trace_id", "kind", "p_reflect")
    names = [kind.value for kind in KINDS]
    kind_of = pd.Index(names).get_indexer(pd.Index(steps["kind"]))
    kind_of[steps["p_reflect"].isna().to_numpy()] = -1

    # Two steps after each other in one trace, both of a known kind.
    trace_of, _ = pd.factorize(steps["trace_id"])
    order = np.argsort(trace_of, kind="stable")
    kind_of = kind_of[order]
    is_pair = trace_of[order][1:] == trace_of[order][:-1]
    is_pair &= (kind_of[1:] >= 0) & (kind_of[:-1] >= 0)

    n_kinds = len(names)
    cells = kind_of[:-1][is_pair] * n_kinds + kind_of[1:][is_pair]
    counts = np.bincount(cells, minlength=n_kinds**2).reshape(n_kinds, n_kinds)
    return pd.DataFrame(
        counts,
        index=pd.Index(names, name="kind"),
        columns=pd.Index(names, name="next"),
    )


def reflection_estimates(dynamics: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """How much each group reflects, with 95% intervals over prompts.

    Args:
        dynamics: what `reflection_dynamics` returns.
        by: column of the group.

    Returns:
        One row per (group, measure): `steps_per_trace` is the mean number of reflecting steps,
        `per_1000_chars` is 1000 x all reflecting steps / all characters of steps of known language
        (long traces weigh more), `share_any` the share of traces with at least one; value, low,
        high, n (traces), n_prompts.
    """
    need(dynamics, by, "n_reflect", "n_known_chars", "any_reflect", "prompt_id")
    known = dynamics[dynamics["n_reflect"].notna()]
    need_known(known)

    def estimates(traces: pd.DataFrame) -> dict[str, stats.Estimate]:
        prompts = traces["prompt_id"]
        n_reflect = traces["n_reflect"]
        return {
            "steps_per_trace": stats.mean(n_reflect, prompts),
            "per_1000_chars": stats.ratio(1000 * n_reflect, traces["n_known_chars"], prompts),
            "share_any": stats.proportion(traces["any_reflect"], prompts),
        }

    return estimates_by(known, by, estimates)


def marker_agreement(steps: pd.DataFrame) -> pd.DataFrame:
    """How word lists and the classifier agree on which steps reflect.

    The lists are English, so steps that rules for other languages decide on do not count.

    Args:
        steps: a step table.

    Returns:
        One row per word list: list, n (steps that the classifier decides on), both,
        classifier_only, list_only (steps), kappa (Cohen's).
    """
    return agreement_of_counts(marker_counts(steps))


def marker_counts(steps: pd.DataFrame) -> pd.DataFrame:
    """The steps that a word list, the classifier, both or neither marks: they add up over tables.

    Args:
        steps: a step table.

    Returns:
        One row per word list, by its name: both, classifier_only, list_only, neither.
    """
    columns = [f"n_{name}" for name in WORD_LISTS]
    need(steps, "is_reflection", "p_reflect", *columns)
    known = steps[steps["p_reflect"].notna()]

    # Both detectors decide on every step: one table of 2 x 2 per word list.
    reflects = is_true(known["is_reflection"])
    rows = {}
    for name in WORD_LISTS:
        is_listed = known[f"n_{name}"].to_numpy() > 0
        rows[name] = {
            "both": (reflects & is_listed).sum(),
            "classifier_only": (reflects & ~is_listed).sum(),
            "list_only": (is_listed & ~reflects).sum(),
            "neither": (~reflects & ~is_listed).sum(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def agreement_of_counts(counts: pd.DataFrame) -> pd.DataFrame:
    """The table of `marker_agreement`, of the counts that `marker_counts` gives.

    Raises:
        ValueError: if no step was counted.
    """
    rows = []
    for name, both, classifier_only, list_only, neither in counts.itertuples():
        n_known = both + classifier_only + list_only + neither
        if not n_known:
            raise ValueError(NOTHING_KNOWN)
        cells = [
            [both, classifier_only],
            [list_only, neither],
        ]
        rows.append(
            {
                "list": name,
                "n": n_known,
                "both": both,
                "classifier_only": classifier_only,
                "list_only": list_only,
                "kappa": float(stats.cohens_kappa(cells)),
            }
        )
    return pd.DataFrame(rows)
