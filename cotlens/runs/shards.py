"""Room for shards: what other settings made is refused or cleared, finished shards are kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cotlens.files import parquet_metadata, to_json, write_atomic
from cotlens.runs.run import Run
from cotlens.trace import TraceError


def prepare_generation(folder: Path, made_by: dict[str, Any]) -> None:
    """Makes room: shards that another call made are never mixed in."""
    path = folder / "generate.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = {}  # if there are shards, they may be anyone's
    changed = [
        key for key, value in json.loads(json.dumps(made_by)).items() if before.get(key) != value
    ]
    if changed and any(folder.glob("part-*.parquet")):
        raise TraceError(
            f"{folder}: holds traces made with other {', '.join(changed)} (see its generate.json); choose another "
            "folder, or delete this one"
        )
    for partial_shard in folder.glob(".part-*.partial"):  # of a job that was killed while it wrote
        partial_shard.unlink()
    write_atomic(path, to_json(made_by | {"complete": False}))


def earlier_parts(folder: Path, info: dict[str, Any]) -> dict[str, dict[str, int]]:
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


def drop_strays(run: Run, folders: Sequence[Path]) -> None:
    """Removes verdicts on shards that the run no longer has."""
    names = {shard.name for shard in run.shards("traces")}
    for folder in folders:
        for stray in [path for path in folder.glob("part-*.parquet") if path.name not in names]:
            stray.unlink()


ERROR_POLICY = b"how faults were met"


def prepare_scores(folder: Path, made_by: dict[str, Any], force: bool) -> None:
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
    write_atomic(folder / "run.json", to_json(made_by | {"complete": False}))


def has_errors_met_otherwise(done: Path, met: str) -> bool:
    """Whether a shard left traces unscored that a call with other answers to faults may score, or must refuse."""
    if parquet_metadata(done).get(ERROR_POLICY) == met.encode():
        return False
    errors = pq.read_table(done, columns=["error"])["error"].to_pylist()
    return any(errors)


def prepare_run(run: Run, made_by: dict[str, Any], files: Sequence[Path], force: bool) -> bool:
    """Whether the run is already complete; makes room for it otherwise."""
    if any(run.path.resolve() in (file.resolve(), *file.resolve().parents) for file in files):
        raise TraceError(f"{run.path}: holds one of the inputs; choose another folder for the run")
    if any(
        not child.name.startswith(".") and child.suffix != ".partial"
        for child in run.path.iterdir()
    ):
        before = run.info  # raises where the folder is no run: nothing foreign is ever removed
        if _same(before, made_by) and not force:
            return bool(before.get("complete")) and _has_shards(run, before["n_shards"])
        if not force and run.shards("steps"):
            raise TraceError(
                f"{run.path}: holds a run made from other inputs, settings or versions; "
                "choose another folder, or replace it with --force"
            )
        write_info(run, before | {"complete": False})
        for shard in (*run.shards("steps"), *run.shards("traces"), run.path / "rejects.jsonl"):
            shard.unlink(missing_ok=True)
    write_info(run, made_by | {"complete": False})
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


def write_info(run: Run, info: dict[str, Any]) -> None:
    write_atomic(run.path / "run.json", to_json(info))
