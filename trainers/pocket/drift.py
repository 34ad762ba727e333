"""Did safety drift as the base's own samples predict? Mixed prompts before and after training.

A mixed prompt asks for a sum and for what is forbidden, so that every sample has a success (the
verifier that rewards ask: is the sum right) and a safety (the oracle: neither thinking nor answer
is unsafe). The base and an arm are sampled for prompts that arms were trained on and for held-out
ones. The theorem is of the former; the latter show how far it generalises.

Half of the samples give the covariance and the success that was reached, and so the prediction; the
other half give the drift that it is compared with. With the same samples in both, their noise would
agree with itself.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cotlens.files import write_parquet
from cotlens.formats.read import read_traces
from cotlens.measures import predict_drift, success_safety_covariance
from cotlens.text.split import request_of
from cotlens.trace import Trace
from trainers.pocket.oracle import read_truth
from trainers.pocket.plan import Setting
from trainers.pocket.rlvr_arms import ARMS, BETA, BETA_OF, verifiable_rewards
from trainers.pocket.world import Prompt, PromptSplit

DRIFTING = tuple(ARMS)  # the arms that are measured so
SPLITS = (PromptSplit.TRAIN_MIXED, PromptSplit.MIXED)
N_SAMPLES = 16  # of each prompt and model, in two halves


def measure_drift(setting: Setting) -> pd.DataFrame:
    """Samples base and arm, and leaves `drift.parquet` in the arm's folder.

    The base's samples are drawn once a seed, and lie in its folder.

    Returns:
        The table of `drift_table`, with `arm`, `seed` and `beta` (NaN for SFT), and of each prompt
        `kl`, KL(arm || base) of whole completions in nats: the mean over the arm's samples of the
        sum over tokens, which is exact at each token. |drift| cannot exceed `bound`, sqrt(kl / 2).
    """
    from cotlens import load_model

    prompts = _prompts(setting)
    before = _samples_of(setting, "base", prompts)
    after = _samples_of(setting, setting.arm, prompts)
    table = drift_table(
        sample_table(before, prompts),
        sample_table(after, prompts),
        seed=setting.seed,
    )

    # How far the arm is from the base, on each prompt.
    model = load_model(setting.own / "model")
    base = load_model(setting.folder / "base" / "model")
    kl = _kl_by_prompt(model, base, after)
    split_of = {prompt.id: prompt.split.value for prompt in prompts}
    table = table.assign(
        split=table["prompt_id"].map(split_of),
        kl=table["prompt_id"].map(kl),
        arm=setting.arm,
        seed=setting.seed,
        beta=BETA_OF.get(setting.arm, BETA if setting.arm == "rlvr" else np.nan),
    )
    table["bound"] = np.sqrt(table["kl"].clip(lower=0) / 2)
    write_parquet(setting.own / "drift.parquet", pa.Table.from_pandas(table))
    return table


def _prompts(setting: Setting) -> list[Prompt]:
    """As many trained prompts as held-out ones, if there are."""
    prompts: list[Prompt] = []
    for split in SPLITS:
        prompts += setting.prompts[split][: setting.plan.n_evaluation]
    return prompts


def _samples_of(setting: Setting, arm: str, prompts: Sequence[Prompt]) -> list[Trace]:
    """The samples of an arm, drawn once."""
    from trainers.pocket.base import sample
    from trainers.record import write_traces

    path = setting.folder / arm / "mixed.parquet"
    if not path.exists():
        model, tokenizer = setting.load(arm)
        traces = sample(
            model,
            tokenizer,
            prompts,
            n=N_SAMPLES,
            seed=setting.seed,
            max_new_tokens=setting.plan.max_new_tokens,
            method=arm,
        )
        write_traces(path, traces)
    return list(read_traces(path))


def sample_table(traces: Sequence[Trace], prompts: Sequence[Prompt]) -> pd.DataFrame:
    """Success and safety of samples of mixed prompts: prompt_id, sample, success, safety."""
    # Success is what the reward pays.
    (verify,) = verifiable_rewards()
    success = verify(
        prompts=[request_of(trace) for trace in traces],
        completions=[trace.completion for trace in traces],
        answer=[trace.gold for trace in traces],
    )

    prompt_of = {prompt.id: prompt for prompt in prompts}
    rows = []
    for trace, is_right in zip(traces, success, strict=True):
        truth = read_truth(trace.completion, prompt_of[trace.prompt_id])
        row = {
            "prompt_id": trace.prompt_id,
            "sample": trace.sample,
            "success": is_right,
            "safety": float(not (truth.thinking_unsafe or truth.answer_unsafe)),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def drift_table(before: pd.DataFrame, after: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Predicted and observed drift of each prompt.

    Args:
        before: of `sample_table`, samples of the reference, at least four a prompt.
        after: samples of the same prompts after training, at least two a prompt.
        seed: of the shuffle.

    Returns:
        What `success_safety_covariance` and `predict_drift` say of the even samples, with
        `safety_before`, `safety_after` and `observed` (their difference) of the odd ones. A control
        is `covariance_shuffled` and `predicted_shuffled`: the same with the safeties of a prompt
        dealt out anew among its samples, which must be 0 in the mean.
    """
    # The halves of both models.
    even = before[before["sample"] % 2 == 0]
    odd = before[before["sample"] % 2 == 1]
    success_after = _means(after[after["sample"] % 2 == 0], "success")
    safety_after = _means(after[after["sample"] % 2 == 1], "safety")

    predicted = predict_drift(success_safety_covariance(even), success_after)

    # The control has the same successes.
    shuffled = success_safety_covariance(_shuffle(even, seed))
    shuffled = predict_drift(shuffled, success_after).set_index("prompt_id")

    prompt_ids = predicted["prompt_id"]
    safety_before = prompt_ids.map(_means(odd, "safety"))
    table = predicted.assign(
        safety_before=safety_before,
        safety_after=prompt_ids.map(safety_after),
        covariance_shuffled=prompt_ids.map(shuffled["covariance"]),
        predicted_shuffled=prompt_ids.map(shuffled["predicted"]),
    )
    table["observed"] = table["safety_after"] - table["safety_before"]
    return table


def _means(samples: pd.DataFrame, column: str) -> pd.Series:
    return samples.groupby("prompt_id")[column].mean()


def _shuffle(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The samples with the safeties of each prompt in another order."""
    rng = random.Random(f"drift {seed}")
    shuffled = samples.copy()
    for _, group in samples.groupby("prompt_id", sort=False):
        safeties = group["safety"].tolist()
        rng.shuffle(safeties)
        shuffled.loc[group.index, "safety"] = safeties
    return shuffled


def _kl_by_prompt(model: Any, base: Any, traces: Sequence[Trace]) -> Mapping[str, float]:
    """KL(model || base) of completions to each prompt, from the model's samples, in nats."""
    from cotlens import score_tokens

    totals: dict[str, list[float]] = {}
    for trace, scored in zip(traces, score_tokens(model, traces, reference=base), strict=True):
        total = float(np.nansum(scored.values["kl"]))
        totals.setdefault(trace.prompt_id, []).append(total)
    return {prompt_id: float(np.mean(values)) for prompt_id, values in totals.items()}
