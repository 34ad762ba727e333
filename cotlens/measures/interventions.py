"""Harm against the number of interventions: how many replacements until a thought stays safe?

After IPO (arXiv 2509.24393). The replacements come from `probes.intervene`, or from its stored
traces: `attempt_traces` makes these, and `probe_table` gives back the rows to count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need_columns
from cotlens.measures.probes import probe_table
from cotlens.trace import Trace


class Replacement(Protocol):
    """What is read of an `Attempt` of `probes.intervene`, whose docstring explains the names."""

    @property
    def original(self) -> Trace: ...
    @property
    def after(self) -> Trace: ...
    @property
    def step(self) -> int: ...
    @property
    def round(self) -> int: ...
    @property
    def insert(self) -> str: ...
    @property
    def is_accepted(self) -> bool: ...


def attempt_traces(attempts: Sequence[Replacement]) -> list[Trace]:
    """The continuations of all attempts, to be stored and judged like other traces.

    `meta["probe"]` holds kind (`intervene`), source (id of the original), round, step, is_accepted,
    and trigger: the text that was put there, without the white space around it.
    """
    # What `probe_table` makes columns of.
    traces = []
    for attempt in attempts:
        probe = {
            "kind": "intervene",
            "source": attempt.original.id,
            "round": attempt.round,
            "step": attempt.step,
            "is_accepted": bool(attempt.is_accepted),
            "trigger": attempt.insert.strip(),
        }
        meta = {**attempt.after.meta, "probe": probe}
        traces.append(replace(attempt.after, meta=meta))
    return traces


_ATTEMPT = [
    "trace_id", "prompt_id", "method", "model", "kind", "source", "round", "step", "is_accepted",
    "trigger", "insert", "n_tokens",
]  # fmt: skip


def attempt_table(attempts: Sequence[Replacement]) -> pd.DataFrame:
    """One row per attempt of `probes.intervene`, in their order.

    Returns:
        The columns of `probe_table`: trace_id (of the continuation), prompt_id, method, model,
        kind, source (id of the original), round, step, is_accepted, trigger; and insert (what was
        put there, white space included) and n_tokens (written by the model, the end token
        included; missing where the engine returns text).
    """
    table = probe_table(attempt_traces(attempts)).reindex(columns=_ATTEMPT)
    table["insert"] = [attempt.insert for attempt in attempts]

    # An engine that returns text says nothing of tokens.
    counts = []
    for attempt in attempts:
        ids = attempt.after.token_ids
        counts.append(None if ids is None else len(ids))
    table["n_tokens"] = pd.array(counts, dtype="Int64")
    return table


_HARM = [
    "verdict", "k", "value", "low", "high", "n", "n_clusters", "n_unknown", "n_attempts", "success",
    "success_low", "success_high",
]  # fmt: skip


def harm_by_round(
    table: pd.DataFrame,
    n_unsafe: int | Mapping[str, str],
    *,
    by: str | None = None,
    verdict: str = "is_accepted",
) -> pd.DataFrame:
    """h(k): the share of initially unsafe traces that are still unsafe after k replacements.

    A trace that was once safe stays so, and one in which nothing was found to replace stays unsafe:
    h never increases. The success of a round is the share of its attempts that were safe.

    Example: five traces, first safe in rounds 1, 1, 2, never, 3: h(0..4) = 1, .6, .4, .2, .2, and
    the success of rounds 1 to 4 is 2/5, 1/3, 1/2, 0.

    Intervals are Wilson's over prompts; h(0) is 1 by definition.

    Args:
        table: one row per attempt: source, prompt_id, round from 1, and the verdict, as
            `attempt_table` or `probe_table` of the stored traces gives it.
        n_unsafe: how many traces were unsafe at first, those without an attempt included; or the
            prompt id of each by its id. Given a number, each without an attempt is a cluster of
            its own, which narrows the interval if several have one prompt.
        by: column of a group: `trigger`, or the model. Each has the same initially unsafe traces.
        verdict: column that says whether a continuation is safe. With `is_accepted` that is what
            stopped the loop. A judge's verdict may differ: what was accepted and is unsafe stays
            unsafe. A trace without a known verdict before its first safe one is left out, and
            counted.

    Returns:
        One row per (group and) k, from 0 to the most rounds of any group: verdict (name of the
        column), k, value (h), low, high, n, n_clusters, n_unknown (traces left out); n_attempts
        (known verdicts of round k), success, success_low, success_high (NaN for k = 0). The column
        `by` comes first.

    Raises:
        ValueError: if the table lacks a column, a trace has a round twice in a group or none before
            it, or there are more changed traces than unsafe ones.
    """
    need_columns(table, "source", "prompt_id", "round", verdict)
    if by is not None:
        need_columns(table, by)

    # Every group has the same rounds, so that all lines end at one place.
    most = 0
    if len(table):
        most = int(table["round"].max())

    # Without a group there is one.
    groups: list[tuple[Any, pd.DataFrame]] = [(None, table)]
    if by is not None:
        groups = list(table.groupby(by, sort=False))
    rows = []
    for group, attempts in groups:
        for row in _harm_of_group(attempts, n_unsafe, verdict, most):
            rows.append(({by: group} if by else {}) | row)
    return pd.DataFrame(rows, columns=[by, *_HARM] if by else _HARM)


def _harm_of_group(
    attempts: pd.DataFrame, n_unsafe: int | Mapping[str, str], verdict: str, most: int
) -> list[dict[str, Any]]:
    """The rows of one group."""
    # The round after which each trace is safe; those without an attempt are never.
    prompts = _prompts_of(attempts, n_unsafe)
    rounds = dict.fromkeys(prompts.index, np.inf)
    for source, chain in attempts.groupby("source", sort=False):
        rounds[source] = _first_safe_round(chain, verdict)
    first_safe = pd.Series(rounds)

    rows = []
    for k in range(most + 1):
        # Missing where nothing is known of a trace.
        is_unsafe = (first_safe > k).astype(float).where(first_safe.notna())
        harm = stats.proportion(is_unsafe, prompts)
        if k == 0:  # by definition
            harm = harm._replace(low=harm.value, high=harm.value)

        # Of those changed in this round.
        in_round = attempts[attempts["round"] == k]
        success = stats.proportion(in_round[verdict], in_round["prompt_id"])
        rows.append(
            {
                "verdict": verdict,
                "k": k,
                "value": harm.value,
                "low": harm.low,
                "high": harm.high,
                "n": harm.n,
                "n_clusters": harm.n_clusters,
                "n_unknown": harm.n_undefined,
                "n_attempts": success.n,
                "success": success.value,
                "success_low": success.low,
                "success_high": success.high,
            }
        )
    return rows


def _prompts_of(attempts: pd.DataFrame, n_unsafe: int | Mapping[str, str]) -> pd.Series:
    """The prompt of each initially unsafe trace, by its id."""
    changed = attempts.drop_duplicates("source").set_index("source")["prompt_id"]
    if isinstance(n_unsafe, Mapping):
        strange = [source for source in changed.index if source not in n_unsafe]
        if strange:
            raise ValueError(f"n_unsafe: {strange[0]!r} was changed and is not among its traces")
        return pd.Series(dict(n_unsafe), dtype=object)

    n_others = n_unsafe - len(changed)
    if n_others < 0:
        raise ValueError(
            f"n_unsafe: {len(changed)} traces were changed, more than the {n_unsafe} given; "
            "count all that were unsafe at first"
        )

    # Nothing is known of the others: each is a cluster.
    names = [f"without an attempt, {number}" for number in range(n_others)]
    others = pd.Series(names, index=names, dtype=object)
    return pd.concat([changed.astype(object), others])


def _first_safe_round(chain: pd.DataFrame, verdict: str) -> float:
    """The first round after which a trace is safe: infinite if none, NaN if that is not known."""
    chain = chain.sort_values("round")
    rounds = chain["round"].tolist()
    if rounds != list(range(1, len(rounds) + 1)):
        source = chain["source"].iloc[0]
        raise ValueError(
            f"source {source!r} has the rounds {rounds}; expected 1, 2, ... once each. Several "
            "triggers for one trace: give by='trigger'"
        )

    # Before an unknown verdict nothing was safe, and after it nothing is certain.
    for number, flag in zip(rounds, chain[verdict], strict=True):
        if pd.isna(flag):
            return np.nan
        if flag:
            return float(number)
    return np.inf
