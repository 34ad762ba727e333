"""Folders of shards: resumed, refused, verified, whoever makes them."""

import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from cotlens import TraceError
from cotlens.runs.shards import (
    Made,
    Shard,
    hash_table,
    over_shards,
    read_info,
    read_shards,
    shard_name,
    shards_of,
)

MADE_BY = {"settings": {"k": 2}}


def make(number):
    return Made(pa.table({"x": [number] * (number + 1)}), {"n_x": number, "note": "text"})


def shards(n, source="s"):
    return [Shard(shard_name(i), source, i) for i in range(n)]


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}


def test_a_folder_says_what_is_in_it(tmp_path):
    info = over_shards(shards(3), tmp_path / "out", make, made_by=MADE_BY, about={"host": "a"})
    assert info == read_info(tmp_path / "out")
    assert info["complete"]
    assert (info["n_x"], info["host"], info["settings"]) == (3, "a", {"k": 2})
    assert [record["rows"] for record in info["shards"]] == [1, 2, 3]
    for record in info["shards"]:
        path = tmp_path / "out" / record["name"]
        assert path.stat().st_size == record["bytes"]
        assert len(record["fingerprint"]) == len(record["content"]) == 16
    assert read_shards(tmp_path / "out")["x"].to_pylist() == [0, 1, 1, 2, 2, 2]


def test_only_what_is_missing_or_changed_is_made(tmp_path):
    out = tmp_path / "out"
    over_shards(shards(3), out, make, made_by=MADE_BY)
    before = times(out)
    (out / shard_name(1)).unlink()
    changed = [*shards(2), Shard(shard_name(2), "other", 2)]
    over_shards(changed, out, make, made_by=MADE_BY)
    after = times(out)
    assert [after[name] != before[name] for name in sorted(after)] == [False, True, True]

    # Fewer shards than before: the rest goes.
    over_shards(shards(1), out, make, made_by=MADE_BY)
    assert sorted(times(out)) == [shard_name(0)]


@pytest.mark.parametrize("killed_at", range(4))
def test_a_kill_between_any_two_shards_loses_and_doubles_nothing(tmp_path, killed_at):
    whole = over_shards(shards(4), tmp_path / "whole", make, made_by=MADE_BY)

    def killed(number):
        if number == killed_at:
            raise KeyboardInterrupt
        return make(number)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        over_shards(shards(4), out, killed, made_by=MADE_BY)
    assert not read_info(out)["complete"]
    with pytest.raises(TraceError, match="not complete"):
        list(shards_of(out))
    (out / ".part-00003.parquet.1.partial").write_bytes(b"half")

    made = []
    over_shards(shards(4), out, lambda i: made.append(i) or make(i), made_by=MADE_BY)
    assert made == list(range(killed_at, 4))
    assert read_info(out) == whole
    for path in (tmp_path / "whole").glob("part-*"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not list(out.glob(".part*"))


def test_what_something_else_made_is_refused_and_replaced_by_force(tmp_path):
    out = tmp_path / "out"
    over_shards(shards(2), out, make, made_by=MADE_BY)
    other = {"settings": {"k": 3}}
    with pytest.raises(TraceError, match=r"made with other settings.*--force"):
        over_shards(shards(2), out, make, made_by=other)
    assert read_info(out)["complete"]
    assert over_shards(shards(2), out, make, made_by=other, force=True)["settings"] == {"k": 3}


def test_a_shard_may_be_made_again_for_what_its_notes_say(tmp_path):
    out = tmp_path / "out"
    over_shards(shards(3), out, make, made_by=MADE_BY)
    made = []
    over_shards(
        shards(3),
        out,
        lambda i: made.append(i) or make(i),
        made_by=MADE_BY,
        keep=lambda notes: notes["n_x"] != 1,
    )
    assert made == [1]


def test_a_pool_makes_the_same_bytes(tmp_path):
    over_shards(shards(8), tmp_path / "one", make, made_by=MADE_BY)
    with ThreadPoolExecutor(4) as pool:
        over_shards(shards(8), tmp_path / "many", make, made_by=MADE_BY, map=pool.map)
    for path in (tmp_path / "one").glob("*[!k]"):
        assert (tmp_path / "many" / path.name).read_bytes() == path.read_bytes()


def test_one_process_at_a_time(tmp_path):
    def second(number):
        with pytest.raises(TraceError, match="another process is writing here"):
            over_shards(shards(1), tmp_path, make, made_by=MADE_BY)
        return make(number)

    over_shards(shards(1), tmp_path, second, made_by=MADE_BY)


def test_every_flipped_byte_is_an_error_or_changes_nothing(tmp_path):
    over_shards(shards(4), tmp_path, make, made_by=MADE_BY)
    path = tmp_path / shard_name(3)
    whole = path.read_bytes()
    rows = read_shards(tmp_path).to_pydict()
    n_refused = 0
    for place in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        try:
            read_rows = read_shards(tmp_path).to_pydict()
        except TraceError as error:
            message = str(error)
            n_refused += message.count(str(path))
        else:
            assert read_rows == rows, place
    assert n_refused > 20


@pytest.mark.parametrize(
    "change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")]
)
def test_a_missing_or_cut_shard_is_named(tmp_path, change):
    over_shards(shards(2), tmp_path, make, made_by=MADE_BY)
    change(tmp_path / shard_name(1))
    with pytest.raises(TraceError, match=r"part-00001.parquet: (is missing|has 1 bytes)"):
        read_shards(tmp_path)


def test_the_content_is_the_rows_alone():
    table = pa.table({"x": [1, 2]})
    assert hash_table(table) == hash_table(table.replace_schema_metadata({"a": "b"}))
    assert hash_table(table) != hash_table(pa.table({"x": [1, 3]}))


def test_an_older_folder_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"complete": True}))
    with pytest.raises(TraceError, match="older version"):
        list(shards_of(tmp_path))
