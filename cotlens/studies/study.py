"""Study: a folder of tables over arms and seeds, one row per sample."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from cotlens.display import facts_html
from cotlens.files import write_atomic, write_parquet
from cotlens.studies.arms import derive
from cotlens.trace import TraceError


# --- on disk ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Study:
    """A study's folder: `study.json`, and per table a folder with one parquet file a seed.

    `study.json` names the arms in order (`arms`: name -> what it is), their roles (`base`, `rl`, `sft`: a list, and
    `filtered`, `rl_answer`), a `note` for every figure, and what the tables were made from.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def info(self) -> dict[str, Any]:
        """What `study.json` says."""
        try:
            info = json.loads((self.path / "study.json").read_text(encoding="utf-8"))
            return info | {"arms": dict(info["arms"]), "base": str(info["base"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceError(
                f"{self.path}: not a study (study.json: {error!r}); make one with cotlens compare"
            ) from None

    def _repr_html_(self) -> str:
        """What a notebook shows: the arms with their roles, the seeds, the tables."""
        info, samples = self.info, self.table("samples")
        roles = {
            info["base"]: "base",
            info.get("rl"): "RL",
            **dict.fromkeys(info.get("sft", ()), "SFT"),
        }
        role = {
            arm: f"[{roles[arm]} of the claims]" if arm in roles else "" for arm in info["arms"]
        }
        facts = {arm: f"{text} {role[arm]}".strip() for arm, text in info["arms"].items()}
        facts |= {
            "seeds": ", ".join(map(str, sorted(set(samples["seed"])))),
            "samples": f"{len(samples):,}",
        }
        return facts_html(facts | {"tables": ", ".join(self.tables), "note": info.get("note", "")})

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there."""
        return sorted({path.parent.name for path in self.path.glob("*/seed=*.parquet")})

    def table(self, name: str) -> pd.DataFrame:
        """All seeds of a table, with the column `seed`.

        Raises:
            TraceError: if the study has no such table.
        """
        paths = sorted(
            (self.path / name).glob("seed=*.parquet"),
            key=lambda path: int(path.stem.partition("=")[2]),
        )
        if not paths:
            have = ", ".join(self.tables) or "none"
            hint = (
                "; `cotlens compare --rollouts RUN` adds it"
                if name in ("rollouts", "updates")
                else ""
            )
            raise TraceError(f"{self.path}: no table {name!r}; there are: {have}{hint}")
        parts = [
            pd.read_parquet(path).assign(seed=int(path.stem.partition("=")[2])) for path in paths
        ]
        return pd.concat(parts, ignore_index=True)

    def samples(self) -> pd.DataFrame:
        """One row per sample, with what follows from its columns (`derive`)."""
        return derive(self.table("samples"), list(self.info["arms"]))


def is_study(path: str | Path) -> bool:
    """Whether a folder holds a study."""
    return (Path(path) / "study.json").is_file()


def write_study(
    path: str | Path, tables: Mapping[str, pd.DataFrame], info: Mapping[str, Any]
) -> Study:
    """Writes tables with a column `seed`, a file a seed; seeds that are there already and not in the tables stay.

    Raises:
        ValueError: if the samples have no `arm`, `seed`, `set`, `split` or `prompt_id`, or an unknown arm.
        TraceError: if something else is there already.
    """
    path, samples = Path(path), tables["samples"]
    if missing := {"arm", "seed", "set", "split", "prompt_id"} - set(samples):
        raise ValueError(
            f"samples: no column {', '.join(sorted(missing))}; there are {', '.join(map(str, samples))}"
        )
    if unknown := set(samples["arm"]) - set(info["arms"]):
        raise ValueError(
            f"samples of arms that the study does not name: {', '.join(sorted(map(str, unknown)))}"
        )
    check_room(path)
    return write_tables(path, tables, info)


def write_tables(path: Path, tables: Mapping[str, pd.DataFrame], info: Mapping[str, Any]) -> Study:
    for name, table in tables.items():
        for seed, part in table.groupby("seed", sort=True):
            kept = part.drop(columns="seed").reset_index(drop=True)
            write_parquet(
                path / name / f"seed={seed}.parquet",
                pa.Table.from_pandas(kept, preserve_index=False),
            )
    write_atomic(path / "study.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    return Study(path)


def check_room(path: Path) -> None:
    """Raises TraceError if a study would be written into a folder of something else, or over a file."""
    if path.exists() and not path.is_dir():
        raise TraceError(f"{path}: is a file; a study is a folder")
    if not path.exists() or is_study(path):
        return
    if foreign := [child.name for child in path.iterdir() if not _is_part(child)]:
        raise TraceError(
            f"{path}: is there already and is no study: it holds {min(foreign)}; name another folder"
        )


def _is_part(child: Path) -> bool:
    """Whether it is of a study whose writing was cut off: tables by seed, or files that may lie beside them."""
    if child.is_dir():
        return all("seed=" in file.name for file in child.iterdir())
    return child.suffix in (".csv", ".partial")


def seed_of(path: Path) -> int:
    found = [
        part.removeprefix("seed=") for part in path.resolve().parts if part.startswith("seed=")
    ]
    return int(found[-1]) if found and found[-1].isdigit() else 0
