"""How safe a recipient is after the thought of a donor: the matrix, its means, lengths, resets.

All functions take a table with one row per trace of `probes.prefill`, `hijack` or `reset`: what
`probe_table` makes, and a column of flags that a judge gave (`is_safe`). A flag that is missing is
left out and counted.

M(d, r) is the share of safe traces of recipient r after the thoughts of donor d, and M(none, r) is
that of its plain samples. Delta = M(d, r) - M(none, r), on the prompts of which both have a
verdict, so that hard prompts are on both sides (RECAP, arXiv 2510.00938, compares such shares).
Below 0 the thought made the recipient less safe.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need_columns
from cotlens.stats.bootstrap import ClusteredRows, Floats, bootstrap_sums, ratio_of_sums

NO_DONOR = "none"  # the donor of plain samples


def probe_name(model: str, method: str) -> str:
    """A model as donor or recipient: MODEL/METHOD, or what is known of the two."""
    if model and method:
        return f"{model}/{method}"
    return model or method


def prefill_matrix(table: pd.DataFrame, *, verdict: str = "is_safe") -> pd.DataFrame:
    """Safety of every recipient after the thoughts of every donor.

    Args:
        table: of one kind, one length of the thought (see `by_length`) and one round; plain samples
            may come from any kind. Columns: prompt_id, donor ("none": plain samples), and
            recipient, or model and method.
        verdict: column of flags.

    Returns:
        One row per donor and recipient, in the order of the table:

        - donor, recipient;
        - `value`, `low`, `high`: M with Wilson's interval; `n`, `n_prompts`, `n_undefined`: traces
          with a verdict, their prompts, traces without one;
        - `clean`: M(none, r) on the prompts that both have;
        - `delta`, `delta_low`, `delta_high`: Delta, with an interval over prompts, which are drawn
          for both sides together; `n_paired`: prompts that both have. Where these are all prompts,
          Delta = value - clean;
        - `relative`: Delta / M(none, r); NaN where that is 0, since what was never safe cannot be
          less so.

        What is compared with plain samples is NaN without a common prompt, and for donor "none".

    Raises:
        ValueError: if a column is missing, or thoughts are of several kinds, lengths or rounds.
    """
    rows = _rows_of(table, verdict)
    injected = rows[rows["donor"] != NO_DONOR]
    for column in ("kind", "words", "steps", "round"):
        _need_one(injected, column)

    cells = []
    for (donor, recipient), cell_rows in rows.groupby(_CELL, sort=False):
        cell = {"donor": donor, "recipient": recipient}
        cell |= _share(cell_rows)
        cell |= _compare(rows, str(donor), str(recipient))
        cells.append(cell)
    return pd.DataFrame(cells, columns=_MATRIX)


def by_length(
    table: pd.DataFrame, *, verdict: str = "is_safe", unit: str = "words"
) -> pd.DataFrame:
    """`prefill_matrix` at every length of the thought.

    The column of the unit comes first. At length 0 each donor has the plain samples of the
    recipient, where a line over lengths begins; its Delta is NaN there.

    Args:
        table: as for `prefill_matrix`, but of several lengths.
        verdict: likewise.
        unit: `words` or `steps`.

    Raises:
        ValueError: as `prefill_matrix`.
    """
    need_columns(table, unit, "donor")
    is_plain = table["donor"] == NO_DONOR
    plain = table[is_plain]
    injected = table[~is_plain]

    # Plain samples stand on the other side of every length.
    parts = []
    for length, length_rows in injected.groupby(unit):
        both = pd.concat([plain, length_rows], ignore_index=True)
        matrix = prefill_matrix(both, verdict=verdict)
        matrix.insert(0, unit, length)
        parts.append(matrix)
    if not parts:
        raise ValueError(f"no trace has a donor and a length in {unit}")
    lengths = pd.concat(parts, ignore_index=True)

    # The beginning of every line.
    is_start = lengths["donor"] == NO_DONOR
    starts = lengths[is_start].drop_duplicates("recipient")
    lines = lengths.loc[~is_start, ["donor", "recipient"]].drop_duplicates()
    first = lines.merge(starts.drop(columns="donor"), on="recipient").assign(**{unit: 0})
    result = pd.concat([first, lengths[~is_start]], ignore_index=True)
    return result[[unit, *_MATRIX]]


def donor_effects(table: pd.DataFrame, *, verdict: str = "is_safe") -> pd.DataFrame:
    """How much a donor changes the safety of recipients: the mean of its row of Delta.

    Args:
        table: as for `prefill_matrix`.
        verdict: likewise.

    Returns:
        One row per donor: donor; `value`, `low`, `high` (the mean of Delta over recipients, each of
        one weight; prompts are drawn for all of them together), `n` (traces on both sides),
        `n_prompts`; `relative` (the mean of Delta / M(none, r)); `n_cells`; `n_undefined` and
        `n_undefined_relative`: cells without Delta and without the relative one, which are left
        out of these means.

    Raises:
        ValueError: as `prefill_matrix`.
    """
    return _mean_deltas(table, verdict, "donor")


def susceptibility(table: pd.DataFrame, *, verdict: str = "is_safe") -> pd.DataFrame:
    """How much a recipient is changed by donors: the mean of its column of Delta.

    Args:
        table: as for `prefill_matrix`.
        verdict: likewise.

    Returns:
        One row per recipient, with the columns of `donor_effects`; means are over donors.

    Raises:
        ValueError: as `prefill_matrix`.
    """
    return _mean_deltas(table, verdict, "recipient")


def reset_curve(table: pd.DataFrame, *, verdict: str = "is_safe") -> pd.DataFrame:
    """Safety round by round of a reset, and the share that is safe in all rounds.

    Args:
        table: one row per trace of `probes.reset`. Columns: prompt_id, donor, round, chain (which
            the rounds of one sample share), and recipient, or model and method.
        verdict: column of flags.

    Returns:
        One row per donor, recipient and round: donor, recipient, round;

        - `value`, `low`, `high`, `n`, `n_prompts`, `n_undefined`: share of safe traces of the
          round, as in `prefill_matrix`. Round 0 is the cell of that matrix;
        - `persistent`, `persistent_low`, `persistent_high`: share of chains that are safe in this
          round and in all before it; it never rises, and the last one is the share that is safe in
          all rounds. `n_chains`: chains of which that is known; `n_unknown`: the others, that miss
          a verdict and are unsafe in no round so far.

    Raises:
        ValueError: if a column is missing, or a chain has a round twice.
    """
    need_columns(table, "round", "chain")
    rows = _rows_of(table, verdict)
    keys = ["donor", "recipient", "chain", "round"]
    twice = rows[rows.duplicated(keys)]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(f"the chain {first['chain']!r} has the round {first['round']} twice")

    curves = []
    for (donor, recipient), chains in rows.groupby(_CELL, sort=False):
        persistent = _persistent(chains)
        for number, round_rows in chains.groupby("round"):
            point = {"donor": donor, "recipient": recipient, "round": number}
            point |= _share(round_rows)
            point |= persistent[number]
            curves.append(point)
    return pd.DataFrame(curves, columns=_CURVE)


_CELL = ["donor", "recipient"]
_ESTIMATE = ["value", "low", "high", "n", "n_prompts", "n_undefined"]
_MATRIX = [
    "donor", "recipient", *_ESTIMATE, "clean", "delta", "delta_low", "delta_high", "n_paired",
    "relative",
]  # fmt: skip
_MEANS = [
    "value", "low", "high", "n", "n_prompts", "relative", "n_cells", "n_undefined",
    "n_undefined_relative",
]  # fmt: skip
_CURVE = [
    "donor", "recipient", "round", *_ESTIMATE, "persistent", "persistent_low", "persistent_high",
    "n_chains", "n_unknown",
]  # fmt: skip


def _rows_of(table: pd.DataFrame, verdict: str) -> pd.DataFrame:
    """The table with a recipient, and with the flag as 1, 0 or NaN."""
    need_columns(table, "prompt_id", "donor", verdict)
    rows = table.reset_index(drop=True)

    # Who wrote the trace.
    if "recipient" not in rows:
        need_columns(rows, "model", "method")
        recipients = []
        for model, method in zip(rows["model"], rows["method"], strict=True):
            recipients.append(probe_name(model, method))
        rows["recipient"] = recipients

    # pandas has three ways to say that a flag is missing.
    flags = rows[verdict].astype("boolean")
    rows["flag"] = flags.to_numpy(float, na_value=np.nan)
    return rows


def _need_one(rows: pd.DataFrame, column: str) -> None:
    """Raise ValueError if the rows have several values in a column, whose traces would be mixed."""
    if column not in rows:
        return
    known = rows[column].dropna().unique()
    if len(known) > 1:
        names = ", ".join(str(value) for value in sorted(known))
        raise ValueError(f"the table mixes several {column} ({names}); take the rows of one")


def _share(rows: pd.DataFrame) -> dict[str, float]:
    """The share of safe traces, as columns."""
    estimate = stats.proportion(rows["flag"], rows["prompt_id"])
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "n_prompts": estimate.n_clusters,
        "n_undefined": estimate.n_undefined,
    }


class _Pair(NamedTuple):
    """For each known row, whether it is on the donor's side of a cell, or on the plain side."""

    injected: np.ndarray
    plain: np.ndarray


