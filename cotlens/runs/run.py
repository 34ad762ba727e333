"""Run: the traces of one checkpoint on one prompt set, and every table made of them, on disk.

    RUN/run.json             what made it: inputs with their hashes, settings, versions, counts
    RUN/traces/part-*.parquet
    RUN/steps/part-*.parquet one shard for each shard of traces
    RUN/scores/SCORER/       part-*.parquet, one for each shard of traces, and a run.json
    RUN/guard/JUDGE/PART/    part-*.parquet likewise: verdicts on the thinking or the answer
    RUN/guard/JUDGE/run.json what the judge is, and how many of its verdicts are safe, unsafe, ...
    RUN/rejects.jsonl        rows that could not be read, where `on_error="skip"` was asked for

A shard is written whole or not at all, and `run.json` says `complete` only at the end. Call a
killed job again with the same inputs: it resumes after the last finished shard. Memory holds one
shard, however large the corpus.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.display import facts_html
from cotlens.files import hash_path, is_made_from
from cotlens.formats.read import read_traces
from cotlens.judges.verdict import LABELS
from cotlens.runs.schema import LIGHT_COLUMNS, arrow_schema
from cotlens.text.families import Tags
from cotlens.text.tokens import word_starts
from cotlens.trace import Trace, TraceError

COUNTS = ("n_traces", "n_steps", "n_rejected", "n_shards")  # in the run.json of a complete run


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
                f"{self.path}: not a cotlens run (run.json cannot be read: {error})"
            ) from None

        # Other programs write a run.json too: a run of ours has at least these keys.
        if not isinstance(info, dict) or not {"inputs", "settings", "versions"} <= set(info):
            raise TraceError(f"{self.path}: not a cotlens run (its run.json is another program's)")
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
        """The traces, exactly as they were read from the source."""
        return read_traces(self.path, format="cotlens")

    def trace_table(self, columns: Sequence[str] | None = LIGHT_COLUMNS) -> pd.DataFrame:
        """One row per trace; by default every column but the texts and the lists per token.

        Args:
            columns: of `SCHEMA["traces"]`; None: all that the run holds.
        """
        return self._read("traces", columns)

    def step_table(
        self, columns: Sequence[str] | None = None, *, with_traces: Sequence[str] = ()
    ) -> pd.DataFrame:
        """One row per step, in the order of traces and steps.

        Args:
            columns: of `SCHEMA["steps"]`; None: all that the run holds.
            with_traces: columns of the trace table to add to every step of the trace, after the
                step's own. A column that the step table has already (`trace_id`) is not added
                twice.

        Raises:
            TraceError: if the run is not analyzed, or its traces have no column of that name.
        """
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

    def _check_trace_columns(self, names: Sequence[str]) -> None:
        """Raise TraceError unless the run's traces have these columns."""
        first_shard = self.shards("traces")[0]
        available = pq.read_schema(first_shard).names
        unknown = [name for name in names if name not in available]
        if unknown:
            raise TraceError(
                f"{self.path}: the traces have no column {', '.join(unknown)}; "
                f"there are {', '.join(available)}"
            )

    @property
    def judges(self) -> list[str]:
        """Names of the judges that have judged the run."""
        paths = self.path.glob("guard/*/run.json")
        return sorted(path.parent.name for path in paths)

    def judged_parts(self, judge: str) -> list[str]:
        """The parts that a judge has judged; none if its `run.json` is missing or damaged."""
        try:
            return sorted(self.judge_info(judge).get("counts", {}))
        except TraceError:
            return []

    def judge_info(self, judge: str) -> dict[str, Any]:
        """What the judge's own `run.json` says: judge, revision, identity, versions, and counts.

        `counts` has for each part that was judged the number of verdicts of each label.

        Raises:
            TraceError: if there is no such judge, or its `run.json` is damaged.
        """
        self._check_judge(judge)
        path = self.path / "guard" / judge / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TraceError(f"{path}: damaged ({error}); call `cotlens guard` again") from None

    def _check_judge(self, judge: str) -> None:
        """Raise TraceError if there is no such judge."""
        if judge not in self.judges:
            raise TraceError(f"{self.path}: no verdicts of {judge}; judges: {self._list_judges()}")

    def _list_judges(self) -> str:
        names = ", ".join(self.judges)
        return names or "none; make them with `cotlens guard`"

    def guard_table(self, judge: str, part: str) -> pd.DataFrame:
        """One row per trace with the columns `SCHEMA["guard"]`: a judge's verdicts on a part.

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
        return self._read(f"guard/{judge}/{part}", None)

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
            verdicts = self.guard_table(judge, part)
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
        path = self.path / "scores" / scorer / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TraceError(
                f"{path}: damaged ({error}); call `cotlens score` again with --force"
            ) from None

    def score_table(self, scorer: str = "", columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per trace with the columns `SCHEMA["scores"]`.

        Args:
            scorer: its name; with one scorer, it can be left out.
            columns: of `SCHEMA["scores"]`; None: all.

        Raises:
            TraceError: if there is no such scorer, or its scores are not complete.
        """
        scorer = self._complete_scorer(scorer)
        shards = self.shards(f"scores/{scorer}")
        tables = [self._read_scores(shard, columns) for shard in shards]
        return pa.concat_tables(tables).to_pandas()

    def _read_scores(self, shard: Path, columns: Sequence[str] | None = None) -> pa.Table:
        """A shard of scores; `word_starts` is worked out where an earlier cotlens left it out."""
        schema = pq.read_schema(shard)
        names = schema.names if columns is None else list(columns)
        has_words = "word_starts" in schema.names
        if has_words or (columns is not None and "word_starts" not in names):
            return pq.read_table(shard, columns=names)

        # Each row of scores is that of the trace in the same row.
        trace_shard = self.path / "traces" / shard.name
        if "completion" not in pq.read_schema(trace_shard).names:
            raise TraceError(
                f"{shard}: an earlier cotlens made these scores, and a light run has no text to "
                "tell which tokens belong to which step; analyze the source without --light and "
                "call `cotlens score` again"
            )
        scores = pq.read_table(shard)
        traces = pq.read_table(trace_shard, columns=["completion"])
        completions = traces["completion"].to_pylist()
        token_starts = scores["token_starts"].to_pylist()
        words = []
        for completion, starts in zip(completions, token_starts, strict=True):
            words.append(None if starts is None else word_starts(completion, starts))

        kind = arrow_schema("scores").field("word_starts")
        place = schema.get_field_index("token_starts") + 1
        scores = scores.add_column(place, kind, pa.array(words, kind.type))
        return scores if columns is None else scores.select(names)

    def scored_shards(
        self, scorer: str = ""
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
        """Trace table, step table and score table, one shard after the other.

        The trace table has the completions too, unless the run is light.
        """
        scorer = self._complete_scorer(scorer)
        step_folder = self.path / "steps"
        score_folder = self.path / "scores" / scorer
        for shard in self.shards("traces"):
            # A light run has no completions.
            columns = list(LIGHT_COLUMNS)
            schema = pq.read_schema(shard)
            if "completion" in schema.names:
                columns.append("completion")

            traces = pq.read_table(shard, columns=columns)
            steps = pq.read_table(step_folder / shard.name)
            scores = self._read_scores(score_folder / shard.name)
            yield traces.to_pandas(), steps.to_pandas(), scores.to_pandas()

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
        """The scorer of that name; without a name the only one."""
        scorers = self.scorers
        if name in scorers:
            return name
        if not name and len(scorers) == 1:
            return scorers[0]

        # No such scorer, or several to choose from.
        asked_for = name or "the one scorer"
        available = ", ".join(scorers) or "none; make them with `cotlens score`"
        raise TraceError(
            f"{self.path}: asked for token scores of {asked_for}; there are {available}"
        )

    def _is_made_from_traces(self, folder: Path) -> bool:
        """Whether a folder has a shard for each shard of traces, made from it as it is now."""
        for shard in self.shards("traces"):
            source_hash = hash_path(shard)
            if not is_made_from(folder / shard.name, source_hash):
                return False
        return True

    def _read(self, table: str, columns: Sequence[str] | None) -> pd.DataFrame:
        """The shards of a table in one; None reads every column."""
        shards = self.shards(table)
        if not shards:
            paths = [made_from["path"] for made_from in self.info["inputs"]]
            inputs = " ".join(paths)
            raise TraceError(
                f"{self.path}: no {table} yet; finish it with "
                f"`cotlens analyze {inputs} -o {self.path}`"
            )

        names = None if columns is None else list(columns)
        tables = [pq.read_table(shard, columns=names) for shard in shards]
        whole = pa.concat_tables(tables)
        return whole.to_pandas()

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
    shards = run.shards("traces")
    if not shards or not run.info.get("complete"):
        raise TraceError(
            f"{run.path}: the run is not complete; call `cotlens analyze` again with the same "
            "inputs"
        )
    if run.info["settings"].get("light"):
        raise TraceError(f"{run.path}: a light run keeps no text; make it again without --light")
    return shards
