"""Every notebook runs top to bottom, agrees with its executed pair, and holds no code that belongs in the library."""

import ast
import json
import sys

import pytest
from places import ROOT
from tiny import byte_tokenizer, tiny_model

from cotlens import analyze, score
from cotlens.models.load import wrap_model
from cotlens.studies.collect import compare_runs

jupytext = pytest.importorskip("jupytext")
sys.path.insert(0, str(ROOT / "notebooks"))
from build import execute  # noqa: E402

SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # the kernel client's own
def test_notebook(source):
    pair = source.with_suffix(".ipynb")
    notebook, written = execute(source), jupytext.read(pair)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in written.cells], (
        "run notebooks/build.py"
    )
    assert pair.stat().st_size < 300_000
    for ran, kept in zip(notebook.cells, written.cells, strict=True):
        texts = [
            [output.get("data", {}).get("text/plain") for output in cell.get("outputs", [])]
            for cell in (ran, kept)
        ]
        if ran.cell_type == "code" and "Figure" not in str(
            texts
        ):  # a figure's text is its address in memory
            assert texts[0] == texts[1]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 12
    assert "parameters" in code[0].metadata.get("tags", [])
    tree = ast.parse("\n".join(cell.source for cell in code))
    assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(tree))


OWN = {
    "id": "mine",
    "prompt": "2+2?",
    "completion": "<think>\nLet me see. 2 plus 2 makes 4. Wait, is that right? Let me check. 1 + 1 = 2. So it is 4.\n</think>\n\n4",
}


@pytest.fixture
def own(tmp_path):
    """A file of one trace: no model, no domain, no reference."""
    (tmp_path / "own.jsonl").write_text(json.dumps(OWN) + "\n")
    return tmp_path / "own.jsonl"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("00_quickstart", "Let me see"),
        ("01_reflection", "one group: nothing to compare"),
        ("02_token_entropy", "one run: nothing to compare"),
        ("03_unsafe_exploration", "nobody has judged the answers"),
        ("04_safety_and_reasoning", "the study has nothing that this compares"),
        ("06_your_own_traces", "plain"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_traces_of_ones_own_need_one_parameter(name, said, own, tmp_path):
    """One trace, that nobody has judged: what cannot be shown is said, and the rest is drawn. As `build.py --set`."""
    run = analyze([own], tmp_path / "run")
    if name == "02_token_entropy":
        tokenizer = byte_tokenizer()
        score(
            run,
            wrap_model(
                tiny_model(len(tokenizer), max_position_embeddings=4096), tokenizer, name="tiny"
            ),
        )
    if name == "04_safety_and_reasoning":
        compare_runs([run, analyze([own], tmp_path / "base")], tmp_path / "study")
    path = ROOT / "notebooks" / f"{name}.py"
    values = {
        "TRACES": own,
        "FILE": own,
        "RUN": run.path,
        "RUNS": [str(run.path)],
        "STUDY": tmp_path / "study",
    }
    given = [
        f"{parameter}={value}"
        for parameter, value in values.items()
        if f"\n{parameter} = " in path.read_text()
    ]
    notebook = execute(path, given)
    assert said in str([cell.get("outputs") for cell in notebook.cells])


def test_there_are_notebooks():
    assert SOURCES


def test_a_parameter_that_a_notebook_does_not_have_is_refused():
    with pytest.raises(SystemExit, match="has no parameter RUN; its parameters"):
        execute(ROOT / "notebooks" / "00_quickstart.py", ["RUN=x"])
