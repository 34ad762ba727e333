"""Training, update by update: from rollouts, and from what TRL logged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cotlens.studies.study import seed_of
from cotlens.trace import TraceError

LOGGED = ("reward", "reward_std", "entropy", "frac_reward_zero_std", "kl_reference")
UPDATE_KEYS = ["arm", "seed", "step"]
ALIKE = 1e-8  # rewards closer than this are equal


def update_table(rollouts: pd.DataFrame, logs: Sequence[str | Path]) -> pd.DataFrame:
    """One row per (arm, seed, step): mean reward, share of groups all alike, and TRL's log.

    A group is what was sampled for one prompt in one update; groups of a single rewarded rollout
    have no share. Where rollouts have rewards these are used, since a trainer that logs every k
    updates logs means.

    Args:
        rollouts: arm, seed, step, prompt_id and reward.
        logs: output folders of the RL trainers, each named as its arm.

    Raises:
        TraceError: if two logs are of the same arm, seed and step.
    """
    updates = _summarise_rewards(rollouts)
    if not logs:
        return updates

    tables = []
    for path in map(Path, logs):
        tables.append(read_updates(path).assign(arm=path.name, seed=seed_of(path)))
    logged = pd.concat(tables, ignore_index=True)
    repeated = logged[logged.duplicated(UPDATE_KEYS)]
    if len(repeated):
        row = repeated.iloc[0]
        raise TraceError(
            f"two logs of arm {row['arm']}, seed {row['seed']}; give each trainer's folder once"
        )

    joined = updates.merge(logged, on=UPDATE_KEYS, how="outer", suffixes=("", "_logged"))
    for name in ("reward", "frac_reward_zero_std"):
        joined[name] = joined[name].fillna(joined.pop(f"{name}_logged"))
    return joined


def _summarise_rewards(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Mean reward and share of groups all alike by update."""
    rewards = rollouts.groupby([*UPDATE_KEYS, "prompt_id"])["reward"]
    groups = rewards.agg(["sum", "count", "min", "max"]).reset_index()
    is_alike = groups["max"] - groups["min"] < ALIKE
    groups["alike"] = is_alike.astype(float).where(groups["count"] > 1)

    updates = groups.groupby(UPDATE_KEYS).agg(
        sum=("sum", "sum"), n=("count", "sum"), alike=("alike", "mean")
    )
    columns = {"reward": updates["sum"] / updates["n"], "frac_reward_zero_std": updates["alike"]}
    return pd.DataFrame(columns).reset_index()


def read_updates(folder: str | Path) -> pd.DataFrame:
    """What TRL logged of each update of an RL arm, from its last checkpoint.

    Returns:
        One row per line of the log: step, the number of updates the sampling model had had, as for
        rollouts (a trainer
        that logs every k updates logs their mean, and step is the middle of them); reward;
        reward_std; entropy (nats, mean over sampled tokens); frac_reward_zero_std (share of groups
        whose rewards are all alike); kl_reference. Missing where not logged.

    Raises:
        TraceError: if there is no checkpoint, or it logs no rewards.
    """
    path = _newest_state(Path(folder))
    try:
        history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        log = [row for row in history if "reward" in row]
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(
            f"{path}: not a trainer's state ({error!r}); was the checkpoint cut off?"
        ) from None
    if not log:
        raise TraceError(f"{path}: logs no rewards; expected the output_dir of an RL trainer")

    # TRL counts an update when it is done; a rollout's step is the number of updates before it.
    rows: list[dict[str, Any]] = []
    last = 0
    for row in log:
        middle = row["step"] - (row["step"] - last + 1) / 2
        rows.append({"step": middle} | {name: row.get(name) for name in LOGGED})
        last = row["step"]
    return pd.DataFrame(rows)


def _newest_state(folder: Path) -> Path:
    """The trainer_state.json of the checkpoint with the highest number."""
    states = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        number = path.parent.name.rpartition("-")[2]
        if number.isdecimal():
            states[int(number)] = path
    if not states:
        raise TraceError(
            f"{folder}: no checkpoint-*/trainer_state.json; expected the output_dir of a TRL "
            "trainer"
        )
    return states[max(states)]
