"""A row of any container, and what stands in the place of one that cannot be read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class BadRow(NamedTuple):
    """A line that is not a JSON object: passed on so that reading can continue after it."""

    reason: str
    text: str


def too_long(size: int, limit: int, what: str) -> BadRow:
    """What stands for a row of more bytes than allowed."""
    got = size / 2**20
    allowed = limit / 2**20
    return BadRow(
        f"the {what} has {got:.0f} MiB, more than the {allowed:.0f} MiB allowed (--max-line-mb); "
        "split it, or raise the limit",
        "",
    )