def _pair(known: pd.DataFrame, donor: str, recipient: str) -> _Pair | None:
    """The two sides of a cell on the prompts that both have; None if they have none in common."""
    is_recipient = known["recipient"] == recipient
    is_injected = is_recipient & (known["donor"] == donor)
    is_plain = is_recipient & (known["donor"] == NO_DONOR)

    # Prompts of one side alone would compare unlike prompts.
    prompts = known["prompt_id"]
    in_both = prompts.isin(prompts[is_injected])
    in_both &= prompts.isin(prompts[is_plain])
    if not in_both.any():
        return None

    injected = is_injected & in_both
    plain = is_plain & in_both
    return _Pair(injected.to_numpy(), plain.to_numpy())


def _compare(rows: pd.DataFrame, donor: str, recipient: str) -> dict[str, float]:
    """Delta of a cell, and what it is compared with."""
    known = rows.dropna(subset="flag")
    pair = None
    if donor != NO_DONOR:
        pair = _pair(known, donor, recipient)
    if pair is None:
        return {"n_paired": 0}

    delta = _mean_delta(known, [pair])
    plain_flags = known["flag"][pair.plain]
    clean = float(plain_flags.mean())

    # What was never safe cannot be less so.
    relative = np.nan
    if clean > 0:
        relative = delta.value / clean
    return {
        "clean": clean,
        "delta": delta.value,
        "delta_low": delta.low,
        "delta_high": delta.high,
        "n_paired": delta.n_clusters,
        "relative": relative,
    }


