"""Executes the notebooks: `python notebooks/build.py [NAME...]` writes each pair, `-o FOLDER` puts them elsewhere.

`--set RUN=runs/mine -o FOLDER` executes them with parameters of your own: a Python literal, a path from here, or a text.
"""

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbclient
import nbformat

from cotlens.files import write_atomic

HERE = Path(__file__).parent


def execute(source: Path, settings: Sequence[str] = ()) -> nbformat.NotebookNode:
    """The notebook of a percent-format source, executed top to bottom in its own folder.

    Args:
        source: the .py.
        settings: NAME=VALUE, in place of what its cell of parameters says.
    """
    notebook = jupytext.read(source)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    for setting in settings:
        name, _, value = setting.partition("=")
        if f"\n{name} = " not in f"\n{cell.source}":
            raise SystemExit(
                f"{source.name} has no parameter {name}; its parameters:\n{cell.source}"
            )
        cell.source += f"\n{name} = {_literal(value)!r}"
    # The kernel is this machine's own: that its messages are not encrypted is no news.
    options = {
        "extra_arguments": ["--log-level=ERROR"],
        "resources": {"metadata": {"path": str(HERE)}},
    }
    nbclient.NotebookClient(notebook, timeout=600, **options).execute()
    return notebook


def _literal(value: str) -> object:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return str(Path(value).resolve()) if Path(value).exists() else value


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drops what changes from one execution to the next."""
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "jupytext": notebook.metadata["jupytext"],
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("-o", "--out", type=Path, default=HERE)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter; may be repeated",
    )
    given = parser.parse_args()
    if given.set and given.out.resolve() == HERE.resolve():
        parser.error("--set needs a folder of your own: -o FOLDER")
    for name in given.names or sorted(path.stem for path in HERE.glob("[0-9]*.py")):
        executed = execute(HERE / f"{name}.py", given.set)
        tidy(executed)
        write_atomic(given.out / f"{name}.ipynb", nbformat.writes(executed) + "\n")
        print(given.out / f"{name}.ipynb")
