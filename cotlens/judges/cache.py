"""Verdicts on disk, keyed by the hash of everything they depend on."""

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from cotlens.judges.verdict import Verdict, checked
from cotlens.trace import TraceError

_KEYS_PER_QUERY = 500  # SQLite limits the parameters of one query


def hash_of(*parts: str) -> str:
    """Return the SHA-256 of texts, each with its length: no two lists of texts have the same."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        length = f"{len(data)}:"
        digest.update(length.encode() + data)
    return digest.hexdigest()


class Cache:
    """Verdicts in an SQLite file, by the judge's identity and what it read.

    A job that was killed asks for nothing twice.

    Raises:
        TraceError: if the file is not such a cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

        with self._open() as database:
            database.execute(
                "create table if not exists verdicts (key text primary key, verdict text not null)"
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction."""
        # `closing` closes the connection; the connection itself commits, or rolls back on an error.
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.OperationalError as error:
            # A full disk, a lock, a folder that may not be written: what was paid for is there.
            raise TraceError(
                f"{self.path}: {error}; the verdicts in it are kept: make room, or wait, and call "
                "the command again"
            ) from None
        except sqlite3.DatabaseError as error:
            raise TraceError(
                f"{self.path}: not a cache of verdicts, or a damaged one ({error}); move it away "
                "or name another"
            ) from None

    def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """Return the verdicts that are there and can be read."""
        verdicts = {}
        with self._open() as database:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                batch = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(batch))
                query = f"select key, verdict from verdicts where key in ({marks})"

                # A verdict that cannot be read is asked for again.
                for key, stored in database.execute(query, batch):
                    verdict = _load_verdict(stored)
                    if verdict:
                        verdicts[key] = verdict
        return verdicts

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Write verdicts, all or none."""
        rows = []
        for key, verdict in verdicts.items():
            fields = verdict._asdict()
            # JSON has no NaN: null stands for it.
            if math.isnan(verdict.p_unsafe):
                fields["p_unsafe"] = None
            rows.append((key, json.dumps(fields)))

        with self._open() as database:
            database.executemany("insert or replace into verdicts values (?, ?)", rows)


def _load_verdict(stored: str) -> Verdict | None:
    """Return a stored verdict; None if it is damaged or of another version."""
    try:
        fields = json.loads(stored)
        fields["categories"] = tuple(fields["categories"])
        if fields["p_unsafe"] is None:
            fields["p_unsafe"] = math.nan
        return checked(Verdict(**fields))
    except (ValueError, TypeError, KeyError):
        return None
