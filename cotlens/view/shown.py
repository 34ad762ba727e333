"""Which traces does a page show, and what does their run hold about each of them?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from cotlens.files import read_parquet
from cotlens.formats.read import read_traces
from cotlens.runs.run import Run, text_shards
from cotlens.text.families import Tags
from cotlens.trace import Trace, TraceError

Scores = Mapping[str, Any]  # token scores of one trace: a row of the score table, by column
Verdicts = dict[str, str]  # part of a trace (thinking, answer, full) -> the verdict in words


class ShownTrace(NamedTuple):
    """One trace and what is known about it.

    Attributes:
        trace: the trace.
        steps: its rows of the step table.
        scores: its token scores; None if it has none.
        verdicts: the judge's verdicts on its parts.
        tags: delimiters of the thought, where they are not among those that cotlens knows.
        scorer: the model that the scores come from; empty for log-probs that came with the trace.
        judge: the judge that the verdicts come from.
    """

    trace: Trace
    steps: pd.DataFrame
    scores: Scores | None
    verdicts: Verdicts
    tags: Tags | None
    scorer: str = ""
    judge: str = ""


def read_shown(
    run: Run, ids: Sequence[str], limit: int, scorer: str, judge: str
) -> list[ShownTrace]:
    """Return the traces with these ids in this order; without ids the first `limit` of the run.

    Raises:
        TraceError: if the run holds no text or lacks one of the ids, or if its scores are missing,
            older than the traces, or by several models of which none is named.
    """
    if scorer or run.scorers:
        # Only for its errors: the scores must be complete, and of these traces.
        run.score_table(scorer, ["trace_id"])
        scorer = scorer or run.scorers[0]

    verdicts = _verdicts_in_words(run, judge)
    wanted_ids = set(ids)
    shown: dict[str, ShownTrace] = {}

    for shard in text_shards(run):
        id_column = read_parquet(shard, ["trace_id"])["trace_id"]
        shard_ids = id_column.to_pylist()
        if ids:
            chosen_ids = [trace_id for trace_id in shard_ids if trace_id in wanted_ids]
        else:
            n_missing = limit - len(shown)
            chosen_ids = shard_ids[:n_missing]
        if chosen_ids:
            shown |= _read_shard(run, shard, chosen_ids, scorer, judge, verdicts)

    for trace_id in ids:
        if trace_id not in shown:
            n_traces = run.info["n_traces"]
            raise TraceError(f"{run.path}: no trace {trace_id!r}; it has {n_traces:,} traces")

    # Ids in the order in which they were given, each once.
    ordered_ids = dict.fromkeys(ids) if ids else shown
    return [shown[trace_id] for trace_id in ordered_ids]


def _read_shard(
    run: Run,
    shard: Path,
    ids: list[str],
    scorer: str,
    judge: str,
    verdicts: dict[str, Verdicts],
) -> dict[str, ShownTrace]:
    """Return the traces of a shard that have one of the ids, by id, in the order of the ids."""
    traces = {trace.id: trace for trace in read_traces(shard, format="cotlens")}

    # A trace without thinking has no rows in the step table.
    steps = read_parquet(run.path / "steps" / shard.name).to_pandas()
    steps = steps[steps["trace_id"].isin(ids)].reset_index(drop=True)
    steps_by_id = dict(iter(steps.groupby("trace_id", sort=False)))
    no_steps = steps.iloc[:0]

    # Scores by a model take precedence over log-probs that came with the trace.
    scores_by_id = {}
    if scorer:
        score_shard = run.path / "scores" / scorer / shard.name
        scores_by_id = _read_scores(score_shard, ids)

    tags = run.tags
    shown = {}
    for trace_id in ids:
        trace = traces[trace_id]
        scores = scores_by_id.get(trace_id)
        trace_verdicts = verdicts.get(trace_id, {})
        shown[trace_id] = ShownTrace(
            trace,
            steps_by_id.get(trace_id, no_steps),
            scores or source_scores(trace),
            trace_verdicts,
            tags,
            scorer=scorer if scores else "",
            judge=judge if trace_verdicts else "",
        )
    return shown


def _read_scores(shard: Path, ids: list[str]) -> dict[str, Scores]:
    """Return the scores in a shard by trace id, without the traces that could not be scored."""
    scored = read_parquet(shard)
    wanted = set(ids)
    is_asked_for = [trace_id in wanted for trace_id in scored["trace_id"].to_pylist()]
    table = scored.filter(pa.array(is_asked_for, pa.bool_())).to_pandas()
    rows: Any = table.to_dict("records")

    scores = {}
    for row in rows:
        if not row["error"]:
            scores[row["trace_id"]] = row
    return scores


def source_scores(trace: Trace) -> Scores | None:
    """Return the log-probs that came with a trace in the shape of scores; None if it has none."""
    if trace.logprobs is None or trace.token_starts is None:
        return None
    return {
        "token_ids": trace.token_ids,
        "token_starts": trace.token_starts,
        "logprob": trace.logprobs,
    }


def _verdicts_in_words(run: Run, judge: str) -> dict[str, Verdicts]:
    """Return the judge's verdicts by trace id, such as `safe, refuses`; none without a judge."""
    verdicts: dict[str, Verdicts] = {}
    if not judge:
        return verdicts

    for part in run.judged_parts(judge):
        for row in run.guard_table(judge, part).to_dict("records"):
            words = str(row["label"])
            if row["refusal"] is True:
                words += ", refuses"

            trace_verdicts = verdicts.setdefault(str(row["trace_id"]), {})
            trace_verdicts[part] = words
    return verdicts


def read_partners(
    run: Run, beside: Run, shown: list[ShownTrace], scorer: str, judge: str
) -> list[ShownTrace | None]:
    """Return each trace's partner in `beside`, None for a trace without one.

    The partner of the k-th trace of a prompt is the k-th trace of that prompt in the other run.
    Verdicts are shown only where the same judge judged both runs.

    Raises:
        TraceError: if no trace has a partner, or `beside` has no scores by the scorer named.
    """
    # Pairs of traces with the same prompt and the same number.
    traces = _numbered_traces(run)
    traces_beside = _numbered_traces(beside)
    pairs = traces.merge(traces_beside, on=["prompt_id", "number"], suffixes=("", "_beside"))

    ids = [each.trace.id for each in shown]
    pairs = pairs[pairs["trace_id"].isin(ids)]
    partner_of = dict(zip(pairs["trace_id"], pairs["trace_id_beside"], strict=True))
    partner_ids = list(partner_of.values())
    if not partner_ids:
        raise TraceError(f"{beside.path}: has no trace on any of the prompts shown from {run.path}")

    if scorer and scorer not in beside.scorers:
        scorers = ", ".join(beside.scorers) or "none"
        raise TraceError(f"{beside.path}: not scored by {scorer}; its scorers: {scorers}")
    if judge not in beside.judges:
        judge = ""

    partners = {}
    for partner in read_shown(beside, partner_ids, len(partner_ids), scorer, judge):
        partners[partner.trace.id] = partner

    aligned = []
    for trace_id in ids:
        partner_id = partner_of.get(trace_id)
        aligned.append(partners.get(partner_id))
    return aligned


def _numbered_traces(run: Run) -> pd.DataFrame:
    """Return trace_id, prompt_id and the trace's number among those of its prompt, from 0."""
    table = run.trace_table(["trace_id", "prompt_id"])
    table["number"] = table.groupby("prompt_id").cumcount()
    return table
