"""judge_run: a run gets verdicts by a judge. add_verdicts: it gets verdicts made elsewhere."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.files import (
    SOURCE_HASH,
    folder_name,
    hash_path,
    only_one,
    to_json,
    versions,
    write_atomic,
    write_parquet,
)
from cotlens.formats.read import read_traces
from cotlens.judges.cache import Cache, hash_of
from cotlens.judges.guard import Guard
from cotlens.judges.guard import judge as judge_items
from cotlens.judges.verdict import LABELS, Item, Part, Verdict
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.shards import prepare_verdicts, remove_strays
from cotlens.runs.tables import guard_rows
from cotlens.text.split import part_text, request_of
from cotlens.trace import TraceError


def judge_run(
    run: Run | str | Path,
    judge: Guard,
    *,
    parts: Sequence[str] = ("thinking", "answer"),
    name: str = "",
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Judge parts of every trace of a run into RUN/guard/NAME/PART, and return the run.

    `run.judge_info(NAME)` has the counts, `run.guard_table(NAME, PART)` the verdicts. Verdicts are
    kept in RUN/guard/cache.sqlite as they come: a killed job asks for nothing twice.

    Args:
        run: a run directory that holds its texts (not made with `light`).
        judge: a `Guard`.
        parts: of `thinking`, `answer` and `full`.
        name: of the folder; default: the last part of the judge's name.
        progress: called with the number of items done since the last call.

    Raises:
        TraceError: if the judge cannot answer, or the run cannot be judged. What was judged by then
            is kept.
    """
    run = open_run(run)
    if isinstance(parts, str) or not parts or not set(parts) <= {"thinking", "answer", "full"}:
        raise TraceError(f"parts: expected a list of thinking, answer and full, got {parts!r}")

    # The judge reads the parts that the run found with its delimiters, each part once.
    tags = run.tags
    wanted = [Part(part) for part in dict.fromkeys(parts)]
    folder = run.path / "guard" / folder_name(name, judge.name)
    judge_info = {"judge": judge.name, "revision": judge.revision, "identity": judge.identity}
    counts: dict[str, Counter[str]] = {}
    for part in wanted:
        counts[part.value] = Counter()

    with only_one(folder):
        earlier_counts = prepare_verdicts(folder, judge_info)
        cache = Cache(run.path / "guard" / "cache.sqlite")
        for shard in text_shards(run):
            source_hash = hash_path(shard)  # now: judging may take hours
            traces = list(read_traces(shard, format="cotlens"))
            ids = [trace.id for trace in traces]
            for part in wanted:
                items = []
                for trace in traces:
                    text = part_text(trace, part, tags)
                    item = Item(request_of(trace), text, part)
                    items.append(item)

                # Empty texts and what the cache has are not asked for.
                verdicts = judge_items(judge, items, cache=cache, progress=progress)
                table = guard_rows(ids, judge.name, judge.revision, part, verdicts)
                _write_verdicts(folder / part / shard.name, table, source_hash)
                counts[part].update(verdict.label for verdict in verdicts)

        folders = [folder / part for part in wanted]
        remove_strays(run, folders)
        _write_info(folder, judge_info, earlier_counts | counts)
    return run


def add_verdicts(run: Run | str | Path, verdicts: pd.DataFrame, judge: str, part: str) -> Run:
    """Keep verdicts made elsewhere as a judge's, in RUN/guard/JUDGE/PART, and return the run.

    `run.judge_info(JUDGE)` has the counts, `run.guard_table(JUDGE, PART)` the verdicts.

    Args:
        run: a complete run directory; it need not hold its texts.
        verdicts: one row per trace with `trace_id`, `label` (safe, unsafe, controversial or
            undecided) and, where the judge gave them, `p_unsafe`, `refusal` and `revision` (one for
            all). Traces without a row are undecided. With `text_hash`, as `guard_table` has it, the
            verdicts are checked against the texts of the run.
        judge: its name, as it will stand in every row.
        part: thinking, answer or full.

    Raises:
        TraceError: if a column is missing, an id is unknown or occurs twice, a label is not one of
            the four, a probability is not in [0, 1], a refusal is neither true nor false, or a
            verdict was given for another text.
    """
    run = open_run(run)
    part = Part(part)
    missing = {"trace_id", "label"} - set(verdicts)
    if missing:
        raise TraceError(
            f"verdicts: no column {', '.join(sorted(missing))}; "
            f"there are {', '.join(map(str, verdicts))}"
        )

    rows = {}
    for row in verdicts.to_dict("records"):
        trace_id = str(row["trace_id"])
        rows[trace_id] = row
    _check_verdicts(verdicts, rows, run)
    _check_texts(rows, run, part)

    # One revision for all rows, from the first.
    revision = ""
    if "revision" in verdicts and len(verdicts):
        revision = str(verdicts["revision"].iloc[0])
    folder = run.path / "guard" / folder_name("", judge)
    judge_info = {"judge": judge, "revision": revision, "identity": "made elsewhere"}
    counts: Counter[str] = Counter()

    with only_one(folder):
        earlier_counts = prepare_verdicts(folder, judge_info)
        if part.value in earlier_counts:
            # If this call is cut off, old and new verdicts are mixed: the part is not judged then.
            del earlier_counts[part.value]
            _write_info(folder, judge_info, earlier_counts)

        for shard in run.shards("traces"):
            shard_traces = pq.read_table(shard, columns=["trace_id"])
            shard_ids = shard_traces["trace_id"].to_pylist()
            shard_verdicts = [_verdict_of(rows.get(trace_id)) for trace_id in shard_ids]
            table = guard_rows(shard_ids, judge, revision, part, shard_verdicts)
            _write_verdicts(folder / part / shard.name, table, hash_path(shard))
            counts.update(verdict.label for verdict in shard_verdicts)

        # Counts of the other parts stay.
        remove_strays(run, [folder / part])
        _write_info(folder, judge_info, earlier_counts | {part.value: counts})
    return run


