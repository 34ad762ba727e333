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
from cotlens.runs.schema import LIGHT_COLUMNS
from cotlens.text.families import Tags
from cotlens.trace import Trace, TraceError

COUNTS = ("n_traces", "n_steps", "n_rejected", "n_shards")


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
            raise TraceError(
                f"{self.path}: not a cotlens run (run.json cannot be read: {error})"
            ) from None
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
        inputs = ", ".join(
            f"{Path(made['path']).name} ({made['format']})" for made in info["inputs"]
        )
        facts = {
            "run": self.name,
            "inputs": inputs,
            "complete": "yes" if info.get("complete") else "no",
        }
        facts |= {name.removeprefix("n_"): f"{info[name]:,}" for name in COUNTS if name in info}
        facts |= {
            "scored by": ", ".join(self.scorers) or "-",
            "judged by": ", ".join(self.judges) or "-",
        }
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
        if not all(
            is_made_from(folder / shard.name, hash_path(shard)) for shard in self.shards("traces")
        ):
            raise TraceError(
                f"{self.path}: the traces have changed since {judge} judged their {part}; call `cotlens guard` again"
            )
        return self._read(f"guard/{judge}/{part}", None)

    def judged_parts(self, judge: str) -> list[str]:
        """The parts of the traces that a judge has judged."""
        try:
            made = json.loads(
                (self.path / "guard" / judge / "run.json").read_text(encoding="utf-8")
            )
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
        from cotlens.judges.verdict import LABELS

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
            raise TraceError(
                f"{path}: damaged ({error}); call `cotlens score` again with --force"
            ) from None

    def score_table(self, scorer: str = "", columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per trace with the columns `SCHEMA["scores"]`; with one scorer, its name can be left out."""
        return self._read(f"scores/{self._complete(scorer)}", columns)

    def scored_shards(
        self, scorer: str = ""
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
        """Trace table with its completions, step table and score table of one shard after the other."""
        scorer = self._complete(scorer)
        for shard in self.shards("traces"):
            texts = ["completion"] if "completion" in pq.read_schema(shard).names else []
            traces = pq.read_table(shard, columns=[*LIGHT_COLUMNS, *texts]).to_pandas()
            steps = pq.read_table(self.path / "steps" / shard.name).to_pandas()
            yield (
                traces,
                steps,
                pq.read_table(self.path / "scores" / scorer / shard.name).to_pandas(),
            )

    def _complete(self, scorer: str) -> str:
        """The scorer's name, once it is known that every shard is there and was made from the traces as they are."""
        scorer = self._scorer(scorer)
        folder = self.path / "scores" / scorer
        made = all(
            is_made_from(folder / shard.name, hash_path(shard)) for shard in self.shards("traces")
        )
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
        raise TraceError(
            f"{self.path}: asked for token scores of {name or 'the one scorer'}; there are {have}"
        )

    def traces(self) -> Iterator[Trace]:
        """The traces, exactly as they were read from the source."""
        return read_traces(self.path, format="cotlens")

    def _read(self, table: str, columns: Sequence[str] | None) -> pd.DataFrame:
        shards = self.shards(table)
        if not shards:
            inputs = " ".join(made_from["path"] for made_from in self.info["inputs"])
            raise TraceError(
                f"{self.path}: no {table} yet; finish it with `cotlens analyze {inputs} -o {self.path}`"
            )
        parts = [
            pq.read_table(shard, columns=None if columns is None else list(columns))
            for shard in shards
        ]
        return pa.concat_tables(parts).to_pandas()


def open_run(run: "str | Path | Run") -> Run:
    """The run in a folder; a run that is open already is given back as it is.

    Nothing is read yet: a folder that holds no run raises TraceError when its tables or its `info` are asked for.
    """
    return run if isinstance(run, Run) else Run(Path(run))


def text_shards(run: Run) -> list[Path]:
    """The shards of a complete run that holds its texts."""
    shards = run.shards("traces")
    if not shards or not run.info.get("complete"):
        raise TraceError(
            f"{run.path}: the run is not complete; call `cotlens analyze` again with the same inputs"
        )
    if run.info["settings"].get("light"):
        raise TraceError(f"{run.path}: a light run keeps no text; make it again without --light")
    return shards
