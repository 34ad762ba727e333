"""Every notebook runs top to bottom, agrees with its executed pair, and holds no code that belongs in the library."""

import ast
import sys

import pytest
from conftest import ROOT

jupytext = pytest.importorskip("jupytext")
sys.path.insert(0, str(ROOT / "notebooks"))
from build import execute  # noqa: E402

SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # the kernel client's own
def test_notebook(source):
    pair = source.with_suffix(".ipynb")
    notebook, written = execute(source), jupytext.read(pair)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in written.cells], "run notebooks/build.py"
    assert pair.stat().st_size < 300_000
    for ran, kept in zip(notebook.cells, written.cells, strict=True):
        texts = [
            [output.get("data", {}).get("text/plain") for output in cell.get("outputs", [])] for cell in (ran, kept)
        ]
        if ran.cell_type == "code" and "Figure" not in str(texts):  # a figure's text is its address in memory
            assert texts[0] == texts[1]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 12
    assert "parameters" in code[0].metadata.get("tags", [])
    tree = ast.parse("\n".join(cell.source for cell in code))
    assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(tree))


def test_there_are_notebooks():
    assert SOURCES


def test_parameters_of_ones_own(tmp_path):
    """As `build.py --set`: a literal, a path from here, a text; and no name that the notebook does not have."""
    source = next(path for path in SOURCES if path.stem == "00_quickstart")
    own = tmp_path / "own.jsonl"
    own.write_text(
        '{"id": "mine", "prompt": "2+2?", "completion": "<think>\\nLet me see. It is 4.\\n</think>\\n\\n4"}\n'
    )
    notebook = execute(source, [f"TRACES={own}", "TRACE_ID=mine"])
    assert "Let me see" in str([cell.get("outputs") for cell in notebook.cells])
    with pytest.raises(SystemExit, match="has no parameter RUN; its parameters"):
        execute(source, ["RUN=x"])
