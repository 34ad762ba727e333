"""A run directory: the traces of one checkpoint on one prompt set, and every table made of them, shard by shard.

    RUN/run.json             what made it: inputs with their hashes, settings, versions, counts
    RUN/traces/part-*.parquet
    RUN/steps/part-*.parquet one shard for each shard of traces
    RUN/scores/SCORER/       part-*.parquet, one for each shard of traces, and its own run.json
    RUN/guard/JUDGE/PART/    part-*.parquet likewise: what a judge says of the thinking or the answer
    RUN/rejects.jsonl        rows that could not be read, where `on_error="skip"` was asked for

A shard is written whole or not at all, and `run.json` says `complete` only at the end: a killed job is called again
with the same inputs and goes on behind the last shard. Memory holds one shard, however large the corpus.
"""

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.formats import find_format
from cotlens.read import MAX_LINE_BYTES, Reject, detect_format, flag_summary, input_files, read_traces
from cotlens.split import Tags, split_trace
from cotlens.table import LIGHT_COLUMNS, LIGHT_STEP_COLUMNS, analyze_traces, guard_rows, score_rows
from cotlens.trace import Trace, TraceError, facts_html

if TYPE_CHECKING:
    from cotlens.guard import Guard, Verdict
    from cotlens.model import Model

SHARD_TRACES = 1000
SHARD_CHARS = 16_000_000  # long traces make smaller shards, so that memory stays flat
_COUNTS = ("n_traces", "n_steps", "n_rejected", "n_shards")


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that exists. Its tables are read with only the columns that are asked for."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def name(self) -> str:
        """That of its folder, also where the path is `.`."""
        return self.path.resolve().name

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says."""
        if not (self.path / "run.json").exists():
            raise TraceError(f"{self.path}: {self._what_it_is()}")
        try:
            info = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TraceError(f"{self.path}: not a cotlens run (run.json cannot be read: {error})") from None
        if not isinstance(info, dict) or not {"inputs", "settings", "versions"} <= set(info):
            raise TraceError(f"{self.path}: not a cotlens run (its run.json is another program's)")
        return info

    def _what_it_is(self) -> str:
        """Why a path that was given for a run is none, and what to do."""
        if not self.path.exists():
            return "no such run directory; `cotlens analyze FILES -o RUN` makes one"
        if self.path.is_file():
            return f"a file, not a cotlens run; make one with: cotlens analyze {self.path} -o RUN"
        if (self.path / "study.json").exists():
            return "a study, not a cotlens run; `cotlens figures STUDY` draws it"
        return "not a cotlens run (it holds no run.json); `cotlens analyze FILES -o RUN` makes one"

    def _repr_html_(self) -> str:
        """What a notebook shows: from what it was made, how much of it there is, who scored and judged it."""
        info = self.info
        inputs = ", ".join(f"{Path(made['path']).name} ({made['format']})" for made in info["inputs"])
        facts = {"run": self.name, "inputs": inputs, "complete": "yes" if info.get("complete") else "no"}
        facts |= {name.removeprefix("n_"): f"{info[name]:,}" for name in _COUNTS if name in info}
        facts |= {"scored by": ", ".join(self.scorers) or "-", "judged by": ", ".join(self.judges) or "-"}
        return facts_html(facts)

    @property
    def tags(self) -> Tags | None:
        """The delimiters of the thought that the run was analyzed with, where they were given."""
        given = self.info["settings"].get("tags")
        return Tags(*given) if given else None

    def shards(self, table: str) -> list[Path]:
        """The parquet files of `traces`, `steps` or `scores/SCORER`, in order."""
        return sorted((self.path / table).glob("part-*.parquet"))

    def trace_table(self, columns: Sequence[str] = LIGHT_COLUMNS) -> pd.DataFrame:
        """One row per trace; by default every column but the texts and the lists per token."""
        return self._read("traces", columns)

    def step_table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per step."""
        return self._read("steps", columns)

    @property
    def judges(self) -> list[str]:
        """Names of the judges that have judged the run."""
        return sorted(path.parent.name for path in (self.path / "guard").glob("*/run.json"))

    def guard_table(self, judge: str, part: str) -> pd.DataFrame:
        """One row per trace with the columns `SCHEMA["guard"]`: what a judge said of a part."""
        if part not in self.judged_parts(judge):
            have = ", ".join(self.judges) or "none; make them with `cotlens guard`"
            raise TraceError(f"{self.path}: no verdicts of {judge} on {part}; judges: {have}")
        folder = self.path / "guard" / judge / part
        if not all(_is_made_from(folder / shard.name, hash_path(shard)) for shard in self.shards("traces")):
            raise TraceError(
                f"{self.path}: the traces have changed since {judge} judged their {part}; call `cotlens guard` again"
            )
        return self._read(f"guard/{judge}/{part}", None)

    def judged_parts(self, judge: str) -> list[str]:
        """The parts of the traces that a judge has judged."""
        try:
            made = json.loads((self.path / "guard" / judge / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return sorted(made.get("counts", {}))

    def with_verdicts(self, traces: pd.DataFrame, judge: str) -> pd.DataFrame:
        """The trace table with a column `PART_unsafe` for each part that a judge has judged, and `refuses`.

        True for unsafe and controversial, false for safe, missing where the judge is undecided. `refuses` is what the
        judge says of the answer, missing where it does not say.

        Raises:
            TraceError: if there is no such judge.
        """
        from cotlens.guard import LABELS

        if judge not in self.judges:
            have = ", ".join(self.judges) or "none; make them with `cotlens guard`"
            raise TraceError(f"{self.path}: no verdicts of {judge}; judges: {have}")
        added = {}
        for part in self.judged_parts(judge):
            said = self.guard_table(judge, part).set_index("trace_id")
            added[f"{part}_unsafe"] = said["label"].map(LABELS).astype("boolean")
            if part == "answer":
                added["refuses"] = said["refusal"].astype("boolean")
        return traces.merge(pd.DataFrame(added), left_on="trace_id", right_index=True, how="left")

    def verdicts(self) -> pd.DataFrame:
        """What every judge says, one row per (trace, part, judge): trace_id, prompt_id, part, judge, and `unsafe` as in
        `with_verdicts`.
        """  # noqa: D205
        prompts = self.trace_table(["trace_id", "prompt_id"])
        tables = [prompts.head(0).assign(part="", judge="", unsafe=pd.Series(dtype="boolean"))]
        for judge in self.judges:
            said = self.with_verdicts(prompts, judge)
            for part in self.judged_parts(judge):
                tables.append(prompts.assign(part=part, judge=judge, unsafe=said[f"{part}_unsafe"]))
        return pd.concat(tables, ignore_index=True)

    @property
    def scorers(self) -> list[str]:
        """Names of the models that have scored the run's tokens, or begun to."""
        return sorted(path.parent.name for path in (self.path / "scores").glob("*/run.json"))

    def is_scored(self, scorer: str) -> bool:
        """Whether a scorer's work is complete and was made from the traces as they are."""
        try:
            return bool(self._complete(scorer))
        except TraceError:
            return False

    def score_info(self, scorer: str) -> dict[str, Any]:
        """What the scorer's own run.json says: model, revision, dtype, device, settings, versions, counts."""
        path = self.path / "scores" / self._scorer(scorer) / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TraceError(f"{path}: damaged ({error}); call `cotlens score` again with --force") from None

    def score_table(self, scorer: str = "", columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per trace with the columns `SCHEMA["scores"]`; with one scorer, its name can be left out."""
        return self._read(f"scores/{self._complete(scorer)}", columns)

    def scored_shards(self, scorer: str = "") -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
        """Trace table with its completions, step table and score table of one shard after the other."""
        scorer = self._complete(scorer)
        for shard in self.shards("traces"):
            texts = ["completion"] if "completion" in pq.read_schema(shard).names else []
            traces = pq.read_table(shard, columns=[*LIGHT_COLUMNS, *texts]).to_pandas()
            steps = pq.read_table(self.path / "steps" / shard.name).to_pandas()
            yield traces, steps, pq.read_table(self.path / "scores" / scorer / shard.name).to_pandas()

    def _complete(self, scorer: str) -> str:
        """The scorer's name, once it is known that every shard is there and was made from the traces as they are."""
        scorer = self._scorer(scorer)
        folder = self.path / "scores" / scorer
        made = all(_is_made_from(folder / shard.name, hash_path(shard)) for shard in self.shards("traces"))
        if not (made and self.score_info(scorer).get("complete")):
            raise TraceError(
                f"{self.path}: the scores of {scorer} are not complete, or the traces have changed since; "
                "call `cotlens score` again"
            )
        return scorer

    def _scorer(self, name: str) -> str:
        if name in self.scorers:
            return name
        if not name and len(self.scorers) == 1:
            return self.scorers[0]
        have = ", ".join(self.scorers) or "none; make them with `cotlens score`"
        raise TraceError(f"{self.path}: asked for token scores of {name or 'the one scorer'}; there are {have}")

    def traces(self) -> Iterator[Trace]:
        """The traces, exactly as they were read from the source."""
        return read_traces(self.path, format="cotlens")

    def _read(self, table: str, columns: Sequence[str] | None) -> pd.DataFrame:
        shards = self.shards(table)
        if not shards:
            inputs = " ".join(made_from["path"] for made_from in self.info["inputs"])
            raise TraceError(f"{self.path}: no {table} yet; finish it with `cotlens analyze {inputs} -o {self.path}`")
        parts = [pq.read_table(shard, columns=None if columns is None else list(columns)) for shard in shards]
        return pa.concat_tables(parts).to_pandas()


def analyze(
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    format: str | None = None,
    model: str = "",
    method: str = "",
    tags: Tags | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    max_line_bytes: int = MAX_LINE_BYTES,
    light: bool = False,
    tokenizer: str = "",
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Reads, splits and segments every trace of `paths` into the run directory `out`, and returns the run.

    Called again with the same inputs it does nothing, or finishes what a killed call left.

    Args:
        paths: files or folders, as `read_traces` takes them.
        out: the run directory; made if it is missing.
        format: as in `read_traces`.
        model: name for the traces that have none.
        method: name of the checkpoint or training arm, for the traces that have none.
        tags: delimiters of the thought, where they are not among those that cotlens knows.
        on_error: `stop` raises at the first row that cannot be read; `skip` writes it to `rejects.jsonl`.
        max_line_bytes: as in `read_traces`.
        light: leave out texts and token lists: the figures can still be drawn, from a run small enough to commit.
        tokenizer: folder or Hub repository of the tokenizer of rows that hold token ids and no text.
        force: make the run anew, whatever it was made from.
        progress: called with the number of traces done since the last call.

    Raises:
        TraceError: for a row that cannot be read, or if `out` holds something else.
    """
    files = input_files(paths)
    if not files:
        raise TraceError("nothing to analyze: no input file was given")
    run = Run(Path(out))
    settings = {"model": model, "method": method, "tags": tags, "light": light, "max_line_bytes": max_line_bytes}
    settings |= {"tokenizer": tokenizer} if tokenizer else {}
    made_by = _provenance(files, format) | {"settings": settings}
    with only_one(run.path):
        if _prepare(run, made_by, files, force):
            return _whole(run, on_error)
        with _Rejects(run.path) as rejects:
            traces = read_traces(
                files,
                format=format,
                on_reject=rejects.write if on_error == "skip" else None,
                max_line_bytes=max_line_bytes,
                tokenizer=load_tokenizer(tokenizer) if tokenizer else None,
            )
            named = (_named(trace, model, method) for trace in traces)
            counts = dict.fromkeys(_COUNTS, 0)
            for number, shard in enumerate(_shards(named)):
                counts["n_traces"] += len(shard)
                counts["n_steps"] += _write_shard(run, number, shard, tags, light)
                counts["n_shards"] = number + 1
                if progress:
                    progress(len(shard))
            counts["n_rejected"] = rejects.n
            if not counts["n_traces"]:
                raise TraceError(f"none of the {rejects.n} rows could be read; the first: {rejects.first}")
        _write_info(run, made_by | {"complete": True} | counts)
    return run


def score(
    run: Run | str | Path,
    model: "Model",
    *,
    reference: "Model | None" = None,
    name: str = "",
    temperature: float = 1.0,
    top_k: int = 0,
    retokenize: bool = False,
    long: Literal["error", "window"] = "error",
    on_error: Literal["stop", "skip"] = "stop",
    tokens_per_batch: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Scores every token of a run's completions into RUN/scores/NAME, and returns what its run.json says.

    A shard is done when its file is there and was made from the trace shard as it is now: a killed job goes on.

    Args:
        run: a run directory that holds its texts or token ids (not made with `light`).
        model: the scoring model.
        reference: as in `score_tokens`, like the arguments that follow.
        name: of the folder; default: the last part of the model's name.
        temperature: divides the logits.
        top_k: likeliest words to keep.
        retokenize: score the text also of traces that have token ids.
        long: what to do with traces longer than the context.
        on_error: `skip` marks traces that cannot be scored, and counts them.
        tokens_per_batch: padded tokens that are computed together.
        force: score anew, whatever the folder holds.
        progress: called with the number of tokens done since the last call.

    Raises:
        TraceError: for a trace that cannot be scored, or if the folder holds scores made with other settings.
    """
    from cotlens.model import score_tokens

    run = run if isinstance(run, Run) else Run(Path(run))
    shards = text_shards(run)
    folder = run.path / "scores" / _folder_name(name, model.name)
    # What decides the numbers; how faults are met does not, so a job that stopped at one goes on with another answer.
    settings = {"temperature": temperature, "top_k": top_k, "retokenize": retokenize}
    made_by = _scorer_info(model, reference) | {"settings": settings}
    with only_one(folder):
        _prepare_scores(folder, made_by, force)
        counts: dict[str, int] = dict.fromkeys(
            ("n_traces", "n_tokens", "n_unscored", "n_retokenized", "n_inexact", "n_windowed"), 0
        )
        for shard in shards:
            done, source = folder / shard.name, hash_path(shard)
            met = f"{long}, {on_error}"
            if not _is_made_from(done, source) or _has_errors_met_otherwise(done, met):
                traces = list(read_traces(shard, format="cotlens"))
                scored = score_tokens(
                    model,
                    traces,
                    reference=reference,
                    **settings,
                    long=long,
                    on_error=on_error,
                    tokens_per_batch=tokens_per_batch,
                    progress=progress,
                )
                table = score_rows(scored)
                write_parquet(done, table.replace_schema_metadata({_SOURCE: source, _MET: met}))
            _count(counts, done)
        for stray in set(folder.glob("part-*.parquet")) - {folder / shard.name for shard in shards}:
            stray.unlink()
        write_atomic(folder / "run.json", _json(made_by | {"complete": True} | counts))
    return made_by | counts


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
    from cotlens.guard import Cache, Item, Part
    from cotlens.guard import judge as judge_items

    run = run if isinstance(run, Run) else Run(Path(run))
    if isinstance(parts, str) or not parts or not set(parts) <= {"thinking", "answer", "full"}:
        raise TraceError(f"parts: expected a list of thinking, answer and full, got {parts!r}")
    folder = run.path / "guard" / _folder_name(name, judge.name)
    wanted, tags = [Part(part) for part in dict.fromkeys(parts)], run.tags
    info = {"judge": judge.name, "revision": judge.revision, "identity": judge.identity}
    counts: dict[str, dict[str, int]] = {part.value: {} for part in wanted}
    with only_one(folder):
        earlier = _earlier_parts(folder, info)
        cache = Cache(run.path / "guard" / "cache.sqlite")
        for shard in text_shards(run):
            traces, source = list(read_traces(shard, format="cotlens")), hash_path(shard)
            for part in wanted:
                items = [Item(request_of(trace), part_text(trace, part, tags), part) for trace in traces]
                verdicts = judge_items(judge, items, cache=cache, progress=progress)
                table = guard_rows([trace.id for trace in traces], judge.name, judge.revision, part, verdicts)
                _write_verdicts(folder / part.value / shard.name, table, source, counts[part])
        _drop_strays(run, [folder / part.value for part in wanted])
        write_atomic(folder / "run.json", _json(info | {"versions": versions(), "counts": earlier | counts}))
    return info | {"counts": counts}


def add_verdicts(run: Run | str | Path, verdicts: pd.DataFrame, judge: str, part: str) -> dict[str, Any]:
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
    from cotlens.guard import LABELS, Part, Verdict

    run, part = run if isinstance(run, Run) else Run(Path(run)), Part(part)
    if missing := {"trace_id", "label"} - set(verdicts):
        raise TraceError(f"verdicts: no column {', '.join(sorted(missing))}; there are {', '.join(map(str, verdicts))}")
    rows = {str(key): row for key, row in zip(verdicts["trace_id"], verdicts.to_dict("records"), strict=True)}
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
            raise TraceError(f"verdicts: {len(found):,} {fault}, the first is {next(iter(found))!r}")
    revision = str(verdicts["revision"].iloc[0]) if "revision" in verdicts and len(verdicts) else ""
    info = {"judge": judge, "revision": revision, "identity": "made elsewhere"}
    folder, counts = run.path / "guard" / _folder_name("", judge), {part.value: {}}
    with only_one(folder):
        earlier = _earlier_parts(folder, info)
        if earlier.pop(part.value, None) is not None:  # cut off, old and new verdicts are mixed: the part is not judged
            write_atomic(folder / "run.json", _json(info | {"versions": versions(), "counts": earlier}))
        for shard in run.shards("traces"):
            ids = pq.read_table(shard, columns=["trace_id"])["trace_id"].to_pylist()
            found = [_verdict_of(rows[key]) if key in rows else Verdict("undecided") for key in ids]
            table = guard_rows(ids, judge, revision, part, found)
            _write_verdicts(folder / part.value / shard.name, table, hash_path(shard), counts[part.value])
        _drop_strays(run, [folder / part.value])
        write_atomic(folder / "run.json", _json(info | {"versions": versions(), "counts": earlier | counts}))
    return info | {"counts": counts}


def _verdict_of(row: Mapping[Any, Any]) -> "Verdict":
    from cotlens.guard import Verdict

    p = row.get("p_unsafe")
    return Verdict(
        row["label"], p_unsafe=math.nan if p is None or pd.isna(p) else float(p), refusal=_refusal(row.get("refusal"))
    )


def _is_probability(value: Any) -> bool:
    try:
        return value is None or bool(pd.isna(value)) or 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


_WRONG: Any = object()
_TRUTHS = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}


def _refusal(value: Any) -> Any:
    """True, False, None where nothing is said, and _WRONG for what is neither: text is not true for being there."""
    return None if value is None or pd.isna(value) else _TRUTHS.get(str(value).strip().lower(), _WRONG)


def _earlier_parts(folder: Path, info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What the same judge has said before, of any part; a folder holds one judge's verdicts only."""
    try:
        before = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if any(before.get(key) != value for key, value in info.items()):
        raise TraceError(
            f"{folder}: holds the verdicts of another judge or another revision or template of it "
            f"({before.get('judge')} {before.get('revision')}); give another --name, or delete the folder"
        )
    return before.get("counts", {})


def _write_verdicts(path: Path, table: pa.Table, source: str, counts: dict[str, int]) -> None:
    for label in table["label"].to_pylist():
        counts[label] = counts.get(label, 0) + 1
    write_parquet(path, table.replace_schema_metadata({_SOURCE: source}))


def _drop_strays(run: Run, folders: Sequence[Path]) -> None:
    """Removes verdicts on shards that the run no longer has."""
    names = {shard.name for shard in run.shards("traces")}
    for folder in folders:
        for stray in [path for path in folder.glob("part-*.parquet") if path.name not in names]:
            stray.unlink()


def request_of(trace: Trace) -> str:
    """What the user asked, for a judge: `meta["request"]` where the source keeps it beside a rendered prompt."""
    return str(trace.meta.get("request") or trace.prompt)


def part_text(trace: Trace, part: str, tags: Tags | None = None) -> str:
    """The thinking, the answer, or all of a completion; several thoughts are joined by a blank line."""
    if part == "full":
        return trace.completion
    split = split_trace(trace, tags=tags)
    if part == "answer":
        return split.answer.of(trace.completion)
    return "\n\n".join(span.of(trace.completion) for span in split.think)


def text_shards(run: Run) -> list[Path]:
    """The shards of a complete run that holds its texts."""
    shards = run.shards("traces")
    if not shards or not run.info.get("complete"):
        raise TraceError(f"{run.path}: the run is not complete; call `cotlens analyze` again with the same inputs")
    if run.info["settings"].get("light"):
        raise TraceError(f"{run.path}: a light run keeps no text; make it again without --light")
    return shards


_SOURCE = b"sha256 of the trace shard"
_MET = b"how faults were met"


def _folder_name(name: str, model: str) -> str:
    """The name that was given, if it is one; else the last part of the model's, made one."""
    if name:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise TraceError(f"--name {name!r}: expected letters, digits, dots, dashes and underscores")
        return name
    last = Path(model).resolve().name if Path(model).is_dir() else model.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "model"


def _scorer_info(model: "Model", reference: "Model | None") -> dict[str, Any]:
    return {
        "model": describe_model(model),
        "reference": None if reference is None else describe_model(reference),
        "versions": model_versions(),
    }


def describe_model(model: "Model") -> dict[str, str]:
    """What tells a loaded model from another: its name, revision and weights, and what it computes with."""
    from cotlens.model import fingerprint

    return {
        "name": short_name(model.name),
        "revision": model.revision,
        "fingerprint": fingerprint(model.network),
        "dtype": str(model.head.weight.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def short_name(model: str) -> str:
    """The name of a model's folder without the way to it, or its repository."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _prepare_scores(folder: Path, made_by: dict[str, Any], force: bool) -> None:
    """Makes room for the scores of one model: nothing is mixed with what other settings made."""
    shards, before = list(folder.glob("part-*.parquet")), {}
    if (folder / "run.json").exists():
        try:
            before = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except ValueError:
            before = {}  # damaged: what lies there may be anyone's
    for partial in folder.glob(".part-*.partial"):  # of a job that was killed while it wrote
        partial.unlink()
    same = {key: before.get(key) for key in made_by} == json.loads(json.dumps(made_by))
    if shards and not same and not force:
        raise TraceError(
            f"{folder}: holds scores made by another model (weights of the same name count as another), settings or "
            "versions; give another --name, or --force"
        )
    if force or not same:
        for shard in shards:
            shard.unlink()
    write_atomic(folder / "run.json", _json(made_by | {"complete": False}))


def _is_made_from(done: Path, source: str) -> bool:
    return _metadata(done).get(_SOURCE) == source.encode()


def _metadata(done: Path) -> dict[bytes, bytes]:
    try:
        return pq.read_schema(done).metadata or {}
    except (OSError, pa.ArrowInvalid):  # not there, or damaged: it is made again
        return {}


def _has_errors_met_otherwise(done: Path, met: str) -> bool:
    """Whether a shard left traces unscored that a call with other answers to faults may score, or must refuse."""
    if _metadata(done).get(_MET) == met.encode():
        return False
    errors = pq.read_table(done, columns=["error"])["error"].to_pylist()
    return any(errors)


def _count(counts: dict[str, int], shard: Path) -> None:
    table = pq.read_table(shard, columns=["entropy", "error", "encoding", "exact", "windowed"]).to_pandas()
    counts["n_traces"] += len(table)
    counts["n_tokens"] += int(table["entropy"].str.len().sum())
    counts["n_unscored"] += int((table["error"] != "").sum())
    counts["n_retokenized"] += int((table["encoding"] == "text").sum())
    counts["n_inexact"] += int((table["exact"] == False).sum())  # noqa: E712 - null is neither
    counts["n_windowed"] += int(table["windowed"].sum())


def _whole(run: Run, on_error: str) -> Run:
    """The run, unless it left rows out that the caller wants."""
    rejected = run.info["n_rejected"]
    if rejected and on_error == "stop":
        raise TraceError(
            f"{run.path}: {rejected} rows could not be read when the run was made (rejects.jsonl lists them); "
            "mend them, or accept that with --on-error skip"
        )
    return run


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a folder for this process, so that two jobs cannot write into each other's shards."""
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"{folder}: is a file; the run directory must be a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TraceError(f"{folder}: another process is writing here") from None
        yield


class _Rejects:
    """Writes rejected rows as they come, and puts the file in its place at the end."""

    def __init__(self, folder: Path) -> None:
        self.path, self.n, self.first = folder / "rejects.jsonl", 0, ""

    def __enter__(self) -> "_Rejects":
        self.partial = self.path.with_name("rejects.jsonl.partial")
        self.file = self.partial.open("w", encoding="ascii")
        return self

    def write(self, reject: Reject) -> None:
        self.first = self.first or reject.reason
        self.n += 1
        self.file.write(json.dumps(reject._asdict(), ensure_ascii=True) + "\n")

    def __exit__(self, *error: object) -> None:
        self.file.close()
        if self.n and error[0] is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink()


def _named(trace: Trace, model: str, method: str) -> Trace:
    if (trace.model or not model) and (trace.method or not method):
        return trace
    return flag_summary(replace(trace, model=trace.model or model, method=trace.method or method))


def _prepare(run: Run, made_by: dict[str, Any], files: Sequence[Path], force: bool) -> bool:
    """Whether the run is already complete; makes room for it otherwise."""
    if any(run.path.resolve() in (file.resolve(), *file.resolve().parents) for file in files):
        raise TraceError(f"{run.path}: holds one of the inputs; choose another folder for the run")
    if any(not child.name.startswith(".") and child.suffix != ".partial" for child in run.path.iterdir()):
        before = run.info  # raises where the folder is no run: nothing foreign is ever removed
        if _same(before, made_by) and not force:
            return bool(before.get("complete")) and _has_shards(run, before["n_shards"])
        if not force and run.shards("steps"):
            raise TraceError(
                f"{run.path}: holds a run made from other inputs, settings or versions; "
                "choose another folder, or replace it with --force"
            )
        _write_info(run, before | {"complete": False})
        for shard in (*run.shards("steps"), *run.shards("traces"), run.path / "rejects.jsonl"):
            shard.unlink(missing_ok=True)
    _write_info(run, made_by | {"complete": False})
    return False


def _has_shards(run: Run, n: int) -> bool:
    """Whether every shard is there that a complete run had: one may have been removed since."""
    return all(len(run.shards(table)) == n for table in ("traces", "steps"))


def _same(before: dict[str, Any], made_by: dict[str, Any]) -> bool:
    """Whether a run was made from the same contents, wherever the files lie, with the same settings and versions."""

    def essence(info: dict[str, Any]) -> Any:
        contents = [(made_from["format"], made_from["sha256"]) for made_from in info["inputs"]]
        return json.loads(json.dumps([contents, info["settings"], info["versions"]]))

    return essence(before) == essence(made_by)


def _shards(traces: Iterator[Trace]) -> Iterator[list[Trace]]:
    """Traces in groups of at most `SHARD_TRACES` and about `SHARD_CHARS` characters."""
    while shard := list(islice(_until(traces, SHARD_CHARS), SHARD_TRACES)):
        yield shard


def _until(traces: Iterator[Trace], chars: int) -> Iterator[Trace]:
    for trace in traces:
        yield trace
        chars -= len(trace.completion) + len(trace.prompt) + 8 * len(trace.token_ids or ()) + len(str(trace.meta))
        if chars <= 0:
            return


def _write_shard(run: Run, number: int, traces: Iterable[Trace], tags: Tags | None, light: bool) -> int:
    """Writes both tables of one shard unless they are there; returns the number of steps."""
    name = f"part-{number:05d}.parquet"
    done = run.path / "steps" / name  # written last
    if done.exists() and (run.path / "traces" / name).exists():
        return pq.read_metadata(done).num_rows
    trace_table, step_table = analyze_traces(traces, tags)
    if light:
        trace_table, step_table = trace_table.select(LIGHT_COLUMNS), step_table.select(LIGHT_STEP_COLUMNS)
    write_parquet(run.path / "traces" / name, trace_table)
    write_parquet(done, step_table)
    return step_table.num_rows


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what stands there at the end takes the place of `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    yield partial
    os.replace(partial, path)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes a parquet file whole or not at all."""
    with _replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    with _replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def _write_info(run: Run, info: dict[str, Any]) -> None:
    write_atomic(run.path / "run.json", _json(info))


def _json(info: dict[str, Any]) -> str:
    return json.dumps(info, indent=2, ensure_ascii=False) + "\n"


def _provenance(paths: Sequence[Path], format: str | None) -> dict[str, Any]:
    """What a run is made from. Two calls with the same answer make the same run."""
    inputs = []
    for path in paths:
        shape = find_format(format) if format else detect_format(path)
        inputs.append({"path": str(path), "format": shape.name, "lacks": list(shape.lacks), "sha256": hash_path(path)})
    return {"inputs": inputs, "versions": versions()}


def load_tokenizer(name: str) -> Any:
    """A tokenizer of transformers, without its model."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise TraceError("a tokenizer needs transformers; `pip install cotlens[model]`") from None
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TraceError(f"{name}: no tokenizer can be loaded: {str(error).splitlines()[0]}") from None


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers and pictures depend on."""
    return {name: version(name) for name in ("cotlens", "numpy", "pandas", "pyarrow", "scipy", "matplotlib")}


def model_versions() -> dict[str, str]:
    """Versions of what `versions` lists and of the packages that run a model."""
    return versions() | {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for child in sorted(child for child in path.rglob("*") if child.is_file()):
        digest.update(f"{child.relative_to(path)}\0{hash_path(child)}\n".encode())
    return digest.hexdigest()
