"""How often, where and in what runs traces reflect, from the kinds of their steps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.detect.reflect import KINDS
from cotlens.detect.words import WORD_LISTS
from cotlens.measures.groups import estimates_by, need, need_known
from cotlens.text.steps import group_runs
from cotlens.trace import Span


# --- dynamics --------------------------------------------------------------------------------------------------
def reflection_dynamics(steps: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """One row per trace: how much it reflects, how deeply, and where.

    Args:
        steps: a step table.
        traces: the trace table it belongs to; its columns come back in front.

    Returns:
        The trace table with, for each trace,

        - `n_reflect`: reflecting steps, of `n_known` steps whose language the classifier knows (`n_known_chars` long);
        - `any_reflect`: whether there is any; `share_reflect`: n_reflect / n_known;
        - `reflect_per_1000_chars`, `reflect_per_1000_tokens`: of thinking; tokens are NaN where the source has none;
        - `longest_run`: most reflecting steps in a row; `n_episodes`: maximal runs; `revisits`: returns to reflecting
          after having gone on, max(n_episodes - 1, 0); `mean_gap`: mean number of steps between episodes;
        - `first_reflect`: position of the first reflecting step;
        - `n_judged`, `n_changed`: pairs of answers stated before and after reflecting, and those that differ.

        Everything is NaN for a trace without thinking, or none in a known language; so are the last two in a light run,
        which holds no answers. Rates count the characters and tokens of steps of known language only.
    """
    missing = {"trace_id", "start", "stop", "position", "is_reflection"} - set(steps)
    if missing:
        raise ValueError(
            f"the step table has no {', '.join(sorted(missing))}; analyze the traces again"
        )
    if traces["trace_id"].duplicated().any():
        raise ValueError(
            "a trace id occurs twice: ids are unique within a run, so join the tables run by run"
        )
    traces = traces.drop(columns=[name for name in (*_DYNAMICS, *_RATES) if name in traces])
    ordered = steps.sort_values(["trace_id", "step"]) if "step" in steps else steps
    rows = {key: _trace_dynamics(part) for key, part in ordered.groupby("trace_id", sort=False)}
    found = pd.DataFrame.from_dict(rows, orient="index", columns=[*_DYNAMICS, *_RATES]).astype(
        float
    )
    return traces.merge(found, left_on="trace_id", right_index=True, how="left")


_RATES = ("reflect_per_1000_chars", "reflect_per_1000_tokens")
_DYNAMICS = (
    "n_known", "n_known_chars", "n_reflect", "any_reflect", "share_reflect", "longest_run", "n_episodes", "revisits",
    "mean_gap", "first_reflect", "n_judged", "n_changed",
)  # fmt: skip


def _trace_dynamics(part: pd.DataFrame) -> list[Any]:
    known = part["is_reflection"].notna().to_numpy()
    if not known.any():
        return [np.nan] * (len(_DYNAMICS) + len(_RATES))
    flags = part["is_reflection"].eq(True).to_numpy()  # a step of unknown language breaks a run
    runs = group_runs(flags.tolist())
    gaps = [b.start - a.stop for a, b in pairwise(runs)]
    judged, changed = (
        _changes(part["answer"].fillna("").tolist(), runs) if "answer" in part else (np.nan, np.nan)
    )
    chars = (part["stop"] - part["start"]).to_numpy(float)[known].sum()
    tokens = np.nan
    if "token_start" in part:
        tokens = (part["token_stop"] - part["token_start"]).to_numpy(float)[known].sum()
    return [
        known.sum(),
        chars,
        flags.sum(),
        float(flags.any()),
        flags.sum() / known.sum(),
        max((run.length for run in runs), default=0),
        len(runs),
        max(len(runs) - 1, 0),
        float(np.mean(gaps)) if gaps else np.nan,
        part["position"].to_numpy()[flags.argmax()] if flags.any() else np.nan,
        judged,
        changed,
        1000 * flags.sum() / chars,
        1000 * flags.sum() / tokens if tokens else np.nan,
    ]


def _changes(answers: Sequence[str], runs: Sequence[Span]) -> tuple[int, int]:
    """Pairs of answers, one stated before an episode and the next from its start on, and how many of them differ.

    Several episodes between the same two statements are one pair.
    """
    places = [i for i, answer in enumerate(answers) if answer]
    pairs = set()
    for run in runs:
        before, after = [i for i in places if i < run.start], [i for i in places if i >= run.start]
        if before and after:
            pairs.add((before[-1], after[0]))
    return len(pairs), sum(answers[i] != answers[j] for i, j in pairs)


def transitions(steps: pd.DataFrame) -> pd.DataFrame:
    """How often a step of one kind (row) is followed by one of another (column) in a trace; unknown kinds break it."""
    following = steps.groupby("trace_id", sort=False)["kind"].shift(-1)
    pairs = pd.DataFrame({"kind": steps["kind"], "next": following})
    pairs = pairs[(pairs["kind"] != "") & (pairs["next"].fillna("") != "")]
    names = [kind.value for kind in KINDS]
    return pd.crosstab(pairs["kind"], pairs["next"]).reindex(
        index=names, columns=names, fill_value=0
    )


def reflection_estimates(dynamics: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """How much each group reflects, with 95% intervals over prompts.

    Args:
        dynamics: what `reflection_dynamics` returns.
        by: column of the group.

    Returns:
        One row per (group, measure): `steps_per_trace` is the mean number of reflecting steps, `per_1000_chars` is
        1000 x all reflecting steps / all characters of steps of known language (long traces weigh more), `share_any`
        the share of traces with at least one; value, low, high, n (traces), n_prompts.
    """
    need(dynamics, by, "n_reflect", "n_known_chars", "any_reflect", "prompt_id")
    known = dynamics[dynamics["n_reflect"].notna()]
    need_known(known)

    def estimates(part: pd.DataFrame) -> dict[str, stats.Estimate]:
        prompts = part["prompt_id"]
        return {
            "steps_per_trace": stats.mean(part["n_reflect"], prompts),
            "per_1000_chars": stats.ratio(1000 * part["n_reflect"], part["n_known_chars"], prompts),
            "share_any": stats.proportion(part["any_reflect"], prompts),
        }

    return estimates_by(known, by, estimates)


def marker_agreement(steps: pd.DataFrame) -> pd.DataFrame:
    """How word lists and the classifier agree on which steps reflect.

    Returns:
        One row per word list: n (steps of known language), both, classifier_only, list_only (steps), kappa (Cohen's).
    """
    need(steps, "is_reflection", *(f"n_{name}" for name in WORD_LISTS))
    known = steps[steps["is_reflection"].notna()]
    need_known(known)
    decided, rows = known["is_reflection"].to_numpy(bool), []
    for name in WORD_LISTS:
        listed = known[f"n_{name}"].to_numpy() > 0
        n = len(known)
        both, alone, only_list = (
            (decided & listed).sum(),
            (decided & ~listed).sum(),
            (listed & ~decided).sum(),
        )
        chance = decided.mean() * listed.mean() + (1 - decided.mean()) * (1 - listed.mean())
        agreed = (decided == listed).mean()
        kappa = (agreed - chance) / (1 - chance) if chance < 1 else np.nan
        rows.append(
            {
                "list": name,
                "n": n,
                "both": both,
                "classifier_only": alone,
                "list_only": only_list,
                "kappa": kappa,
            }
        )
    return pd.DataFrame(rows)
