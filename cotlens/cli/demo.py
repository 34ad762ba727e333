"""demo: what cotlens makes of two checkpoints, from data that comes with it."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

from typer import Option

from cotlens.cli.common import remark, show
from cotlens.trace import TraceError

ARMS = ("base", "grpo")
SHOWN = ("reflection/rate", "entropy/position", "judges/thinking_by_answer")

DemoOption = Annotated[Path, Option("--out", "-o", help="Folder for runs, page and figures.")]
OpenOption = Annotated[bool, Option("--open/--no-open", help="Open the page in the browser.")]


def demo(out: DemoOption = Path("cotlens-demo"), opens: OpenOption = True) -> None:
    """Show two small checkpoints side by side, and three figures of them.

    The traces are a base model's and its RL checkpoint's, from an invented world in which the truth
    of every sentence is known. Nothing is downloaded and no model is loaded.
    """
    from cotlens.plots.of_runs import draw_figures
    from cotlens.view.page import view_run

    runs = copy_runs(out)
    show(f"two runs: {runs[0]} (a base model) and {runs[1]} (the same after GRPO)")

    page = out / "page.html"
    view_run(runs[0], beside=runs[1], judge="oracle").save(page)
    show(f"page: {page}")

    remark("drawing three figures")
    figures = out / "figures"
    draw_figures(runs, figures, judge="oracle", only=SHOWN, say=lambda _: None)
    for name in SHOWN:
        show(f"figure: {figures / name}.png")
    show("of your own traces: cotlens analyze FILE -o RUN; cotlens view RUN; cotlens figures RUN")
    if opens:
        open_page(page)


def copy_runs(out: Path) -> list[Path]:
    """Copies the runs that come with the package; those of an earlier call are replaced.

    Raises:
        TraceError: if the folder holds something else.
    """
    known = {*ARMS, "page.html", "figures"}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= known):
        raise TraceError(f"{out}: holds something other than a demo; name another folder with -o")

    runs = []
    with as_file(files("cotlens.cli") / "demo_data") as data:
        for arm in ARMS:
            shutil.rmtree(out / arm, ignore_errors=True)
            shutil.copytree(data / arm, out / arm)
            runs.append(out / arm)
    return runs


def open_page(page: Path) -> None:
    """Opens a page where there is a browser; else its path has been printed."""
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        return
    webbrowser.open(page.resolve().as_uri())
