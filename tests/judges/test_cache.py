"""Verdicts on disk: found by what made them, asked for again where damaged."""

import sqlite3

import pytest

from cotlens import TraceError
from cotlens.judges.cache import Cache, hash_of
from cotlens.judges.verdict import Verdict


def test_damaged_rows_of_the_cache_are_asked_again(tmp_path):
    cache = Cache(tmp_path / "c.sqlite")
    cache.put({"a": Verdict("safe"), "b": Verdict("safe"), "c": Verdict("safe")})
    with sqlite3.connect(cache.path) as base:
        base.execute("update verdicts set verdict = '{' where key = 'a'")
        base.execute(
            """update verdicts set verdict = replace(verdict, 'safe', 'banana') where key = 'b'"""
        )
    assert list(cache.get(["a", "b", "c"])) == ["c"]


def test_keys_differ_where_texts_do():
    assert hash_of("ab", "c") != hash_of("a", "bc")


def test_a_file_that_is_no_cache(tmp_path):
    (tmp_path / "x").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(TraceError, match="not a cache"):
        Cache(tmp_path / "x")


def test_a_full_disk_is_named_and_nothing_is_advised_away(tmp_path, monkeypatch):
    """SQLite's own limit of pages stands for the disk."""
    cache = Cache(tmp_path / "cache.sqlite")
    cache.put({"paid": Verdict("safe")})
    connect = sqlite3.connect

    def connect_to_full_disk(*arguments, **options):
        database = connect(*arguments, **options)
        database.execute("pragma max_page_count = 1")
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_to_full_disk)
    with pytest.raises(TraceError, match="full; the verdicts in it are kept") as caught:
        cache.put({f"key{number}": Verdict("safe", raw="x" * 4000) for number in range(20)})
    assert "remove" not in str(caught.value)

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert cache.get(["paid"]) == {"paid": Verdict("safe")}
