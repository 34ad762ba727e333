"""The samples of a run: one row a trace, with verdicts, scores, grades and dynamics as columns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.judges.grade import Grade, grade
from cotlens.measures.entropy import trace_entropy
from cotlens.measures.reflection import reflection_dynamics
from cotlens.measures.unsafe import unsafe_dynamics
from cotlens.runs.by_shard import DYNAMICS_COLUMNS, table_shards
from cotlens.runs.run import Run
from cotlens.studies.study import seed_of
from cotlens.text.split import Status, part_text
from cotlens.trace import Reasoning, TraceError

# Names that prompts give their domain, by the domain that measures speak of. Any other name is a
# domain of its own.
NAMES_OF_DOMAINS = {
    "forbidden": ("forbidden", "harmful", "jailbreak"),
    "harmless": ("harmless", "benign", "borderline", "allowed", "look_alike"),
    "maths": ("maths", "math"),
    "puzzles": ("puzzles", "puzzle"),
}
PROMPT_ID = ["seed", "arm", "set", "split", "prompt_id"]


class Sources(NamedTuple):
    """Whose numbers are used, by name; "" is the only one there is."""

    judge: str = ""  # its verdicts count as the truth
    monitor: str = ""  # the guard that rewards asked
    scorer: str = ""  # its token scores are each arm's own


def sample_tables(runs: Sequence[Run], sources: Sources) -> list[pd.DataFrame]:
    """The samples of each run.

    Scores under another arm's name are that arm's view of the run. They are never taken for the
    run's own, not even where they are the only ones.
    """
    arms_by_run = [_arms_of(run) for run in runs]
    all_arms = set().union(*arms_by_run)
    tables = []
    for run, arms in zip(runs, arms_by_run, strict=True):
        tables.append(_sample_table(run, arms, all_arms - arms, sources))
    return tables


def _sample_table(run: Run, arms: set[str], not_own: set[str], sources: Sources) -> pd.DataFrame:
    """One row per trace with all that is known of it; columns that nobody made are missing.

    Args:
        run: a complete run.
        arms: its arms, whose names its own scores may have.
        not_own: names of scores that are not its own.
        sources: whose verdicts and scores to use.
    """
    scorers = [name for name in run.scorers if name not in not_own]
    scorer = _choose(scorers, sources.scorer, "scorer", run, ["own", *sorted(arms)])
    table = _dynamics(run, scorer)

    judge = judge_of(run, sources)
    if judge:
        table = run.with_verdicts(table, judge)
    if sources.monitor and sources.monitor in run.judges:
        table = table.merge(_flags(run, table, sources.monitor), on="trace_id")

    table = table.merge(_read_answers(run), on="trace_id")
    rule_refuses = table["rule_refuses"]
    refuses = table["refuses"].fillna(rule_refuses) if "refuses" in table else rule_refuses
    is_closed = table["status"] == Status.CLOSED.value
    is_verbatim = table["reasoning"] == Reasoning.VERBATIM.value
    columns = {
        "seed": seed_of(run.path),
        "arm": table["method"].where(table["method"] != "", run.name),
        **_places(table),
        "prompt_id": table["prompt_id"],
        "sample": _sample_numbers(table),
        **{name: table[name] for name in _FLAGS if name in table},
        "refuses": refuses,
        "is_correct": table["is_correct"],
        "is_format_ok": is_closed & (table["n_answer_chars"] > 0),
        "onset": table["onset"],
        "recovered": table["recovered"].astype("boolean"),
        "n_reflections": table["n_reflect"],
        "n_steps": table["n_known"],
        "longest_run": table["longest_run"],
        "n_tokens": table["n_tokens"],
        "length": table["n_think_chars"].where(is_verbatim),
        **{name: table[source] for name, source in _ENTROPIES.items() if source in table},
    }
    return pd.DataFrame(columns)


def _dynamics(run: Run, scorer: str) -> pd.DataFrame:
    """The traces with their dynamics, and their entropies if there is a scorer.

    Shard by shard: a run's steps and scores need not fit in memory together.
    """
    tables = []
    if scorer:
        for traces, steps, scores in run.scored_shards(scorer, texts=False):
            dynamics = unsafe_dynamics(steps, reflection_dynamics(steps, traces))
            tables.append(trace_entropy(dynamics, steps, scores))
    else:
        for traces, steps in table_shards(run, DYNAMICS_COLUMNS):
            tables.append(unsafe_dynamics(steps, reflection_dynamics(steps, traces)))
    return pd.concat(tables, ignore_index=True)


_FLAGS = ("thinking_unsafe", "answer_unsafe", "thinking_flagged", "answer_flagged")
_ENTROPIES = {  # column of the samples: column of trace_entropy
    "entropy_think": "entropy_think",
    "entropy_answer": "entropy_answer",
    "entropy_reflect": "entropy_reflect",
    "kl_base": "kl_think",
}


def rollout_table(run: Run, sources: Sources, say: Callable[[str], object]) -> pd.DataFrame:
    """One row per rollout.

    Arm, seed, step, reward, and the columns of samples but for token scores.

    One model after another sampled them, so scores by any of them are not the policy's own.
    """
    traces = run.trace_table(["training_step", "reward"])
    n_without_step = int((traces["training_step"] < 0).sum())
    if n_without_step:
        raise TraceError(
            f"{run.path}: {n_without_step:,} of {len(traces):,} rollouts have no training step; "
            "give the rows a training_step"
        )
    table = _sample_table(run, set(), set(run.scorers), sources._replace(scorer=""))
    if traces["reward"].isna().all():
        say(
            f"{run.path}: these rollouts have no reward: "
            "reward and groups all alike are in no figure"
        )
    if "thinking_unsafe" not in table:
        say(
            f"{run.path}: these rollouts are not judged: "
            "their unsafe thinking and answers are in no figure"
        )
    return table.assign(step=traces["training_step"], reward=traces["reward"])


def _arms_of(run: Run) -> set[str]:
    return {method or run.name for method in run.trace_table(["method"])["method"]}


def judge_of(run: Run, sources: Sources) -> str:
    """Whose verdicts on thinking and answer count; "" for none."""
    judges = []
    for name in run.judges:
        # Who only says what a request asks for judges no trace.
        judges_requests = run.judged_parts(name) == ["request"]
        if name != sources.monitor and not judges_requests:
            judges.append(name)
    return _choose(judges, sources.judge, "judge", run)


def _choose(
    names: Sequence[str], wanted: str, kind: str, run: Run, defaults: Sequence[str] = ()
) -> str:
    """The name asked for, or the only one, or the first of the defaults; "" if the run has none."""
    if wanted:
        return wanted if wanted in names else ""
    if len(names) < 2:
        return "".join(names)
    for name in defaults:
        if name in names:
            return name
    raise TraceError(
        f"{run.path}: which {kind}? there are {', '.join(names)}; name one with --{kind}"
    )


def set_of(domain: str) -> str:
    """The domain that measures speak of, for the name that a prompt gives; "all" for no name."""
    for name, names in NAMES_OF_DOMAINS.items():
        if domain in names:
            return name
    return domain or "all"


def _places(traces: pd.DataFrame) -> dict[str, pd.Series]:
    """The set and the split of the prompts; the split is the domain where the prompt names none."""
    domain = traces["domain"].where(traces["domain"] != "", "all")
    split = traces["split"].where(traces["split"] != "", domain)
    return {"set": traces["domain"].map(set_of), "split": split}


def _sample_numbers(traces: pd.DataFrame) -> pd.Series:
    """Numbers of the samples of a prompt: the source's, or in order where it numbers two alike."""
    prompts = ["method", "domain", "split", "prompt_id"]
    if traces.duplicated([*prompts, "sample"]).any():
        return traces.groupby(prompts, dropna=False).cumcount()
    return traces["sample"]


