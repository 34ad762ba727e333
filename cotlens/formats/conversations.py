"""Files whose rows are the messages of one conversation: the context of kimi-cli, and its like."""

from collections.abc import Iterable, Iterator
from itertools import chain

from cotlens.formats.row import BadRow, Row
from cotlens.trace import TraceError

MAX_CONVERSATION = 2**28  # characters of all its messages, which are in memory together

Numbered = Iterable[tuple[int, Row | BadRow]]


def joined_messages(rows: Numbered) -> Iterator[tuple[int, Row | BadRow]]:
    """The rows; where they are the messages of one conversation, that conversation as one row.

    They are if the first row is a message that is no completion: of a user, a system prompt, or a
    mark of kimi-cli (`_checkpoint`, `_usage`), which the row keeps as `marks`. A file that begins
    with an assistant's message is a list of completions, and stays as it is.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    if not _begins_conversation(first[1]):
        yield first
        yield from rows
        return

    # All rows, so that the conversation is whole; a row that is no message is reported.
    messages = []
    marks = []
    n_chars = 0
    for number, row in chain([first], rows):
        if isinstance(row, BadRow):
            yield number, row
        elif not isinstance(row.get("role"), str):
            fields = ", ".join(map(str, row)) or "none"
            reason = (
                "the file is read as the messages of one conversation, one a row, but this row has "
                f"no role; its fields are {fields}"
            )
            yield number, BadRow(reason, "")
        else:
            n_chars += len(str(row))
            if n_chars > MAX_CONVERSATION:
                raise TraceError(
                    "the file is read as one conversation, of which it has more than "
                    f"{MAX_CONVERSATION / 2**20:.0f} MiB; split it"
                )
            (marks if row["role"].startswith("_") else messages).append(dict(row))

    conversation = {"messages": messages}
    yield first[0], conversation | ({"marks": marks} if marks else {})


_BEGINS = ("user", "human", "system", "developer")


def _begins_conversation(row: Row | BadRow) -> bool:
    if isinstance(row, BadRow) or not isinstance(row.get("role"), str):
        return False
    # Next to a text or a prompt of its own, a role says something else.
    if any(name in row for name in ("messages", "prompt", "completion", "response", "output")):
        return False
    return row["role"] in _BEGINS or row["role"].startswith("_")
