"""Folders of shards: what the same settings made is kept, anything else refused or removed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cotlens.files import parquet_metadata, to_json, write_atomic
from cotlens.runs.run import Run
from cotlens.trace import TraceError

# Key in a score shard's parquet metadata. Its value is the call's `long` and `on_error`.
ERROR_POLICY = b"error policy"


def prepare_run(run: Run, made_by: dict[str, Any], files: Sequence[Path], force: bool) -> bool:
    """Whether the run is complete already; otherwise its folder is made ready for its shards.

    Shards that the same inputs, settings and versions made stay. With `force` all shards are
    removed.

    Raises:
        TraceError: if the folder holds an input, something other than a run, or a run made from
            something else (unless `force` is set).
    """
    for file in files:
        if run.path.resolve() in (file.resolve(), *file.resolve().parents):
            raise TraceError(
                f"{run.path}: holds one of the inputs; choose another folder for the run"
            )

    if _has_contents(run.path):
        earlier = run.info  # raises if the folder is not a run: foreign files are never removed
        is_same = _essence(earlier) == _essence(made_by)
        if is_same and not force:
            # A shard of a complete run may have been removed since.
            n_shards = {len(run.shards("traces")), len(run.shards("steps"))}
            return bool(earlier.get("complete")) and n_shards == {earlier["n_shards"]}
        if not force and run.shards("steps"):
            raise TraceError(
                f"{run.path}: holds a run made from other inputs, settings or versions; "
                "choose another folder, or replace it with --force"
            )

        # Incomplete first, so that a kill between here and the end leaves no run that looks whole.
        write_info(run, earlier | {"complete": False})
        for shard in (*run.shards("steps"), *run.shards("traces")):
            shard.unlink(missing_ok=True)
        (run.path / "rejects.jsonl").unlink(missing_ok=True)

    write_info(run, made_by | {"complete": False})
    return False


def _has_contents(folder: Path) -> bool:
    """Whether a folder holds more than hidden files and partial ones."""
    for child in folder.iterdir():
        if not child.name.startswith(".") and child.suffix != ".partial":
            return True
    return False


def _essence(info: dict[str, Any]) -> Any:
    """What two runs share if they are the same: contents (not their place), settings, versions."""
    contents = []
    for made_from in info["inputs"]:
        contents.append([made_from["format"], made_from["sha256"]])
    return _as_json([contents, info["settings"], info["versions"]])


def write_info(run: Run, info: dict[str, Any]) -> None:
    """Write the `run.json` of a run."""
    path = run.path / "run.json"
    write_atomic(path, to_json(info))


def prepare_scores(folder: Path, made_by: dict[str, Any], force: bool) -> None:
    """Make a folder ready for the scores of one model.

    Shards that the same model, settings and versions made stay. With `force` all shards are
    removed.

    Raises:
        TraceError: if it holds scores that something else made (unless `force` is set).
    """
    _remove_partial_shards(folder)
    path = folder / "run.json"
    shards = list(folder.glob("part-*.parquet"))
    earlier = _read_info(path)
    is_same = {key: earlier.get(key) for key in made_by} == _as_json(made_by)
    if shards and not is_same and not force:
        raise TraceError(
            f"{folder}: holds scores made by another model (weights of the same name count as "
            "another), settings or versions; give another --name, or --force"
        )

    if force or not is_same:
        for shard in shards:
            shard.unlink()
    write_atomic(path, to_json(made_by | {"complete": False}))


def has_errors_of_another_policy(shard: Path, error_policy: str) -> bool:
    """Whether a score shard left traces unscored under another error policy.

    A call with its own policy may be able to score those traces, or must refuse them.
    """
    # A shard of an older version has no such key. It counts as made under another policy: it is
    # scored again (or refused) if any of its traces is unscored, and kept otherwise.
    shard_policy = parquet_metadata(shard).get(ERROR_POLICY)
    if shard_policy == error_policy.encode():
        return False

    table = pq.read_table(shard, columns=["error"])
    return any(table["error"].to_pylist())


def prepare_verdicts(folder: Path, judge_info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The counts of the parts that the same judge has judged before, by part; perhaps none.

    Raises:
        TraceError: if the folder holds the verdicts of another judge.
    """
    earlier = _read_info(folder / "run.json")
    if not earlier:
        return {}

    if any(earlier.get(key) != value for key, value in judge_info.items()):
        raise TraceError(
            f"{folder}: holds the verdicts of another judge or another revision or template of it "
            f"({earlier.get('judge')} {earlier.get('revision')}); give another --name, or delete "
            "the folder"
        )
    return earlier.get("counts", {})


def remove_strays(run: Run, folders: Sequence[Path]) -> None:
    """Remove scores or verdicts of trace shards that the run no longer has."""
    names = {shard.name for shard in run.shards("traces")}
    for folder in folders:
        shards = list(folder.glob("part-*.parquet"))
        for shard in shards:
            if shard.name not in names:
                shard.unlink()


def prepare_generation(folder: Path, made_by: dict[str, Any]) -> None:
    """Make a folder ready for sampled traces. Shards that the same call made stay.

    Raises:
        TraceError: if it holds traces that another call made.
    """
    path = folder / "generate.json"
    earlier = _read_info(path)
    changed = []
    for key, value in _as_json(made_by).items():
        if earlier.get(key) != value:
            changed.append(key)

    # Without a readable generate.json everything counts as changed: the shards are unknown.
    has_shards = any(folder.glob("part-*.parquet"))
    if changed and has_shards:
        raise TraceError(
            f"{folder}: holds traces made with other {', '.join(changed)} (see its generate.json); "
            "choose another folder, or delete this one"
        )

    _remove_partial_shards(folder)
    write_atomic(path, to_json(made_by | {"complete": False}))


def _read_info(path: Path) -> dict[str, Any]:
    """The contents of a JSON file; empty if it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text)
    except (FileNotFoundError, ValueError):
        return {}


def _remove_partial_shards(folder: Path) -> None:
    """Remove what jobs left that were killed while they wrote."""
    for partial_shard in folder.glob(".part-*.partial"):
        partial_shard.unlink()


def _as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file: tuples are lists, keys are strings."""
    text = json.dumps(value)
    return json.loads(text)
