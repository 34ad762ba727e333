"""Tables as csv that no spreadsheet runs: a text that would be a formula gets an apostrophe first.

Names of models, domains and fields are written by strangers, and a cell that begins with `=` is
run when the file is opened. Numbers stay numbers.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_RUNS = ("=", "+", "-", "@", "\t", "\r")
_GUARD = "'"


def to_csv(table: "pd.DataFrame", **options: Any) -> str:
    """The table as csv, without its index.

    Args:
        table: its texts may be anything.
        **options: of `DataFrame.to_csv`.
    """
    guarded = table.rename(columns=guard)
    for place, kind in enumerate(table.dtypes):
        if kind.kind in "biufcM":
            continue
        column = guarded.iloc[:, place].astype(object)
        guarded = guarded.assign(**{str(guarded.columns[place]): column.map(guard)})
    return guarded.to_csv(index=False, lineterminator="\n", **options)


def read_csv(path: str | Path, **options: Any) -> "pd.DataFrame":
    """The table that `to_csv` wrote, with its texts as they were.

    Args:
        path: the file.
        **options: of `pandas.read_csv`.
    """
    import pandas as pd

    table = pd.read_csv(path, **options)
    for place, kind in enumerate(table.dtypes):
        if kind.kind not in "biufcM":
            name = table.columns[place]
            table[name] = table[name].map(unguard)
    return table.rename(columns=unguard)


def guard(cell: Any) -> Any:
    """A text with an apostrophe first if it would be run, or has one before such a sign already.

    >>> guard("=1+1"), guard("-"), guard(-1.5), guard("'=x")
    ("'=1+1", "'-", -1.5, "''=x")
    """
    if isinstance(cell, str) and cell.lstrip(_GUARD).startswith(_RUNS):
        return _GUARD + cell
    return cell


def unguard(cell: Any) -> Any:
    """What `guard` was given."""
    if isinstance(cell, str) and cell.startswith(_GUARD) and cell.lstrip(_GUARD).startswith(_RUNS):
        return cell[1:]
    return cell