def _check_verdicts(
    verdicts: pd.DataFrame, rows: Mapping[str, Mapping[Any, Any]], run: Run
) -> None:
    """Raise TraceError if an id, a label, a probability or a refusal is at fault."""
    run_ids = set(run.trace_table(["trace_id"])["trace_id"])
    is_repeated = verdicts["trace_id"].duplicated()
    repeated = verdicts["trace_id"][is_repeated].tolist()

    # The values at fault, each fault in turn.
    unknown = []
    labels = []
    probabilities = []
    refusals = []
    for trace_id, row in rows.items():
        if trace_id not in run_ids:
            unknown.append(trace_id)
        if row["label"] not in LABELS:
            labels.append(row["label"])
        if not _can_parse(_parse_probability, row.get("p_unsafe")):
            probabilities.append(row["p_unsafe"])
        if not _can_parse(_parse_refusal, row.get("refusal")):
            refusals.append(row["refusal"])

    faults = {
        "trace ids are twice there": repeated,
        "trace ids are not in the run": unknown,
        f"labels are none of {', '.join(LABELS)}": labels,
        "values of p_unsafe are no numbers from 0 to 1": probabilities,
        "values of refusal are neither true nor false": refusals,
    }
    for fault, values in faults.items():
        if values:
            raise TraceError(f"verdicts: {len(values):,} {fault}, the first is {values[0]!r}")


def _check_texts(rows: Mapping[str, Mapping[Any, Any]], run: Run, part: Part) -> None:
    """Raise TraceError if a verdict names the hash of another text than the run has."""
    has_hashes = any(_hash_in(row) for row in rows.values())
    if not has_hashes or "completion" not in pq.read_schema(run.shards("traces")[0]).names:
        return

    for trace in run.traces():
        text_hash = _hash_in(rows.get(trace.id, {}))
        if text_hash and text_hash != hash_of(part_text(trace, part, run.tags)):
            raise TraceError(
                f"verdicts: trace {trace.id}: its {part} has changed since the verdict was given; "
                "judge it again, or leave the row out"
            )


def _hash_in(row: Mapping[Any, Any]) -> str:
    """The hash of the text that a row was given for; empty if it names none."""
    text_hash = row.get("text_hash")
    return text_hash if isinstance(text_hash, str) else ""


def _can_parse(parse: Callable[[Any], Any], value: Any) -> bool:
    try:
        parse(value)
    except (TypeError, ValueError):
        return False
    return True


def _parse_probability(value: Any) -> float:
    """A number in [0, 1]; NaN if it is missing. Raises ValueError or TypeError otherwise."""
    if value is None or pd.isna(value):
        return math.nan

    probability = float(value)
    if not 0 <= probability <= 1:
        raise ValueError(f"expected a number in [0, 1], got {value!r}")
    return probability


_TRUTHS = {
    "true": True,
    "1": True,
    "1.0": True,
    "yes": True,
    "false": False,
    "0": False,
    "0.0": False,
    "no": False,
}


def _parse_refusal(value: Any) -> bool | None:
    """True or False; None if it is missing. Raises ValueError for any other text."""
    if value is None or pd.isna(value):
        return None

    word = str(value).strip().lower()
    if word not in _TRUTHS:
        raise ValueError(f"expected true or false, got {value!r}")
    return _TRUTHS[word]


def _verdict_of(row: Mapping[Any, Any] | None) -> Verdict:
    """The verdict of a row that was checked; undecided for a trace without a row."""
    if row is None:
        return Verdict("undecided")
    return Verdict(
        row["label"],
        p_unsafe=_parse_probability(row.get("p_unsafe")),
        refusal=_parse_refusal(row.get("refusal")),
        text_hash=_hash_in(row),
    )


def _write_verdicts(path: Path, table: pa.Table, source_hash: str) -> None:
    metadata = {SOURCE_HASH: source_hash}
    write_parquet(path, table.replace_schema_metadata(metadata))


def _write_info(folder: Path, judge_info: Mapping[str, str], counts: Mapping[str, Any]) -> None:
    """Write the `run.json` of a judge: what it is, and its verdicts by part and label.

    `undecided` has how many are undecided for each reason, and `n_cut` how many have a shortened
    prompt, by part.
    """
    undecided = {}
    n_cut = {}
    for part in counts:
        undecided[part], n_cut[part] = _count_reasons(folder / part)

    info = dict(judge_info)
    info |= {
        "versions": versions(),
        "counts": counts,
        "undecided": undecided,
        "n_cut": n_cut,
    }
    path = folder / "run.json"
    write_atomic(path, to_json(info))


def _count_reasons(folder: Path) -> tuple[Counter[str], int]:
    """The undecided verdicts of a part by reason, and those with a shortened prompt."""
    reasons: Counter[str] = Counter()
    n_cut = 0
    for shard in folder.glob("part-*.parquet"):
        table = pq.read_table(shard)
        # Tables of an older version have no reasons.
        if "reason" not in table.schema.names:
            continue
        for row in table.select(["label", "reason", "n_cut"]).to_pylist():
            n_cut += row["n_cut"] > 0
            if row["label"] == "undecided":
                # What the server said comes after a colon, and differs.
                reasons[row["reason"].partition(":")[0]] += 1
    return reasons, n_cut
