"""Executes the notebooks: `python notebooks/build.py [NAME...]` writes each pair, `-o FOLDER` puts them elsewhere."""

import argparse
from pathlib import Path

import jupytext
import nbclient
import nbformat

HERE = Path(__file__).parent


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a percent-format source, executed top to bottom in its own folder."""
    notebook = jupytext.read(source)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drops what changes from one execution to the next."""
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "jupytext": notebook.metadata["jupytext"]}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("-o", "--out", type=Path, default=HERE)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or sorted(path.stem for path in HERE.glob("[0-9]*.py")):
        executed = execute(HERE / f"{name}.py")
        tidy(executed)
        nbformat.write(executed, given.out / f"{name}.ipynb")
        print(given.out / f"{name}.ipynb")
