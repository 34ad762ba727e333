"""What is in a file of traces, a run or a study? The reports of `cotlens info`."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cotlens.formats.known import find_format
from cotlens.formats.read import Reject, detect_format, read_traces
from cotlens.formats.stdin import shown_path
from cotlens.runs.analyze import load_tokenizer
from cotlens.runs.run import Run, is_run
from cotlens.text.response import new_tags
from cotlens.text.split import Split, split_trace
from cotlens.text.unknown import UnknownTags
from cotlens.trace import Trace, TraceError

Report = dict[str, Any]  # what is reported -> a number, a text, a list of texts, or counts by name

# Fields of a trace of which a report says how many traces have them.
_FIELDS = (
    "prompt",
    "model",
    "method",
    "domain",
    "finish_reason",
    "token_ids",
    "logprobs",
    "token_starts",
    "reward",
    "gold",
)
_N_OTHER_FIELDS = 12  # the most frequent fields that no format knows


def describe_path(path: Path, format: str | None = None, tokenizer: str = "") -> Report:
    """Return the report of a run, a study, or a file or folder of traces.

    Args:
        path: what to describe.
        format: format of the rows of a file; by default detected from its content.
        tokenizer: folder or Hub repository of the tokenizer, for rows of token ids without text.

    Raises:
        TraceError: if the path is none of these, or no row of the file can be read.
    """
    if is_run(path):
        return _describe_run(Run(path))
    if path.is_dir() and (report := _describe_study(path)):
        return report
    return _describe_traces(path, format, tokenizer)


def _describe_traces(path: Path, format: str | None, tokenizer: str) -> Report:
    """Return the report of a file or folder of traces; bad rows are counted and skipped."""
    shape = find_format(format) if format else detect_format(path)
    decoder = load_tokenizer(tokenizer) if tokenizer else None
    tags = new_tags(decoder)
    rejects: list[Reject] = []
    traces = read_traces(path, format=shape.name, on_reject=rejects.append, tokenizer=decoder)

    n_traces = 0
    counts = defaultdict(Counter)
    thinking_lengths = []
    answer_lengths = []
    summarised_models = set()
    unknown_tags = UnknownTags()
    has_thought = False

    for trace in tqdm(traces, unit=" traces", desc="info"):
        split = split_trace(trace, tags=tags)
        n_traces += 1
        has_thought = has_thought or bool(split.think)
        if not has_thought:
            unknown_tags.look_at(trace)
        counts["models"][trace.model] += 1
        counts["statuses"][_status_in_words(split)] += 1
        counts["reasoning"][trace.reasoning.value] += 1
        counts["fields"].update(_known_fields(trace))
        counts["other_fields"].update(trace.meta.keys())

        # A summary, or thinking that is not shown, says nothing about the length of the thought.
        if trace.reasoning == "verbatim":
            thinking_lengths.append(sum(span.length for span in split.think))
        if trace.reasoning == "summary":
            summarised_models.add(trace.model)
        answer_lengths.append(split.answer.length)

    # The first bad row is the fault of a file in which no row is good.
    if not n_traces:
        raise TraceError(f"{shown_path(path)}:{rejects[0].number}: {rejects[0].reason}")
    first_fault = "none"
    if rejects:
        first_fault = f"line {rejects[0].number}: {rejects[0].reason}"

    fields = counts["fields"]
    advice = "" if has_thought else unknown_tags.advice()
    return {
        "path": shown_path(path),
        "format": shape.name,
        "traces": n_traces,
        "bad_rows": len(rejects),
        "first_fault": first_fault,
        "models": dict(counts["models"].most_common()),
        "statuses": dict(counts["statuses"].most_common()),
        "reasoning": dict(counts["reasoning"].most_common()),
        **({"advice": advice} if advice else {}),
        "thinking": _length_summary(thinking_lengths),
        "answer": _length_summary(answer_lengths),
        "has": {name: fields[name] for name in _FIELDS if fields[name]},
        "other_fields": dict(counts["other_fields"].most_common(_N_OTHER_FIELDS)),
        "missing": [name for name in _FIELDS if not fields[name]],
        "cannot_know": [*shape.lacks, *_unknown_reasoning(summarised_models)],
    }


def _status_in_words(split: Split) -> str:
    """Return whether the thought is closed, and what opened it, such as `closed (prompt)`."""
    if not split.opened_by:
        return split.status.value
    return f"{split.status} ({split.opened_by})"


def _known_fields(trace: Trace) -> list[str]:
    """Return the fields that have a value: unknown is None, empty, or -1, by the field's type."""
    return [name for name in _FIELDS if getattr(trace, name) not in (None, "", -1)]


