"""Run: the traces of one checkpoint on one prompt set, and every table made of them, on disk.

    RUN/run.json             what made it: inputs with their hashes, settings, versions, counts
    RUN/traces/              the traces, where their thinking is, and their answers
    RUN/steps/               one shard for each shard of traces
    RUN/scores/SCORER/       likewise
    RUN/guard/JUDGE/PART/    likewise: verdicts on the thinking or the answer
    RUN/rejects.jsonl        rows that could not be read, where `on_error="skip"` was asked for

Each of these folders holds part-*.parquet and a run.json of its own, as `runs/shards.py` makes
them. Call a killed job again with the same inputs: it resumes after the last finished shard.
Memory holds one shard, however large the corpus.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cotlens.display import facts_html
from cotlens.files import read_parquet
from cotlens.formats.read import read_traces
from cotlens.judges.verdict import ANSWERS, LABELS
from cotlens.runs.schema import LIGHT_COLUMNS, TRACE_NAMES
from cotlens.runs.shards import check_shard, read_info, read_ledger, read_shards, shards_of
from cotlens.runs.tables import step_texts
from cotlens.text.families import Tags
from cotlens.trace import Trace, TraceError

COUNTS = ("n_traces", "n_steps", "n_rejected", "n_shards")  # in the run.json of a complete run


# What `run.json` holds of a run, where it holds it.
_TYPES: dict[str, type] = {
    "inputs": list,
    "settings": dict,
    "versions": dict,
    "complete": bool,
    "n_traces": int,
    "n_steps": int,
    "n_rejected": int,
}
_NAMES = {list: "a list", dict: "an object", bool: "true or false", int: "a whole number"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory. Its tables are read when asked for, and only the columns asked for."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def name(self) -> str:
        """The name of its folder, also where the path is `.`."""
        return self.path.resolve().name

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says: inputs with their hashes, settings, versions, counts, `complete`.

        Raises:
            TraceError: if the folder holds no `run.json`, or one that cotlens did not write.
        """
        path = self.path / "run.json"
        if not path.exists():
            raise TraceError(f"{self.path}: {self._why_no_run()}")
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TraceError(
                f"{self.path}: not a cotlens run, or a damaged one (run.json cannot be read: "
                f"{error}); `cotlens analyze FILES -o RUN --force` makes it again"
            ) from None

        # Other programs write a run.json too: a run of ours has at least these keys.
        if not isinstance(info, dict) or not {"inputs", "settings", "versions"} <= set(info):
            raise TraceError(f"{self.path}: not a cotlens run (its run.json is another program's)")
        for name, kind in _TYPES.items():
            if name in info and not isinstance(info[name], kind):
                raise TraceError(
                    f"{self.path}: run.json: expected `{name}` to be {_NAMES[kind]}, got "
                    f"{info[name]!r:.40}; `cotlens analyze FILES -o RUN --force` makes it again"
                )
        return info

    def _why_no_run(self) -> str:
        """Why a path without a `run.json` cannot be opened, and what to do."""
        if not self.path.exists():
            return "no such run directory; `cotlens analyze FILES -o RUN` makes one"
        if self.path.is_file():
            return f"a file, not a cotlens run; make one with: cotlens analyze {self.path} -o RUN"
        if (self.path / "study.json").exists():
            return "a study, not a cotlens run; `cotlens figures STUDY` draws it"
        return "not a cotlens run (it holds no run.json); `cotlens analyze FILES -o RUN` makes one"

    @property
    def tags(self) -> Tags | None:
        """The delimiters of the thought that the run was analyzed with; None: the known ones."""
        tags = self.info["settings"].get("tags")
        return Tags(*tags) if tags else None

    def shards(self, table: str) -> list[Path]:
        """Parquet files of `traces`, `steps`, `scores/SCORER` or `guard/JUDGE/PART`, in order."""
        folder = self.path / table
        return sorted(folder.glob("part-*.parquet"))

    def traces(self) -> Iterator[Trace]:
        """The traces, exactly as they were read from the source.

        Raises:
            TraceError: if the run is not complete, is a light run, or has a damaged shard.
        """
        text_shards(self)  # raises if there is no text
        for shard in shards_of(self.path / "traces"):
            yield from read_traces(shard.work, format="cotlens")

    def trace(self, trace_id: str) -> Trace:
        """The trace of an id, exactly as it was read from the source; also `run[trace_id]`.

        Raises:
            TraceError: as `traces`, or if the run has no such trace.
        """
        for trace in self.traces():
            if trace.id == trace_id:
                return trace
        ids = self._read("traces", ["trace_id"])["trace_id"]
        first = ", ".join(ids.head(3))
        raise TraceError(f"{self.path}: no trace {trace_id!r}; the first of {len(ids):,}: {first}")

    def __getitem__(self, trace_id: str) -> Trace:
        return self.trace(trace_id)

    def trace_table(self, columns: Sequence[str] | None = LIGHT_COLUMNS) -> pd.DataFrame:
        """One row per trace; by default every column but the texts and the lists per token.

        Args:
            columns: of `SCHEMA["traces"]`; None: all that the run holds.
        """
        # The number of steps is the number of the trace's rows in the step table.
        if columns is None:
            light = self.info["settings"].get("light")
            columns = LIGHT_COLUMNS if light else TRACE_NAMES
        if "n_steps" not in columns:
            return self._read("traces", columns)

        stored = dict.fromkeys(["trace_id", *columns])
        del stored["n_steps"]
        steps = self._read("steps", ["trace_id"])
        return with_n_steps(self._read("traces", list(stored)), steps, columns)

    def step_table(
        self,
        columns: Sequence[str] | None = None,
        *,
        with_traces: Sequence[str] = (),
        text: bool = False,
    ) -> pd.DataFrame:
        """One row per step, in the order of traces and steps.

        Args:
            columns: of `SCHEMA["steps"]`; None: all that the run holds.
            with_traces: columns of the trace table to add to every step of the trace, after the
                step's own. A column that the step table has already (`trace_id`) is not added
                twice.
            text: adds the text of each step as a last column `text`.

        Raises:
            TraceError: if the run is not analyzed, or its traces have no column of that name; with
                `text`, if it is a light run.
        """
        if text:
            steps = self.step_table(columns, with_traces=with_traces)
            return steps.assign(text=self._step_texts())
        steps = self._read("steps", columns)
        if not with_traces:
            return steps

        # Nothing twice: neither what the steps have, nor a name that was given twice.
        self._check_trace_columns(with_traces)
        added = []
        for name in with_traces:
            if name not in steps and name not in added:
                added.append(name)

        needed = added if "trace_id" in added else ["trace_id", *added]
        traces = self.trace_table(needed)
        traces = traces.set_index("trace_id", drop=False)

        # Steps that were read without their trace ids still need them to find their traces.
        ids = steps if "trace_id" in steps else self._read("steps", ["trace_id"])
        rows_of_steps = traces.loc[ids["trace_id"], added]
        rows_of_steps.index = steps.index
        return pd.concat([steps, rows_of_steps], axis="columns")

    def _step_texts(self) -> list[str]:
        """The text of every step, in the order of the step table."""
        text_shards(self)  # raises if there is no text
        places = self._read("steps", ["trace_id", "start", "stop"])
        traces = self._read("traces", ["trace_id", "completion"])
        completions = dict(zip(traces["trace_id"], traces["completion"], strict=True))
        return step_texts(places, completions)

    def _check_trace_columns(self, names: Sequence[str]) -> None:
        """Raise TraceError unless the run's traces have these columns."""
        is_light = self.info["settings"].get("light")
        available = LIGHT_COLUMNS if is_light else TRACE_NAMES
        unknown = [name for name in names if name not in available]
        if unknown:
            raise TraceError(
                f"{self.path}: the traces have no column {', '.join(unknown)}; "
                f"there are {', '.join(available)}"
            )

    @property
    def judges(self) -> list[str]:
        """Names of the judges of safety that have judged the run."""
        return sorted(self._judges_by_question().get("", ()))

    @property
    def other_judges(self) -> list[str]:
        """Names of the judges that answer another question: whether a thinking reflects, say."""
        judges = set()
        for question, names in self._judges_by_question().items():
            if question:
                judges |= names
        return sorted(judges)

    def _judges_by_question(self) -> dict[str, set[str]]:
        """Names of judges by what they ask; "" is whether a text is unsafe."""
        judges: dict[str, set[str]] = {}
        for path in self.path.glob("guard/*/*/run.json"):
            question = read_info(path.parent).get("question", "")
            judges.setdefault(question, set()).add(path.parent.parent.name)
        return judges

    def judged_parts(self, judge: str) -> list[str]:
        """The parts that a judge has judged, all traces of them; none if there is no such judge."""
        folders = self.path.glob(f"guard/{judge}/*/")
        return sorted(folder.name for folder in folders if read_info(folder).get("complete"))

    def judge_info(self, judge: str) -> dict[str, Any]:
        """What made a judge's verdicts: judge, revision, identity, versions, and counts.

        `counts` has for each part that was judged the number of verdicts of each label; `undecided`
        how many are undecided for each reason; `n_cut` how many were given with a shortened prompt.

        Raises:
            TraceError: if there is no such judge, or a `run.json` of its is damaged.
        """
        if judge not in self.other_judges:
            self._check_judge(judge)
        info: dict[str, Any] = {}
        counts = {}
        undecided = {}
        n_cut = {}
        for path in sorted(self.path.glob(f"guard/{judge}/*/run.json")):
            part_info = _read_json(path, "cotlens guard")
            for name in ("judge", "revision", "identity", "versions"):
                info[name] = part_info.get(name)
            if part_info.get("complete"):
                part = path.parent.name
                labels = {label: part_info.get(label, 0) for label in (*LABELS, *ANSWERS)}
                counts[part] = {label: n for label, n in labels.items() if n}
                undecided[part] = part_info.get("undecided_for", {})
                n_cut[part] = part_info.get("n_cut", 0)
        return info | {"counts": counts, "undecided": undecided, "n_cut": n_cut}

    def _check_judge(self, judge: str) -> None:
        """Raise TraceError if there is no such judge."""
        if judge not in self.judges:
            raise TraceError(f"{self.path}: no verdicts of {judge}; judges: {self._list_judges()}")

    def _list_judges(self) -> str:
        names = ", ".join(self.judges)
        return names or "none; make them with `cotlens guard`"

    def guard_table(
        self, judge: str, part: str, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """One row per trace with a judge's verdicts on a part.

        Args:
            judge: its name.
            part: that it has judged.
            columns: of `SCHEMA["guard"]`; None: all.

        Raises:
            TraceError: if the judge has not judged the part, or the traces have changed since.
        """
        if part not in self.judged_parts(judge):
            raise TraceError(
                f"{self.path}: no verdicts of {judge} on {part}; judges: {self._list_judges()}"
            )
        # A verdict holds only for the text that the judge read.
        folder = self.path / "guard" / judge / part
        if not self._is_made_from_traces(folder):
            raise TraceError(
                f"{self.path}: the traces have changed since {judge} judged their {part}; "
                "call `cotlens guard` again"
            )
        return self._read(f"guard/{judge}/{part}", columns)

    def with_verdicts(self, traces: pd.DataFrame, judge: str) -> pd.DataFrame:
        """The trace table with `PART_unsafe` for each part that a judge has judged, and `refuses`.

        True for unsafe and controversial, false for safe, missing where the judge is undecided.
        `refuses` is the judge's word on the answer, missing where it gives none.

        Raises:
            TraceError: if there is no such judge.
        """
        self._check_judge(judge)

        # Nullable booleans: a judge may be undecided, and give no word on refusals.
        added = {}
        for part in self.judged_parts(judge):
            verdicts = self.guard_table(judge, part, ["trace_id", "label", "refusal"])
            verdicts = verdicts.set_index("trace_id")
            unsafe = verdicts["label"].map(LABELS)
            added[f"{part}_unsafe"] = unsafe.astype("boolean")
            if part == "answer":
                added["refuses"] = verdicts["refusal"].astype("boolean")

        # Traces of the table that are not in the run get missing values.
        by_trace = pd.DataFrame(added)
        return traces.merge(by_trace, left_on="trace_id", right_index=True, how="left")

    def verdicts(self) -> pd.DataFrame:
        """The verdicts of every judge, one row per (trace, part, judge).

        The columns are trace_id, prompt_id, part, judge, and `unsafe` as in `with_verdicts`.
        """
        prompts = self.trace_table(["trace_id", "prompt_id"])

        # An empty table first: it gives a run without judges the same columns.
        no_verdict = pd.Series(dtype="boolean")
        tables = [prompts.head(0).assign(part="", judge="", unsafe=no_verdict)]
        for judge in self.judges:
            judged = self.with_verdicts(prompts, judge)
            for part in self.judged_parts(judge):
                unsafe = judged[f"{part}_unsafe"]
                tables.append(prompts.assign(part=part, judge=judge, unsafe=unsafe))
        return pd.concat(tables, ignore_index=True)

    @property
    def scorers(self) -> list[str]:
        """Names of the models that have scored the run's tokens, or begun to."""
        paths = self.path.glob("scores/*/run.json")
        return sorted(path.parent.name for path in paths)

    def is_scored(self, scorer: str) -> bool:
        """Whether a scorer's work is complete and was made from the traces as they are now."""
        try:
            self._complete_scorer(scorer)
        except TraceError:
            return False
        return True

    def score_info(self, scorer: str = "") -> dict[str, Any]:
        """What the scorer's own `run.json` says: model, reference, settings, versions, counts.

        Args:
            scorer: its name; with one scorer, it can be left out.

        Raises:
            TraceError: if there is no such scorer, or its `run.json` is damaged.
        """
        scorer = self._scorer(scorer)
        return _read_json(self.path / "scores" / scorer / "run.json", "cotlens score")

    def score_table(self, scorer: str = "", columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per trace with the columns `SCHEMA["scores"]`.

        Args:
            scorer: its name; with one scorer, it can be left out.
            columns: of `SCHEMA["scores"]`; None: all.

        Raises:
            TraceError: if there is no such scorer, or its scores are not complete.
        """
        scorer = self._complete_scorer(scorer)
        return self._read(f"scores/{scorer}", columns)

    def scored_shards(
        self, scorer: str = "", *, texts: bool = True
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
        """Trace table, step table and score table, one shard after the other.

        The trace table has the completions too, unless the run is light or `texts` is false.
        """
        scorer = self._complete_scorer(scorer)
        # A light run has no completions.
        columns = [name for name in LIGHT_COLUMNS if name != "n_steps"]
        if texts and not self.info["settings"].get("light"):
            columns.append("completion")

        folders = [self.path / table for table in ("traces", "steps", f"scores/{scorer}")]
        shards = map(shards_of, folders)
        for of_traces, of_steps, of_scores in zip(*shards, strict=True):
            traces = read_parquet(of_traces.work, columns).to_pandas()
            steps = read_parquet(of_steps.work).to_pandas()
            scores = read_parquet(of_scores.work).to_pandas()
            yield with_n_steps(traces, steps, [*columns, "n_steps"]), steps, scores

    def _complete_scorer(self, name: str) -> str:
        """The scorer's name, if every shard was scored, from the traces as they are now."""
        scorer = self._scorer(name)
        folder = self.path / "scores" / scorer
        is_current = self._is_made_from_traces(folder)
        if not is_current or not self.score_info(scorer).get("complete"):
            raise TraceError(
                f"{self.path}: the scores of {scorer} are not complete, or the traces have changed "
                "since; call `cotlens score` again"
            )
        return scorer

    def _scorer(self, name: str) -> str:
        """The scorer of that name; without a name the only one that is complete."""
        scorers = self.scorers
        if name in scorers:
            return name
        complete = [scorer for scorer in scorers if self.is_scored(scorer)]
        if not name and len(complete or scorers) == 1:
            return (complete or scorers)[0]

        # No such scorer, or several to choose from.
        asked_for = name or "the one scorer"
        available = ", ".join(scorers) or "none; make them with `cotlens score`"
        raise TraceError(
            f"{self.path}: asked for token scores of {asked_for}; there are {available}"
        )

    def _is_made_from_traces(self, folder: Path) -> bool:
        """Whether a folder is complete, and each of its shards was made from the traces' as is."""
        traces = read_ledger(self.path / "traces")
        try:
            records = read_ledger(folder)
            for record in records:
                check_shard(folder, record)
        except TraceError:
            return False
        sources = [(record["name"], record["source"]) for record in records]
        return sources == [(record["name"], record["content"]) for record in traces]

    def check_made(self, table: str) -> None:
        """Raise TraceError if the run has no such table, or one of an older version."""
        if not (self.path / table / "run.json").exists():
            is_old = bool(self.shards(table))
            reason = "made by an older version of cotlens" if is_old else f"no {table} yet"
            force = " --force" if is_old else ""
            raise TraceError(f"{self.path}: {reason}; {self._how_to_renew()}{force}")

    def _read(self, table: str, columns: Sequence[str] | None) -> pd.DataFrame:
        """The shards of a table in one; None reads every column."""
        self.check_made(table)
        return read_shards(self.path / table, columns).to_pandas()

    def _how_to_renew(self) -> str:
        """The command that makes the run's tables."""
        paths = [made_from["path"] for made_from in self.info["inputs"]]
        return f"make it with: cotlens analyze {' '.join(paths)} -o {self.path}"

    def _repr_html_(self) -> str:
        """What the run was made from, its counts, its scorers and its judges, for a notebook."""
        info = self.info
        inputs = []
        for made_from in info["inputs"]:
            path = Path(made_from["path"])
            inputs.append(f"{path.name} ({made_from['format']})")

        # An incomplete run has no counts yet.
        facts = {
            "run": self.name,
            "inputs": ", ".join(inputs),
            "complete": "yes" if info.get("complete") else "no",
        }
        for count in COUNTS:
            if count in info:
                facts[count.removeprefix("n_")] = f"{info[count]:,}"
        facts["scored by"] = ", ".join(self.scorers) or "-"
        facts["judged by"] = ", ".join(self.judges) or "-"
        return facts_html(facts)


def is_run(path: Path) -> bool:
    """Whether a folder holds a run, and not just shards such as `generate` makes."""
    is_folder_of_shards = any(path.glob("part-*.parquet"))
    return (path / "run.json").exists() and not is_folder_of_shards


def open_run(run: "str | Path | Run") -> Run:
    """The run in a folder; a run that is open already is returned as it is.

    Nothing is read yet: a folder that holds no run raises TraceError when its tables or its `info`
    are asked for.
    """
    return run if isinstance(run, Run) else Run(Path(run))


def text_shards(run: Run) -> list[Path]:
    """The trace shards of a complete run that holds its texts.

    Raises:
        TraceError: if the run is not complete, or is a light run.
    """
    info = run.info
    if not info.get("complete"):
        raise TraceError(
            f"{run.path}: the run is not complete; call `cotlens analyze` again with the same "
            "inputs"
        )
    if info["settings"].get("light"):
        raise TraceError(f"{run.path}: a light run keeps no text; make it again without --light")

    return [shard.work for shard in shards_of(run.path / "traces")]


def with_n_steps(traces: pd.DataFrame, steps: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The trace table with the number of each trace's rows in the step table.

    Args:
        traces: with `trace_id`.
        steps: with `trace_id`.
        columns: those to return, in this order.
    """
    counts = steps["trace_id"].value_counts()
    n_steps = traces["trace_id"].map(counts).fillna(0).astype("int32")
    return traces.assign(n_steps=n_steps)[list(columns)]


def _read_json(path: Path, command: str) -> dict[str, Any]:
    """A `run.json` of scores or verdicts; `command` is what makes it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: damaged ({error}); call `{command}` again") from None
