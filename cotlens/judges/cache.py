"""Verdicts kept on disk, keyed by the hash of everything that made them."""

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from cotlens.judges.verdict import Verdict, checked
from cotlens.trace import TraceError


# --- cache -----------------------------------------------------------------------------------------------------
def hash_of(*parts: str) -> str:
    """SHA-256 of texts, each with its length, so that no two lists of texts meet."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


class Cache:
    """Verdicts on disk (SQLite), by the judge's identity and what it read. A killed job asks for nothing twice."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as base:
            base.execute(
                "create table if not exists verdicts (key text primary key, verdict text not null)"
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as base, base:
                yield base
        except sqlite3.DatabaseError as error:
            raise TraceError(
                f"{self.path}: not a cache of verdicts ({error}); remove it or name another"
            ) from None

    def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """The verdicts that are there and can be read."""
        found = {}
        with self._open() as base:
            for first in range(0, len(keys), 500):
                some = keys[first : first + 500]
                marks = ",".join("?" * len(some))
                for key, stored in base.execute(
                    f"select key, verdict from verdicts where key in ({marks})", some
                ):
                    if verdict := _stored_verdict(stored):
                        found[key] = verdict
        return found

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Writes verdicts, all or none."""
        rows = []
        for key, verdict in verdicts.items():
            p = None if math.isnan(verdict.p_unsafe) else verdict.p_unsafe
            rows.append((key, json.dumps(verdict._asdict() | {"p_unsafe": p}, ensure_ascii=True)))
        with self._open() as base:
            base.executemany("insert or replace into verdicts values (?, ?)", rows)


def _stored_verdict(stored: str) -> Verdict | None:
    """A verdict as the cache holds it; None where it is damaged or another version's."""
    try:
        fields = json.loads(stored)
        p = math.nan if fields["p_unsafe"] is None else fields["p_unsafe"]
        return checked(
            Verdict(**fields | {"categories": tuple(fields["categories"]), "p_unsafe": p})
        )
    except (ValueError, TypeError, KeyError):
        return None
