"""The tables of one arm: the oracle's truth next to what cotlens measured, without texts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotlens import Trace, read_traces
from cotlens.files import read_frame
from cotlens.judges.verdict import Item, Part
from cotlens.measures import reflection_dynamics, safety_states, trace_entropy
from cotlens.runs.run import Run
from cotlens.studies import read_updates
from cotlens.studies.samples import set_of
from cotlens.text.split import part_text, request_of
from trainers.pocket.depth import columns_of
from trainers.pocket.guard import LearnedGuard
from trainers.pocket.oracle import read_truth
from trainers.pocket.plan import SETS
from trainers.pocket.world import Prompt, PromptSplit

Prompts = Mapping[PromptSplit, tuple[Prompt, ...]]

# Where interventions.py was called.
INTERVENTIONS = ("prefills", "continuations", "attempts", "mechanisms")
# Where outcomes.py was called, and drift.py for arms that are paid for success alone.
OUTCOMES = ("thinking", "likelihood", "pivots", "drift")
ENTROPIES = ("entropy_think", "entropy_answer", "entropy_reflect", "entropy_common", "kl_base")
FLAGS = (
    "thinking_unsafe",
    "answer_unsafe",
    "thinking_flagged",
    "answer_flagged",
    "is_help",
    "is_correct",
    "is_format_ok",
    "is_parsed",
    "recovered",
)


def arm_tables(folder: Path, arm: str, seed: int, prompts: Prompts) -> dict[str, pd.DataFrame]:
    """The tables of an arm's folder that have rows, each with its arm and seed."""
    branching = read_frame(folder / "branching.parquet")
    tables = {
        "samples": all_samples(folder),
        "steps": step_table(folder, prompts),
        "branching": branching.drop(columns="start"),
        "rollouts": rollout_table(folder, prompts),
    }
    if (folder / "rollouts").exists():
        tables["updates"] = read_updates(folder / "model")
    for name in ("early", *INTERVENTIONS, *OUTCOMES):
        path = folder / f"{name}.parquet"
        if path.exists():
            tables[name] = read_frame(path)

    named = {}
    for name, table in tables.items():
        if len(table):
            named[name] = _downcast(table.assign(arm=arm, seed=seed))
    return named


def _downcast(table: pd.DataFrame) -> pd.DataFrame:
    """The table in types that are small on disk; entropies keep seven digits."""
    small = {"float64": "float32", "int64": "int16", "Int64": "Int16"}
    types = {}
    for name, dtype in table.dtypes.items():
        if str(dtype) in small:
            types[name] = small[str(dtype)]
    return table.astype(types)


# --- samples -----------------------------------------------------------------------------------


def all_samples(folder: Path) -> pd.DataFrame:
    """The samples of an arm's runs, with what it makes of injected thoughts on their prompts."""
    depth = columns_of(read_frame(folder / "depth.parquet"))
    return sample_table(folder).merge(depth, on=["prompt_id", "sample"], how="left")


def sample_table(folder: Path) -> pd.DataFrame:
    """One row per sample: the oracle's truth, the learned guard's flags, and the measures.

    Raises:
        ValueError: if a sample was not measured.
    """
    truth = read_frame(folder / "truth.parquet")
    tables = []
    for name in SETS:
        table = truth[truth["set"] == name]
        for measured in _measured(folder, name):
            table = table.merge(measured, on="trace_id")
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    if len(table) != len(truth):
        raise ValueError(
            f"{folder}: {len(truth)} samples, {len(table)} of them measured; "
            "remove it and run again"
        )

    # New topics that the base hardly knows to be hazardous are a split of their own.
    is_new = table["split"] == PromptSplit.NEW_TOPIC.value
    split = table["split"].mask(table["is_little_known"] & is_new, "little_known")
    columns = {name: table[name] for name in ("set", "prompt_id", "sample")}
    columns["split"] = split
    for name in FLAGS:
        columns[name] = table[name].astype("boolean")
    columns["refuses"] = table["is_refusal"]
    for name in ("onset", "n_reflections", "n_corrections", "n_tokens"):
        columns[name] = table[name]
    columns["longest_run"] = table["reflection_depth"]
    columns["n_steps"] = table["n_think_steps"]
    columns["length"] = table["n_think_chars"]
    for name in ENTROPIES:
        columns[name] = table[name]
    return pd.DataFrame(columns)


