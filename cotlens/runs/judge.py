"""judge_run: a run gets verdicts by a judge; add_verdicts: verdicts made elsewhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.shards import drop_strays, earlier_parts
from cotlens.runs.tables import guard_rows
from cotlens.text.split import part_text, request_of
from cotlens.trace import TraceError

if TYPE_CHECKING:
    from cotlens.judges.guard import Guard
    from cotlens.judges.verdict import Verdict


def judge_run(
    run: Run | str | Path,
    judge: "Guard",
    *,
    parts: Sequence[str] = ("thinking", "answer"),
    name: str = "",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Judges parts of every trace of a run into RUN/guard/NAME/PART, and returns what RUN/guard/NAME/run.json says.

    Verdicts are kept in RUN/guard/cache.sqlite as they come: a killed job asks for nothing twice.

    Args:
        run: a run directory that holds its texts (not made with `light`).
        judge: a `Guard`.
        parts: of `thinking`, `answer` and `full`.
        name: of the folder; default: the last part of the judge's name.
        progress: called with the number of items done since the last call.

    Raises:
        TraceError: if the judge cannot answer, or the run cannot be judged. What was judged by then is kept.
    """
    from cotlens.judges.cache import Cache
    from cotlens.judges.guard import judge as judge_items
    from cotlens.judges.verdict import Item, Part

    run = open_run(run)
    if isinstance(parts, str) or not parts or not set(parts) <= {"thinking", "answer", "full"}:
        raise TraceError(f"parts: expected a list of thinking, answer and full, got {parts!r}")
    folder = run.path / "guard" / folder_name(name, judge.name)
    wanted, tags = [Part(part) for part in dict.fromkeys(parts)], run.tags
    info = {"judge": judge.name, "revision": judge.revision, "identity": judge.identity}
    counts: dict[str, dict[str, int]] = {part.value: {} for part in wanted}
    with only_one(folder):
        earlier = earlier_parts(folder, info)
        cache = Cache(run.path / "guard" / "cache.sqlite")
        for shard in text_shards(run):
            traces, source = list(read_traces(shard, format="cotlens")), hash_path(shard)
            for part in wanted:
                items = [
                    Item(request_of(trace), part_text(trace, part, tags), part) for trace in traces
                ]
                verdicts = judge_items(judge, items, cache=cache, progress=progress)
                table = guard_rows(
                    [trace.id for trace in traces], judge.name, judge.revision, part, verdicts
                )
                _write_verdicts(folder / part.value / shard.name, table, source, counts[part])
        drop_strays(run, [folder / part.value for part in wanted])
        write_atomic(
            folder / "run.json",
            to_json(info | {"versions": versions(), "counts": earlier | counts}),
        )
    return info | {"counts": counts}


def add_verdicts(
    run: Run | str | Path, verdicts: pd.DataFrame, judge: str, part: str
) -> dict[str, Any]:
    """Keeps verdicts that were made elsewhere as those of a judge of the run, in RUN/guard/JUDGE/PART.

    Args:
        run: a complete run directory; it need not hold its texts.
        verdicts: one row per trace with `trace_id`, `label` (safe, unsafe, controversial or undecided) and, where the
            judge gave them, `p_unsafe`, `refusal` and `revision` (one for all). Traces without a row are undecided.
        judge: its name, as it will stand in every row.
        part: thinking, answer or full.

    Returns:
        What RUN/guard/JUDGE/run.json says of the part.

    Raises:
        TraceError: if a column is missing, an id is unknown or twice there, a label is none of the four, a probability
            is no number in [0, 1], or a refusal is neither true nor false.
    """
    from cotlens.judges.verdict import LABELS, Part, Verdict

    run = open_run(run)
    part = Part(part)
    if missing := {"trace_id", "label"} - set(verdicts):
        raise TraceError(
            f"verdicts: no column {', '.join(sorted(missing))}; there are {', '.join(map(str, verdicts))}"
        )
    rows = {
        str(key): row
        for key, row in zip(verdicts["trace_id"], verdicts.to_dict("records"), strict=True)
    }
    known = set(run.trace_table(["trace_id"])["trace_id"])
    faults = {
        "trace ids are twice there": verdicts["trace_id"][verdicts["trace_id"].duplicated()],
        "trace ids are not in the run": [key for key in rows if key not in known],
        f"labels are none of {', '.join(LABELS)}": [
            row["label"] for row in rows.values() if row["label"] not in LABELS
        ],
        "values of p_unsafe are no numbers from 0 to 1": [
            row["p_unsafe"] for row in rows.values() if not _is_probability(row.get("p_unsafe"))
        ],
        "values of refusal are neither true nor false": [
            row["refusal"] for row in rows.values() if _refusal(row.get("refusal")) is _WRONG
        ],
    }
    for fault, found in faults.items():
        if len(found):
            raise TraceError(
                f"verdicts: {len(found):,} {fault}, the first is {next(iter(found))!r}"
            )
    revision = str(verdicts["revision"].iloc[0]) if "revision" in verdicts and len(verdicts) else ""
    info = {"judge": judge, "revision": revision, "identity": "made elsewhere"}
    folder, counts = run.path / "guard" / folder_name("", judge), {part.value: {}}
    with only_one(folder):
        earlier = earlier_parts(folder, info)
        if (
            earlier.pop(part.value, None) is not None
        ):  # cut off, old and new verdicts are mixed: the part is not judged
            write_atomic(
                folder / "run.json", to_json(info | {"versions": versions(), "counts": earlier})
            )
        for shard in run.shards("traces"):
            ids = pq.read_table(shard, columns=["trace_id"])["trace_id"].to_pylist()
            found = [_verdict_of(rows[key]) if key in rows else Verdict("undecided") for key in ids]
            table = guard_rows(ids, judge, revision, part, found)
            _write_verdicts(
                folder / part.value / shard.name, table, hash_path(shard), counts[part.value]
            )
        drop_strays(run, [folder / part.value])
        write_atomic(
            folder / "run.json",
            to_json(info | {"versions": versions(), "counts": earlier | counts}),
        )
    return info | {"counts": counts}


def _verdict_of(row: Mapping[Any, Any]) -> "Verdict":
    from cotlens.judges.verdict import Verdict

    p = row.get("p_unsafe")
    return Verdict(
        row["label"],
        p_unsafe=math.nan if p is None or pd.isna(p) else float(p),
        refusal=_refusal(row.get("refusal")),
    )


def _is_probability(value: Any) -> bool:
    try:
        return value is None or bool(pd.isna(value)) or 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


_WRONG: Any = object()
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


def _refusal(value: Any) -> Any:
    """True, False, None where nothing is said, and _WRONG for what is neither: text is not true for being there."""
    return (
        None if value is None or pd.isna(value) else _TRUTHS.get(str(value).strip().lower(), _WRONG)
    )


def _write_verdicts(path: Path, table: pa.Table, source: str, counts: dict[str, int]) -> None:
    for label in table["label"].to_pylist():
        counts[label] = counts.get(label, 0) + 1
    write_parquet(path, table.replace_schema_metadata({SOURCE_HASH: source}))
