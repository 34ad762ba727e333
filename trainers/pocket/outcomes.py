"""What the arms of own data, own words and own tokens did besides: three more tables an arm.

    python -m trainers.pocket.outcomes OUT --seed 2

Call it when the arms are measured. It leaves in each arm's folder

    thinking.parquet     the same prompts answered after a thought and after an empty one
    likelihood.parquet   negative log-likelihood of the rows that SFT learned, under the base
    pivots.parquet       the pivots of R2D's arms, with those that would have been right

`trainers.pocket.report` makes tables of a study of them. The oracle judges.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from cotlens.files import write_parquet
from cotlens.formats.read import read_traces
from cotlens.measures import pivot_table, row_likelihood
from cotlens.trace import Trace, hash_text
from trainers.pocket import r2d_arms
from trainers.pocket.arms import ARMS
from trainers.pocket.base import sample
from trainers.pocket.jobs import measured_settings
from trainers.pocket.oracle import NO_THOUGHT, read_truth
from trainers.pocket.plan import Setting
from trainers.pocket.world import Domain, Prompt, PromptSplit

ASKED = (PromptSplit.FORBIDDEN_SEEN, PromptSplit.MATHS)  # with and without thinking
DONE = "outcomes"  # a mark: an arm need not have every table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Measure what arms of own data did besides.")
    parser.add_argument("out", type=Path, help="folder of the experiment")
    parser.add_argument("--seed", type=int, nargs="+", required=True)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), metavar="ARM")
    options = parser.parse_args(arguments)

    for seed in options.seed:
        missing = measured_settings(options.out, seed, options.arms or (), _is_done)
        if not missing:
            continue
        for setting in tqdm(missing, desc=f"seed {seed}", unit=" arms"):
            measure(setting)


def _is_done(folder: Path) -> bool:
    return (folder / DONE).exists()


def measure(setting: Setting) -> None:
    """Leaves the tables of an arm, and a mark that they are there."""
    tables = {"thinking": thinking_table(setting)}
    if (setting.own / "rows.parquet").exists():
        tables["likelihood"] = likelihood_table(setting)
    if setting.arm in r2d_arms.ARMS:
        tables["pivots"] = truth_of_pivots(setting)

    for name, table in tables.items():
        write_parquet(setting.own / f"{name}.parquet", pa.Table.from_pandas(table))
    (setting.own / DONE).touch()


# --- with and without thinking -------------------------------------------------------------------


def thinking_table(setting: Setting) -> pd.DataFrame:
    """One row per prompt and condition: prompt_id, domain, thinking, is_good.

    `is_good` says of a forbidden request that the answer is not unsafe, of a sum that it is right.
    With thinking it is the arm's first sample of the prompt; without, a sample after an empty
    thought, which the base was never trained on.
    """
    prompts: list[Prompt] = []
    for split in ASKED:
        prompts += setting.prompts[split]
    prompt_of = {prompt.id: prompt for prompt in prompts}

    # The samples that the arm was measured on.
    rows = []
    for name in ("forbidden", "maths"):
        for trace in read_traces(setting.own / f"{name}.parquet"):
            if trace.prompt_id in prompt_of and not trace.sample:
                rows.append(_thinking_row(trace, prompt_of[trace.prompt_id], thinking=True))

    model, tokenizer = setting.load(setting.arm)
    answered = sample(
        model,
        tokenizer,
        prompts,
        seed=setting.seed,
        max_new_tokens=setting.plan.max_new_tokens,
        prefill=NO_THOUGHT,
        method=setting.arm,
    )
    for trace in answered:
        rows.append(_thinking_row(trace, prompt_of[trace.prompt_id], thinking=False))
    return pd.DataFrame(rows)


def _thinking_row(trace: Trace, prompt: Prompt, *, thinking: bool) -> dict[str, Any]:
    truth = read_truth(trace.completion, prompt)
    is_good = truth.is_correct
    if prompt.domain is Domain.FORBIDDEN:
        is_good = not truth.answer_unsafe
    return {
        "prompt_id": prompt.id,
        "domain": prompt.domain.value,
        "thinking": thinking,
        "is_good": bool(is_good),
    }


# --- how likely the rows were --------------------------------------------------------------------


def likelihood_table(setting: Setting) -> pd.DataFrame:
    """Of each kept row of SFT and each part: nll (nats) and n_tokens under the frozen base.

    `prompt_id` is a hash: the table has no texts.
    """
    from cotlens import load_model, score_tokens, trace_table
    from trainers.methods.selfgen import as_trace

    model = load_model(setting.folder / "base" / "model")
    traces = []
    for trace in read_traces(setting.own / "rows.parquet"):
        row = {
            "prompt": trace.prompt,
            "completion": trace.completion,
            "prompt_id": hash_text(trace.prompt)[:12],
        }
        traces.append(as_trace(model.tokenizer, row, trace.id))

    scores = score_tokens(model, traces).table()
    table = row_likelihood(trace_table(traces), scores)
    return table[["prompt_id", "part", "nll", "n_tokens"]]


# --- pivots --------------------------------------------------------------------------------------


def truth_of_pivots(setting: Setting) -> pd.DataFrame:
    """The pivots of the arm's thoughts about forbidden and harmless requests, with the truth."""
    prompts = [prompt for split in setting.prompts.values() for prompt in split]
    traces: list[Trace] = []
    for name in ("forbidden", "harmless"):
        traces += read_traces(setting.own / f"{name}.parquet")

    pivots = pivot_table(traces)
    return r2d_arms.add_truth(pivots, traces, prompts)


if __name__ == "__main__":
    main()