def _length_summary(lengths: list[int]) -> str:
    if not lengths:
        return "no traces"
    least, median, high, most = np.quantile(lengths, (0, 0.5, 0.95, 1))
    return (
        f"characters: least {least:,.0f}, median {median:,.0f}, "
        f"95th percentile {high:,.0f}, most {most:,.0f}"
    )


def _unknown_reasoning(models: Iterable[str]) -> list[str]:
    """Return what cannot be known of models whose provider shows only a summary of the thought."""
    return [
        f"the full reasoning of {model or 'the model'} (only a summary is available)"
        for model in sorted(models)
    ]


def _describe_run(run: Run) -> Report:
    info = run.info
    traces = run.trace_table()

    complete = "no: call analyze again with the same inputs to finish it"
    if info.get("complete"):
        complete = "yes"

    # Files, and what their formats cannot tell.
    inputs = []
    lacks = set()
    for source in info["inputs"]:
        inputs.append(f"{Path(source['path']).name} ({source['format']})")
        lacks.update(source["lacks"])

    # Scores may be missing, or older than the traces.
    scorers = []
    for scorer in run.scorers:
        remark = "" if run.is_scored(scorer) else " (not complete)"
        scorers.append(scorer + remark)

    # Lengths of thinking that is shown as it was written, and models of which it is not.
    is_verbatim = traces["reasoning"] == "verbatim"
    is_summary = traces["reasoning"] == "summary"
    summarised_models = set(traces.loc[is_summary, "model"])

    return {
        "path": str(run.path),
        "complete": complete,
        "inputs": inputs,
        "traces": len(traces),
        "prompts": traces["prompt_id"].nunique(),
        "steps": int(traces["n_steps"].sum()),
        "scored_by": scorers,
        "judged_by": run.judges,
        **_undecided(run),
        "bad_rows": info.get("n_rejected", 0),
        "models": _counts(traces["model"]),
        "statuses": _counts(traces["status"]),
        "reasoning": _counts(traces["reasoning"]),
        **({"advice": info["advice"]} if info.get("advice") else {}),
        "thinking": _length_summary(traces.loc[is_verbatim, "n_think_chars"].tolist()),
        "answer": _length_summary(traces["n_answer_chars"].tolist()),
        "cannot_know": [*sorted(lacks), *_unknown_reasoning(summarised_models)],
    }


def _undecided(run: Run) -> Report:
    """Return how many verdicts are undecided, and how many were given on a shortened prompt.

    They are counted by judge and part, the undecided ones with their reasons; what is 0 is left
    out.
    """
    undecided = {}
    cut = {}
    for judge in run.judges:
        info = run.judge_info(judge)
        for part, counts in info["counts"].items():
            name = f"{judge} on {part}"
            reasons = info["undecided"][part]
            known_reasons = [f"{n:,} {reason}" for reason, n in reasons.items() if reason]
            if known_reasons:
                name += f" ({', '.join(known_reasons)})"
            if counts.get("undecided"):
                undecided[name] = counts["undecided"]
            if info["n_cut"][part]:
                cut[f"{judge} on {part}"] = info["n_cut"][part]

    report: Report = {}
    if undecided:
        report["undecided"] = undecided
    if cut:
        report["judged_on_a_cut_prompt"] = cut
    return report


def _describe_study(path: Path) -> Report | None:
    """Return the report of a study; None of another folder."""
    # Statistics take half a second to load, which a file of traces need not wait for.
    from cotlens.studies.study import Study, is_study

    if not is_study(path):
        return None
    study = Study(path)
    info = study.info
    samples = study.table("samples")
    arms = _counts(samples["arm"])

    # The study's order of arms, also of those without samples.
    return {
        "path": str(study.path),
        "arms": {arm: arms.get(arm, 0) for arm in info["arms"]},
        "base": info["base"],
        "seeds": sorted(str(seed) for seed in samples["seed"].unique()),
        "sets": _counts(samples["set"]),
        "prompts": int(samples.groupby("seed")["prompt_id"].nunique().sum()),
        "tables": study.tables,
        "judge": info.get("judge") or "-",
        "note": info.get("note") or "-",
    }


def _counts(column: pd.Series) -> dict[str, int]:
    """Return how often each value occurs, most frequent first."""
    return {str(value): int(n) for value, n in column.value_counts().items()}


def report_lines(report: Report) -> list[str]:
    """Return a report as lines of a name and a value, for the terminal."""
    lines = []
    for key, value in report.items():
        # Counts by name and lists are joined with commas.
        if isinstance(value, dict):
            value = ", ".join(_named_count(name, n) for name, n in value.items())
        elif isinstance(value, list):
            value = ", ".join(value) or "-"
        name = key.replace("_", " ")
        lines.append(f"{name:<13} {value}")
    return lines


def _named_count(name: str, n: int) -> str:
    return f"{name or '(none)'} {n:,}"