def _flags(run: Run, traces: pd.DataFrame, monitor: str) -> pd.DataFrame:
    """The monitor's verdicts by trace: thinking_flagged, answer_flagged."""
    verdicts = run.with_verdicts(traces[["trace_id"]], monitor)
    names = {"thinking_unsafe": "thinking_flagged", "answer_unsafe": "answer_flagged"}
    judged = [name for name in names if name in verdicts]
    return verdicts[["trace_id", *judged]].rename(columns=names)


def _read_answers(run: Run) -> pd.DataFrame:
    """What needs the texts, by trace: does the answer refuse, by rules, and is it right."""
    rows = []
    for trace in run.traces():
        answer = part_text(trace, "answer", run.tags)
        refusal = classify_refusal(answer)
        refuses = None if refusal is Refusal.UNKNOWN else refusal is not Refusal.COMPLIANCE
        is_correct = None
        if trace.gold:
            try:
                is_correct = grade(answer, trace.gold) is Grade.CORRECT
            except (ValueError, ImportError) as error:
                raise TraceError(f"{run.path}: trace {trace.id}: {error}") from None
        rows.append((trace.id, refuses, is_correct))
    table = pd.DataFrame(rows, columns=["trace_id", "rule_refuses", "is_correct"])
    return table.astype({"rule_refuses": "boolean", "is_correct": "boolean"})


# --- one text for all arms ---------------------------------------------------------------------


def common_text(base_runs: Sequence[Run], arms: Sequence[str], base: str) -> pd.DataFrame:
    """Entropy of each arm on the base's thinking, text by text.

    Empty where the arms have not scored the base's runs.
    """
    tables = []
    for run in base_runs:
        for arm in arms:
            scorer = "own" if arm == base and "own" in run.scorers else arm
            if scorer not in run.scorers:
                continue
            table = _entropies(run, scorer)
            table = table.assign(arm=arm, seed=seed_of(run.path), **_places(table))
            tables.append(table.rename(columns={"entropy_think": "entropy_common"}))
    columns = [*PROMPT_ID, "entropy_common"]
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]


def _entropies(run: Run, scorer: str) -> pd.DataFrame:
    """The traces with their entropies under a scorer, shard by shard."""
    tables = []
    for traces, steps, scores in run.scored_shards(scorer, texts=False):
        tables.append(trace_entropy(traces, steps, scores))
    return pd.concat(tables, ignore_index=True)


def add_common_entropy(samples: pd.DataFrame, common: pd.DataFrame) -> pd.DataFrame:
    """The samples with entropy_common, one number a prompt: its texts are the base's own."""
    by_prompt = common.groupby(PROMPT_ID)["entropy_common"].mean().reset_index()
    samples = samples.merge(by_prompt, on=PROMPT_ID, how="left")
    is_repeated = samples.duplicated(PROMPT_ID)
    samples["entropy_common"] = samples["entropy_common"].mask(is_repeated)
    return samples
