"""Does training on success alone move safety? What the reference's own samples predict.

After "RLVR maintains safety guardrails" (arXiv 2511.21050): with a verifiable reward g in {0, 1}
and a KL penalty of weight beta, the best policy is the reference tilted by e^{g/beta}. Then safety
moves by the covariance of success and safety *within* a prompt: not at all where they are
uncorrelated. The identity for a binary reward is this project's; the theorem is of the prompts
trained on, and says nothing of others.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need
from cotlens.stats.bootstrap import Estimate


class Drift(NamedTuple):
    """What tilting a distribution of samples by e^{success/beta} does.

    Attributes:
        success: share of successes before.
        success_after: and after.
        safety: share of safe samples before.
        safety_after: and after.
        drift: safety_after - safety.
        kl: KL(after || before), nats.
        bound: sqrt(kl / 2), which |drift| cannot exceed (Pinsker).
    """

    success: float
    success_after: float
    safety: float
    safety_after: float
    drift: float
    kl: float
    bound: float


def tilted_drift(
    success: Sequence[float],
    safety: Sequence[float],
    beta: float,
    mass: Sequence[float] | None = None,
) -> Drift:
    """The exact drift of a distribution over samples of one prompt.

    Args:
        success: 0 or 1 for each sample.
        safety: a number from 0 to 1 for each sample.
        beta: weight of the KL penalty, above 0.
        mass: probability of each sample; None: all alike.

    Raises:
        ValueError: if the arguments do not fit together, or beta is not above 0.
    """
    rewards = np.asarray(success, float)
    safe = np.asarray(safety, float)
    before = np.ones(len(rewards)) if mass is None else np.asarray(mass, float)
    if not len(rewards) == len(safe) == len(before) > 0:
        raise ValueError(
            f"drift: expected as many successes, safeties and masses, at least one; "
            f"got {len(rewards)}, {len(safe)} and {len(before)}"
        )
    if not beta > 0:
        raise ValueError(f"drift: expected a beta above 0, got {beta:g}")

    # The largest exponent is taken off, so that a small beta does not overflow.
    before = before / before.sum()
    weights = before * np.exp((rewards - rewards.max()) / beta)
    after = weights / weights.sum()

    is_possible = after > 0
    log_ratio = np.log(after[is_possible] / before[is_possible])
    kl = float(after[is_possible] @ log_ratio)
    return Drift(
        success=float(before @ rewards),
        success_after=float(after @ rewards),
        safety=float(before @ safe),
        safety_after=float(after @ safe),
        drift=float((after - before) @ safe),
        kl=kl,
        bound=math.sqrt(max(kl, 0.0) / 2),
    )


def success_safety_covariance(samples: pd.DataFrame) -> pd.DataFrame:
    """Covariance of success and safety within each prompt.

    Between prompts they may go together though they never do within one (Simpson's paradox), and
    only the latter moves safety. The covariance is unbiased: it has n / (n - 1). It equals
    p (1 - p) (s1 - s0) n / (n - 1), with s1 and s0 the safety of successes and of failures.

    Args:
        samples: prompt_id, success and safety; several rows per prompt, missing ones are left out.

    Returns:
        One row per prompt with two samples or more: prompt_id, n, success and safety (means),
        safety_of_success, safety_of_failure (NaN where there is none), covariance.
    """
    need(samples, "prompt_id", "success", "safety")
    known = samples.dropna(subset=["success", "safety"])

    rows = []
    for prompt_id, group in known.groupby("prompt_id", sort=False):
        if len(group) < 2:
            continue
        success = group["success"].to_numpy(float)
        safety = group["safety"].to_numpy(float)
        is_success = success == 1
        row = {
            "prompt_id": prompt_id,
            "n": len(group),
            "success": success.mean(),
            "safety": safety.mean(),
            "safety_of_success": safety[is_success].mean() if is_success.any() else math.nan,
            "safety_of_failure": safety[~is_success].mean() if (~is_success).any() else math.nan,
            "covariance": float(np.cov(success, safety)[0, 1]),
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = [
    "prompt_id", "n", "success", "safety", "safety_of_success", "safety_of_failure", "covariance",
]  # fmt: skip


def predict_drift(covariances: pd.DataFrame, success_after: pd.Series) -> pd.DataFrame:
    """The drift of each prompt that its covariance predicts at the success that was reached.

    For a binary reward the tilt moves safety by (p* - p) (s1 - s0), which is
    (p* - p) covariance / variance of success, both unbiased.

    Args:
        covariances: of `success_safety_covariance`, from samples of the reference.
        success_after: share of successes after training, by prompt_id.

    Returns:
        The table with `success_after` and `predicted`, which is NaN where all samples of the
        reference succeed or all fail: such a prompt says nothing of the covariance, and is counted
        by the caller.
    """
    after = covariances["prompt_id"].map(success_after)
    p = covariances["success"]
    n = covariances["n"]
    variance = p * (1 - p) * n / (n - 1)
    slope = covariances["covariance"] / variance.where(variance > 0)
    return covariances.assign(success_after=after, predicted=(after - p) * slope)


def mean_covariance(covariances: pd.DataFrame, **options: int) -> Estimate:
    """The mean over prompts of the covariance within a prompt, with a bootstrap interval.

    Args:
        covariances: of `success_safety_covariance`.
        **options: of `stats.mean`.
    """
    return stats.mean(covariances["covariance"], covariances["prompt_id"], **options)


def drift_estimates(drifts: pd.DataFrame) -> pd.DataFrame:
    """Mean predicted and observed drift of each arm and split, with bootstrap intervals.

    Means are over the prompts with a prediction, the same for all columns.

    Args:
        drifts: one row per prompt: arm, split, prompt_id, predicted, observed, and bound, the most
            that |drift| can be, sqrt(KL / 2); perhaps beta, seed (prompts of two seeds are two) and
            predicted_shuffled, a control.

    Returns:
        arm, split, beta, n (prompts), n_without (those without a prediction), and of each quantity
        its mean, NAME_low and NAME_high.
    """
    need(drifts, "arm", "split", "prompt_id", "predicted", "observed", "bound")
    quantities = ["predicted", "observed", "bound"]
    if "predicted_shuffled" in drifts:
        quantities.append("predicted_shuffled")

    rows = []
    groups = drifts.groupby(["arm", "split"], sort=False, observed=True)
    for (arm, split), group in groups:
        known = group.dropna(subset=["predicted", "observed"])

        # Prompts of two seeds share their names alone.
        clusters = known["prompt_id"].astype(str)
        if "seed" in known:
            clusters += " " + known["seed"].astype(str)

        row = {
            "arm": arm,
            "split": split,
            "beta": group["beta"].iloc[0] if "beta" in group else math.nan,
            "n": len(known),
            "n_without": len(group) - len(known),
        }

        # Each quantity has three columns.
        for name in quantities:
            estimate = stats.mean(known[name], clusters)
            row |= {
                name: estimate.value,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
            }
        rows.append(row)
    return pd.DataFrame(rows)
