"""What `cotlens info` says of files, runs and studies."""

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from cotlens.trace import TraceError


def describe_path(path: Path, format: str | None, tokenizer: str) -> dict[str, object]:
    from cotlens.formats.known import find_format
    from cotlens.formats.read import detect_format, read_traces
    from cotlens.runs.analyze import load_tokenizer
    from cotlens.runs.run import Run
    from cotlens.studies.study import Study, is_study
    from cotlens.text.split import split_trace

    if (path / "run.json").exists():
        return _run_report(Run(path))
    if is_study(path):
        return _study_report(Study(path))
    shape = find_format(format) if format else detect_format(path)
    rejects: list = []
    counts = {name: Counter() for name in ("models", "statuses", "reasoning")}
    has, other, think_lengths, answer_lengths, rows = Counter(), Counter(), [], [], 0
    summaries, ids_to_text = set(), load_tokenizer(tokenizer) if tokenizer else None
    traces = read_traces(path, format=shape.name, on_reject=rejects.append, tokenizer=ids_to_text)
    for trace in tqdm(traces, unit=" traces", desc="info"):
        rows += 1
        split = split_trace(trace)
        counts["models"][trace.model] += 1
        counts["statuses"][
            f"{split.status} ({split.opened_by})" if split.opened_by else split.status.value
        ] += 1
        counts["reasoning"][trace.reasoning.value] += 1
        summaries |= {trace.model} if trace.reasoning == "summary" else set()
        has.update(name for name in _FIELDS if getattr(trace, name) not in (None, "", -1))
        other.update(trace.meta.keys())
        if trace.reasoning == "verbatim":
            think_lengths.append(sum(span.length for span in split.think))
        answer_lengths.append(split.answer.length)
    if not rows:
        raise TraceError(f"{path}:{rejects[0].number}: {rejects[0].reason}")
    return {
        "path": str(path),
        "format": shape.name,
        "traces": rows,
        "bad_rows": len(rejects),
        "first_fault": f"line {rejects[0].number}: {rejects[0].reason}" if rejects else "none",
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
        "thinking": _length_summary(think_lengths),
        "answer": _length_summary(answer_lengths),
        "has": {name: has[name] for name in _FIELDS if has[name]},
        "other_fields": dict(other.most_common(12)),
        "missing": [name for name in _FIELDS if not has[name]],
        "cannot_know": [
            *shape.lacks,
            *map(_summary_of, sorted(summaries)),
        ],
    }


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


def _length_summary(lengths: list[int]) -> str:
    import numpy as np

    if not lengths:
        return "no traces"
    q = np.quantile(lengths, (0, 0.5, 0.95, 1))
    return f"characters: least {q[0]:,.0f}, median {q[1]:,.0f}, 95th percentile {q[2]:,.0f}, most {q[3]:,.0f}"


def _run_report(run) -> dict[str, object]:
    made = run.info
    traces = run.trace_table()
    verbatim = traces[traces["reasoning"] == "verbatim"]
    summaries = sorted(set(traces.loc[traces["reasoning"] == "summary", "model"]))
    return {
        "path": str(run.path),
        "complete": "yes"
        if made.get("complete")
        else "no: call analyze again with the same inputs to finish it",
        "inputs": [
            f"{Path(made_from['path']).name} ({made_from['format']})"
            for made_from in made["inputs"]
        ],
        "traces": len(traces),
        "prompts": traces["prompt_id"].nunique(),
        "steps": int(traces["n_steps"].sum()),
        "scored_by": [
            name if run.is_scored(name) else f"{name} (not complete)" for name in run.scorers
        ],
        "judged_by": run.judges,
        "bad_rows": made.get("n_rejected", 0),
        "models": {str(k): int(v) for k, v in traces["model"].value_counts().items()},
        "statuses": {str(k): int(v) for k, v in traces["status"].value_counts().items()},
        "reasoning": {str(k): int(v) for k, v in traces["reasoning"].value_counts().items()},
        "thinking": _length_summary(verbatim["n_think_chars"].tolist()),
        "answer": _length_summary(traces["n_answer_chars"].tolist()),
        "cannot_know": [
            *sorted({lack for made_from in made["inputs"] for lack in made_from["lacks"]}),
            *map(_summary_of, summaries),
        ],
    }


def _summary_of(model: str) -> str:
    return f"what {model or 'the model'} thought: what is shown of it is a summary"


def _study_report(study) -> dict[str, object]:
    made, samples = study.info, study.table("samples")
    return {
        "path": str(study.path),
        "arms": {arm: int((samples["arm"] == arm).sum()) for arm in made["arms"]},
        "base": made["base"],
        "seeds": sorted(map(str, set(samples["seed"]))),
        "sets": {str(k): int(v) for k, v in samples["set"].value_counts().items()},
        "prompts": int(samples.groupby("seed")["prompt_id"].nunique().sum()),
        "tables": study.tables,
        "judge": made.get("judge") or "-",
        "note": made.get("note") or "-",
    }
