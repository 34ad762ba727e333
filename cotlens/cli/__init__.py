"""The `cotlens` command: each command checks its options, then calls one function of the library.

common       options that several commands share, the progress bar, remarks on stderr
traces       generate, analyze, info, export
models       score, guard
demo         demo
probe        probe continuation, intervene, prefill, hijack, early, hidden
results      figures, view, compare

A command imports the library in its body, so that `cotlens --help` loads no pandas or torch.

Exit codes: 0 done; 1 a fault of the input, in one line on stderr; 2 a fault of the command line;
130 interrupted: run the same command again to resume.
"""

from typing import Annotated

from typer import Exit, Option, Typer

from cotlens import __version__
from cotlens.cli.common import remark, show
from cotlens.cli.demo import demo
from cotlens.cli.models import guard, score
from cotlens.cli.probe import probe_app
from cotlens.cli.results import compare, figures, view
from cotlens.cli.traces import analyze, export, generate, info
from cotlens.trace import TraceError

app = Typer(
    help="Dynamics of chain-of-thought: split reasoning traces, cut them into steps, and draw what "
    "they show.",
    epilog="Start with: cotlens demo; or cotlens info FILE, then cotlens analyze FILE -o RUN, "
    "then cotlens figures RUN -o figures",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# In the order in which the help lists them.
for _command in (demo, generate, analyze, score, guard, figures, view, compare, info, export):
    app.command()(_command)
app.add_typer(probe_app, name="probe")


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        show(__version__)
        raise Exit


def main() -> None:
    """Run the command; a fault of the input becomes one line on stderr and exit code 1."""
    try:
        app()

    # An OSError is a full disk, say, or a folder that may not be written.
    except (TraceError, OSError) as error:
        remark(f"cotlens: {error}")
        raise SystemExit(1) from None

    # typer turns an interrupt into exit code 130.
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        remark("cotlens: interrupted; run the same command again to resume")
        raise SystemExit(130) from None