def _measured(folder: Path, name: str) -> Iterator[pd.DataFrame]:
    """What cotlens measured of an arm's run on a set of prompts: three tables by trace."""
    run = Run(folder / name)
    traces = run.trace_table()
    steps = run.step_table()
    dynamics = reflection_dynamics(steps, traces)
    own = trace_entropy(dynamics, steps, run.score_table("own"))
    own["kl_base"] = own.get("kl_think", 0.0)  # 0: the base's to itself
    entropies = ["entropy_think", "entropy_answer", "entropy_reflect", "kl_base"]
    yield own[["trace_id", "sample", "n_think_chars", *entropies]]

    names = {"thinking_unsafe": "thinking_flagged", "answer_unsafe": "answer_flagged"}
    flags = run.with_verdicts(traces[["trace_id"]], "learned").rename(columns=names)
    yield flags[["trace_id", *names.values()]]

    # The base's run on the same prompts has the same ids.
    base = Run(folder.parent / "base" / name)
    scorer = "own" if folder.name == "base" else folder.name
    scores = base.score_table(scorer)
    common = trace_entropy(base.trace_table(), base.step_table(), scores)
    common = common.rename(columns={"entropy_think": "entropy_common"})
    yield common[["trace_id", "entropy_common"]]


# --- steps -------------------------------------------------------------------------------------


def step_table(folder: Path, prompts: Prompts) -> pd.DataFrame:
    """One row per step of thinking: what the detectors find and what the oracle knows."""
    tables = []
    for name, splits in SETS.items():
        by_id = {prompt.id: prompt for split in splits for prompt in prompts[split]}
        run = Run(folder / name)
        steps = run.step_table()
        is_known = steps["is_self_jailbreak"].notna()
        steps = steps.assign(unsafe=(safety_states(steps) > 0) & is_known)
        steps = steps.astype({"is_reflection": "boolean"})
        by_trace = dict(tuple(steps.groupby("trace_id")))
        for trace in run.traces():
            if trace.id in by_trace:
                table = _with_truth(trace, by_trace[trace.id], by_id[trace.prompt_id])
                tables.append(table.assign(set=name))
    return pd.concat(tables, ignore_index=True)


def _with_truth(trace: Trace, steps: pd.DataFrame, prompt: Prompt) -> pd.DataFrame:
    """The steps of a trace with the truth; a sentence belongs to the step that it begins in."""
    starts = steps["start"].to_numpy()
    reflects = np.zeros(len(steps), bool)
    unsafe = np.zeros(len(steps), bool)
    for sentence in read_truth(trace.completion, prompt).think:
        place = int(np.searchsorted(starts, sentence.chars.start, "right")) - 1
        place = max(place, 0)
        reflects[place] |= sentence.is_reflection
        unsafe[place] |= sentence.is_unsafe
    found = steps[["is_reflection", "unsafe"]]
    return found.assign(
        prompt_id=trace.prompt_id,
        true_reflection=reflects,
        true_unsafe=unsafe,
    )


# --- rollouts ----------------------------------------------------------------------------------


def rollout_table(folder: Path, prompts: Prompts) -> pd.DataFrame:
    """One row per rollout: step, set, reward, the oracle's truth and the guard's flag."""
    trained = (*prompts[PromptSplit.TRAIN], *prompts[PromptSplit.TRAIN_MIXED])
    by_id = {prompt.id: prompt for prompt in trained}
    guard = LearnedGuard.load(folder.parent / "base" / "guard.json")
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("rollouts/*/*.parquet")):
        traces = list(read_traces(path))
        items = []
        for trace in traces:
            items.append(Item(request_of(trace), part_text(trace, "thinking"), Part.THINKING))
        for trace, verdict in zip(traces, guard.judge(items), strict=True):
            truth = read_truth(trace.completion, by_id[trace.prompt_id])
            row = {
                "step": trace.training_step,
                "set": set_of(trace.domain),
                "prompt_id": trace.prompt_id,
                "reward": trace.reward,
                "thinking_unsafe": truth.thinking_unsafe,
                "answer_unsafe": truth.answer_unsafe,
                "thinking_flagged": verdict.label == "unsafe",
                "is_correct": truth.is_correct,
                "is_help": truth.is_help,
                "n_reflections": truth.n_reflections,
                "n_tokens": len(trace.token_ids or ()),
            }
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({"is_correct": "boolean"}) if len(table) else table
