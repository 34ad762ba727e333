"""Training, update by update: from rollouts and from what TRL logged."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cotlens.studies.study import seed_of
from cotlens.trace import TraceError


def update_table(rollouts: pd.DataFrame, logs: Sequence[str | Path]) -> pd.DataFrame:
    """One row per (arm, seed, step): mean reward, share of groups all alike, and what the trainers logged.

    A group is what was sampled of one prompt in one update, of two rollouts with a reward or more.
    """
    keys = ["arm", "seed", "step"]
    groups = (
        rollouts.groupby([*keys, "prompt_id"])["reward"]
        .agg(["sum", "count", "min", "max"])
        .reset_index()
    )
    alike = (groups["max"] - groups["min"] < 1e-8).astype(float).where(groups["count"] > 1)
    found = (
        groups.assign(alike=alike)
        .groupby(keys)
        .agg(sum=("sum", "sum"), n=("count", "sum"), alike=("alike", "mean"))
    )
    table = pd.DataFrame(
        {"reward": found["sum"] / found["n"], "frac_reward_zero_std": found["alike"]}
    ).reset_index()
    logged = [
        read_updates(path).assign(arm=Path(path).name, seed=seed_of(Path(path))) for path in logs
    ]
    if not logged:
        return table
    of_logs = pd.concat(logged, ignore_index=True)
    if of_logs.duplicated(keys).any():
        row = of_logs[of_logs.duplicated(keys)].iloc[0]
        raise TraceError(
            f"two logs of arm {row['arm']}, seed {row['seed']}; give each trainer's folder once"
        )
    both = table.merge(of_logs, on=keys, how="outer", suffixes=("", "_logged"))
    for name in (
        "reward",
        "frac_reward_zero_std",
    ):  # of the rollouts where these have it, since a log may be of means
        both[name] = both[name].fillna(both.pop(f"{name}_logged"))
    return both


def read_updates(folder: str | Path) -> pd.DataFrame:
    """What TRL logged of each update of an RL arm, from the last checkpoint under the trainer's output folder.

    Returns:
        One row per line of the log: step (the number of updates the sampling model had, as of rollouts; a trainer that
        logs every k updates logs their mean, and step is the middle of them), reward, reward_std, entropy (nats, mean
        over sampled tokens), frac_reward_zero_std (share of groups whose rewards are all alike), kl_reference; missing
        if not logged.

    Raises:
        TraceError: if there is no checkpoint, or it logs no rewards.
    """
    found = {
        path.parent.name.rpartition("-")[2]: path
        for path in Path(folder).glob("checkpoint-*/trainer_state.json")
    }
    states = {int(number): path for number, path in found.items() if number.isdecimal()}
    if not states:
        raise TraceError(
            f"{folder}: no checkpoint-*/trainer_state.json; expected the output_dir of a TRL trainer"
        )
    newest = states[max(states)]
    try:
        log = [
            row
            for row in json.loads(newest.read_text(encoding="utf-8"))["log_history"]
            if "reward" in row
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(
            f"{newest}: not a trainer's state ({error!r}); was the checkpoint cut off?"
        ) from None
    if not log:
        raise TraceError(f"{newest}: logs no rewards; expected the output_dir of an RL trainer")
    # TRL counts an update when it is done; a rollout's step is the number of updates before it.
    before = [0, *(row["step"] for row in log[:-1])]
    steps = [
        row["step"] - (row["step"] - last + 1) / 2 for row, last in zip(log, before, strict=True)
    ]
    return pd.DataFrame(
        [
            {"step": step, **{name: row.get(name) for name in _LOGGED}}
            for step, row in zip(steps, log, strict=True)
        ]
    )


_LOGGED = ("reward", "reward_std", "entropy", "frac_reward_zero_std", "kl_reference")
