"""judge_run: a run gets verdicts by a judge. add_verdicts: it gets verdicts made elsewhere."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from cotlens.files import folder_name, read_parquet, versions
from cotlens.formats.read import read_traces
from cotlens.judges.cache import Cache, hash_of
from cotlens.judges.guard import Guard
from cotlens.judges.guard import judge as judge_items
from cotlens.judges.verdict import LABELS, Item, Part, Verdict
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.shards import Made, over_shards, read_info, shards_of
from cotlens.runs.tables import guard_rows
from cotlens.text.families import Tags
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
    text_shards(run)  # raises if there is no text to judge

    folder = run.path / "guard" / folder_name(name, judge.name)
    made_by = {"judge": judge.name, "revision": judge.revision, "identity": judge.identity}
    made_by |= _question(judge)
    _check_same_judge(folder, made_by)
    cache = Cache(run.path / "guard" / "cache.sqlite")
    for part in dict.fromkeys(parts):
        over_shards(
            shards_of(run.path / "traces"),
            folder / part,
            partial(_judge_shard, judge, Part(part), run.tags, cache, progress),
            made_by=made_by,
            about={"versions": versions()},
            # Texts on which the judge was undecided are asked for again.
            keep=lambda notes: not notes["n_open"],
        )
    return run


def _question(judge: Guard) -> dict[str, str]:
    """What a judge asks, if it is not whether a text is unsafe: it is no judge of safety."""
    question = getattr(judge, "question", "")
    return {"question": question} if question else {}


def _judge_shard(
    judge: Guard,
    part: Part,
    tags: Tags | None,
    cache: Cache,
    progress: Callable[[int], None] | None,
    shard: Path,
) -> Made:
    """The verdicts on one part of a shard's traces."""
    ids = []
    items = []
    for trace in read_traces(shard, format="cotlens"):
        # The judge reads the part that the run found with its delimiters.
        text = part_text(trace, part, tags)
        ids.append(trace.id)
        items.append(Item(request_of(trace), text, part))

    # Empty texts and what the cache has are not asked for.
    verdicts = judge_items(judge, items, cache=cache, progress=progress)
    table = guard_rows(ids, judge.name, judge.revision, part, verdicts)
    n_open = 0
    for item, verdict in zip(items, verdicts, strict=True):
        n_open += verdict.label == "undecided" and bool(item.text.strip())
    return Made(table, {"n_open": n_open, **_count(verdicts)})


def _count(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Verdicts by label, the undecided ones by reason, and those on a shortened prompt."""
    labels = dict.fromkeys(LABELS, 0)
    reasons: Counter[str] = Counter()
    n_cut = 0
    for verdict in verdicts:
        labels[verdict.label] = labels.get(verdict.label, 0) + 1
        n_cut += verdict.n_cut > 0
        if verdict.label == "undecided":
            # What the server said comes after a colon, and differs.
            reasons[verdict.reason.partition(":")[0]] += 1
    return {**labels, "undecided_for": dict(reasons), "n_cut": n_cut}


def _check_same_judge(folder: Path, made_by: Mapping[str, str]) -> None:
    """Raise TraceError if the folder holds another judge's verdicts on some part."""
    for path in folder.glob("*/run.json"):
        earlier = read_info(path.parent)
        if any(earlier.get(name) != value for name, value in made_by.items()):
            raise TraceError(
                f"{folder}: holds the verdicts of another judge or another revision or template "
                f"of it ({earlier.get('judge')} {earlier.get('revision')}); give another --name, "
                "or delete the folder"
            )


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
        part: thinking, answer, full or request.

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
    # Listed before the texts are compared: a shard that changes after that is refused.
    shards = list(shards_of(run.path / "traces"))
    _check_verdicts(verdicts, rows, run)
    _check_texts(rows, run, part)

    # One revision for all rows, from the first.
    revision = ""
    if "revision" in verdicts and len(verdicts):
        revision = str(verdicts["revision"].iloc[0])
    folder = run.path / "guard" / folder_name("", judge)
    made_by = {"judge": judge, "revision": revision, "identity": "made elsewhere"}
    _check_same_judge(folder, made_by)

    def place_verdicts(shard: Path) -> Made:
        ids = read_parquet(shard, ["trace_id"])["trace_id"].to_pylist()
        shard_verdicts = [_verdict_of(rows.get(trace_id)) for trace_id in ids]
        table = guard_rows(ids, judge, revision, part, shard_verdicts)
        return Made(table, _count(shard_verdicts))

    # Other verdicts of the part are replaced.
    over_shards(
        shards,
        folder / part,
        place_verdicts,
        made_by=made_by,
        about={"versions": versions()},
        force=True,
    )
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
    if not has_hashes or run.info["settings"].get("light"):
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
