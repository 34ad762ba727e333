"""Rows that come in on stdin, which `-` stands for; other pipes and devices are refused.

A file of rows is read more than once: for its format, its hash, its rows. What comes in on stdin is
therefore written to a temporary file first, whole, and every pass reads that.
"""

import shutil
import stat
import sys
from pathlib import Path

from cotlens.files import temporary_folder
from cotlens.trace import TraceError

STDIN = "-"
_COPY_BYTES = 2**20

# The temporary files of this process that hold what came in on stdin.
_spooled: set[Path] = set()


def spool_stdin() -> Path:
    """A temporary file of all that comes in on stdin; it is removed when the process ends.

    Raises:
        TraceError: if stdin is closed, or nothing comes in.
    """
    if sys.stdin is None:
        raise TraceError(f"{STDIN}: stdin is closed; give a file instead")

    path = temporary_folder() / "stdin"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, _COPY_BYTES)
    if not path.stat().st_size:
        raise TraceError(f"{STDIN}: nothing came in on stdin")
    _spooled.add(path)
    return path


def shown_path(path: Path) -> str:
    """A path as the user gave it: `-` for what came in on stdin."""
    return STDIN if path in _spooled else str(path)


def check_regular(path: Path) -> None:
    """Raise TraceError for a pipe, a device or a socket, which cannot be read twice.

    A path that is missing passes: whoever opens it says so.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return

    # A redirected file has this name too, and another one at the next call.
    is_stdin = str(path) == "/dev/stdin"
    if not is_stdin and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return
    raise TraceError(
        f"{path}: {_kind_of(mode)}, which cannot be read twice; give a file or a folder, or - and "
        "the rows on stdin"
    )


def _kind_of(mode: int) -> str:
    """What a path is that is neither a file nor a folder."""
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device or a stream"
