"""Study: a folder of tables over arms and seeds, one row per sample.

It holds no texts and is small enough to commit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from cotlens.display import facts_html
from cotlens.files import check_hash, hash_file, read_frame, write_atomic, write_parquet
from cotlens.studies.arms import derive
from cotlens.trace import TraceError

SAMPLE_KEYS = ("arm", "seed", "set", "split", "prompt_id")


@dataclass(frozen=True, slots=True)
class Study:
    """A study's folder: `study.json`, and for each table a folder with one parquet file a seed.

    `study.json` holds the arms in order (`arms`: name -> description), their roles (`base`, `rl`,
    `sft`: a list, and `filtered`, `rl_answer`), a `note` for every figure, the `claims` to decide
    with the `claims_file` they were fixed in (path and SHA-256), the `chance` of measures that
    guessing would have, and what the tables were made from.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def info(self) -> dict[str, Any]:
        """The contents of `study.json`.

        Raises:
            TraceError: if the folder is not a study.
        """
        try:
            text = (self.path / "study.json").read_text(encoding="utf-8")
            info = json.loads(text)
            info["arms"] = dict(info["arms"])
            info["base"] = str(info["base"])
            return info
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceError(
                f"{self.path}: not a study (study.json: {error!r}); make one with cotlens compare"
            ) from None

    @property
    def tables(self) -> list[str]:
        """Names of the tables that the study has."""
        files = self.path.glob("*/seed=*.parquet")
        return sorted({file.parent.name for file in files})

    def table(self, name: str) -> pd.DataFrame:
        """All seeds of a table, with the column `seed`.

        Raises:
            TraceError: if the study has no such table, or a file of it is damaged.
        """
        folder = self.path / name
        paths = sorted(folder.glob("seed=*.parquet"), key=_seed_of_file)
        if not paths:
            have = ", ".join(self.tables) or "none"
            hint = ""
            if name in ("rollouts", "updates"):
                hint = "; `cotlens compare --rollouts RUN` adds it"
            raise TraceError(f"{self.path}: no table {name!r}; there are: {have}{hint}")

        hashes = self.info.get("sha256", {})
        tables = []
        for path in paths:
            expected = hashes.get(path.relative_to(self.path).as_posix())
            if expected:
                check_hash(path, expected)
            table = read_frame(path)
            tables.append(table.assign(seed=_seed_of_file(path)))
        return pd.concat(tables, ignore_index=True)

    def samples(self) -> pd.DataFrame:
        """One row per sample, with the columns that follow from others (`studies.derive`)."""
        return derive(self.table("samples"), list(self.info["arms"]))

    def _repr_html_(self) -> str:
        """The arms with their roles, the seeds and the tables, for a notebook."""
        info = self.info
        roles = dict.fromkeys(info.get("sft", ()), "SFT")
        roles[info.get("rl")] = "RL"
        roles[info["base"]] = "base"

        facts = {}
        for arm, description in info["arms"].items():
            role = f"[{roles[arm]} of the claims]" if arm in roles else ""
            facts[arm] = f"{description} {role}".strip()

        # How much there is.
        samples = self.table("samples")
        seeds = sorted(set(samples["seed"]))
        facts["seeds"] = ", ".join(map(str, seeds))
        facts["samples"] = f"{len(samples):,}"
        facts["tables"] = ", ".join(self.tables)
        facts["note"] = info.get("note", "")
        return facts_html(facts)


def _seed_of_file(path: Path) -> int:
    return int(path.stem.partition("=")[2])


def is_study(path: str | Path) -> bool:
    """Whether a folder holds a study."""
    return (Path(path) / "study.json").is_file()


def write_study(
    path: str | Path, tables: Mapping[str, pd.DataFrame], info: Mapping[str, Any]
) -> Study:
    """Write tables with a column `seed`, one file a seed.

    Seeds already in the study and not in the tables stay.

    Raises:
        ValueError: if the samples lack one of `SAMPLE_KEYS` or have an arm that `info` does not
            list.
        TraceError: if the folder holds something else.
    """
    path = Path(path)
    samples = tables["samples"]
    missing = set(SAMPLE_KEYS) - set(samples)
    if missing:
        names = ", ".join(sorted(missing))
        have = ", ".join(map(str, samples))
        raise ValueError(f"samples: no column {names}; there are {have}")
    unknown = set(samples["arm"]) - set(info["arms"])
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise ValueError(f"samples of arms that the study does not name: {names}")
    check_room(path)
    return write_tables(path, tables, info)


def write_tables(path: Path, tables: Mapping[str, pd.DataFrame], info: Mapping[str, Any]) -> Study:
    """Write the tables, then `study.json`: without it a folder is not a study.

    It lists the SHA-256 of every file of a table: a damaged one is refused when it is read.
    """
    for name, table in tables.items():
        for seed, rows in table.groupby("seed", sort=True):
            rows = rows.drop(columns="seed").reset_index(drop=True)
            content = pa.Table.from_pandas(rows, preserve_index=False)
            file = path / name / f"seed={seed}.parquet"
            write_parquet(file, content)

    hashes = {}
    for file in sorted(path.glob("*/seed=*.parquet")):
        hashes[file.relative_to(path).as_posix()] = hash_file(file)
    text = json.dumps({**info, "sha256": hashes}, indent=1, ensure_ascii=False)
    write_atomic(path / "study.json", text + "\n")
    return Study(path)


def check_room(path: Path) -> None:
    """Raise TraceError if a study would overwrite a file or go into a folder of something else."""
    if path.exists() and not path.is_dir():
        raise TraceError(f"{path}: is a file; a study is a folder")
    if not path.exists() or is_study(path):
        return

    foreign = []
    for child in path.iterdir():
        if not _may_lie_in_study(child):
            foreign.append(child.name)
    if foreign:
        raise TraceError(
            f"{path}: exists and is not a study: it holds {min(foreign)}; name another folder"
        )


def _may_lie_in_study(child: Path) -> bool:
    """Whether it may be left of a study that was cut off: tables by seed, csv, partial files."""
    if child.is_dir():
        return all("seed=" in file.name for file in child.iterdir())
    return child.suffix in (".csv", ".partial")


def seed_of(path: Path) -> int:
    """K of the last folder `seed=K` on a path; 0 if there is none."""
    for folder in reversed(path.resolve().parts):
        if folder.startswith("seed="):
            seed = folder.removeprefix("seed=")
            return int(seed) if seed.isdigit() else 0
    return 0


def seeds_apart(table: pd.DataFrame) -> pd.DataFrame:
    """A table of a study whose prompts, traces and chains have the seed before their names.

    So those of two seeds are two clusters. The arm is also a column `recipient`, as the measures of
    prefills name who goes on.

    Args:
        table: with arm, seed, and any of prompt_id, source, chain.
    """
    seeds = table["seed"].astype(str) + ":"
    named = {}
    for name in ("prompt_id", "source", "chain"):
        if name in table:
            named[name] = seeds + table[name].astype(str)
    recipients = table["arm"].astype(str)
    return table.assign(recipient=recipients, **named)
