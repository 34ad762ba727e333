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