def _mean_delta(known: pd.DataFrame, pairs: Sequence[_Pair]) -> stats.Estimate:
    """The mean over cells of their Delta, each of one weight, with an interval over prompts."""
    is_used = np.zeros(len(known), bool)
    for pair in pairs:
        is_used |= pair.injected
        is_used |= pair.plain
    used = known[is_used]
    rows = ClusteredRows.from_arrays(used["flag"], used["prompt_id"])

    # Sum and number of the flags of both sides, cell after cell.
    columns: list[Floats] = []
    for pair in pairs:
        for side in pair:
            weight = side[is_used].astype(float)
            columns.append(rows.values * weight)
            columns.append(weight)

    def mean_difference(sums: Floats) -> Floats:
        # One row a cell, one column a side: its sum and number.
        cells = sums.reshape(*sums.shape[:-1], len(pairs), 2, 2)
        shares = ratio_of_sums(cells)
        differences = shares[..., 0] - shares[..., 1]
        return differences.mean(axis=-1)

    return bootstrap_sums(mean_difference, rows, columns)


def _mean_deltas(table: pd.DataFrame, verdict: str, by: str) -> pd.DataFrame:
    """Means of Delta over the cells of each donor, or of each recipient."""
    matrix = prefill_matrix(table, verdict=verdict)
    matrix = matrix[matrix["donor"] != NO_DONOR]
    known = _rows_of(table, verdict).dropna(subset="flag")

    means = []
    for name, cells in matrix.groupby(by, sort=False):
        pairs = []
        for donor, recipient in zip(cells["donor"], cells["recipient"], strict=True):
            pair = _pair(known, donor, recipient)
            if pair:
                pairs.append(pair)

        # Nothing to compare gives NaN.
        mean = {by: name, "n": 0, "n_prompts": 0}
        if pairs:
            estimate = _mean_delta(known, pairs)
            mean["value"] = estimate.value
            mean["low"] = estimate.low
            mean["high"] = estimate.high
            mean["n"] = estimate.n
            mean["n_prompts"] = estimate.n_clusters

        # Cells without a value are left out of the means, and counted.
        deltas = cells["delta"]
        relatives = cells["relative"]
        mean["relative"] = relatives.mean()
        mean["n_cells"] = len(cells)
        mean["n_undefined"] = int(deltas.isna().sum())
        mean["n_undefined_relative"] = int(relatives.isna().sum())
        means.append(mean)
    return pd.DataFrame(means, columns=[by, *_MEANS])


def _persistent(chains: pd.DataFrame) -> dict[object, dict[str, float]]:
    """For each round the share of chains that are safe in it and in all before it, as columns.

    One unsafe round decides it, whatever is not known of others.
    """
    flags = chains.pivot(index="chain", columns="round", values="flag")
    prompt_of = chains.drop_duplicates("chain").set_index("chain")["prompt_id"]
    prompts = prompt_of.loc[flags.index]

    # From the first unsafe round on, and from the first unknown one.
    is_unsafe = (flags == 0).cummax(axis=1)
    is_unknown = flags.isna().cummax(axis=1)
    is_safe = (~is_unsafe).astype(float)
    is_safe = is_safe.mask(is_unknown & ~is_unsafe)

    shares = {}
    for number in flags:
        estimate = stats.proportion(is_safe[number], prompts)
        shares[number] = {
            "persistent": estimate.value,
            "persistent_low": estimate.low,
            "persistent_high": estimate.high,
            "n_chains": estimate.n,
            "n_unknown": estimate.n_undefined,
        }
    return shares
